"""The gradient checker: `backward` must be the vector-Jacobian product of `apply`."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from fnn.gradient.numeric import with_doubt
from fnn.gradient.tolerance import difference, rounding
from fnn.layer import Array, Layer, PyTree, floating, merged
from fnn.table import table


class Agreement(NamedTuple):
    """How well two gradients of one leaf agree, and where they differ most.

    `error` is the largest difference over the largest number of the whole gradient tree: a leaf
    that is zero by symmetry, such as a bias in front of a batch norm, has no scale of its own.
    """

    leaf: str
    against: str
    error: float
    bound: float
    place: tuple[int, ...]
    value: float
    reference: float

    @property
    def ratio(self) -> float:
        """The value over its reference: -1 tells a sign, 2 a factor."""
        return self.value / self.reference if self.reference else float("nan")

    @property
    def agrees(self) -> bool:
        """Whether the error is within the bound; a NaN is not."""
        return self.error <= self.bound


class Report(NamedTuple):
    """Agreements of every leaf; prints as a table."""

    rows: tuple[Agreement, ...]

    @property
    def agrees(self) -> bool:
        """Whether all leaves agree."""
        return all(row.agrees for row in self.rows)

    def __str__(self) -> str:
        cells = [
            (
                row.leaf,
                row.against,
                f"{row.error:.1e}",
                f"{row.bound:.1e}",
                "yes" if row.agrees else "NO",
            )
            for row in self.rows
        ]
        wrong = [
            f"{row.leaf} is {row.value:.4g} at {list(row.place)}, and {row.reference:.4g} by"
            f" {row.against}: ratio {row.ratio:.4g}"
            for row in self.rows
            if not row.agrees
        ]
        header = ("leaf", "manual against", "error", "bound", "agrees")
        return "\n".join([table(header, cells), *wrong])


class GradientError(AssertionError):
    """A hand-derived gradient that is not the derivative; the message is the checker's table."""


def check_layer(
    layer: Layer,
    x: Any,
    *,
    place: tuple[PyTree, PyTree] | None = None,
    key: Array | None = None,
    train: bool = True,
    numeric: bool = True,
) -> Report:
    """Check a layer's `backward` against `jax.vjp` and central differences of its `apply`.

    In float64 and at the highest matmul precision, for a random cotangent, for dx and each leaf of
    dparams apart. `x` (B, ...) is an array, or what else the layer takes, best of random numbers;
    its values are used. `place` is ``(params, state)``; without it they are drawn, away from their
    initial values. `key` seeds all that is random. Switch `numeric` off at a kink, where
    differences see both sides, and for a rule that is meant to be no derivative.

    Returns the table; raises `GradientError`, an `AssertionError` that holds it, when a leaf
    disagrees.

    >>> import fnn, jax
    >>> x = jax.random.normal(jax.random.key(1), (5, 3))
    >>> check_layer(fnn.dense(2), x).agrees
    True
    >>> wrong = fnn.stateless(
    ...     lambda key, x: (), lambda p, x: (x**2, x), lambda p, x, dy: ((), x * dy)
    ... )
    >>> try:
    ...     check_layer(wrong, x)
    ... except fnn.GradientError as error:
    ...     print("ratio 0.5" in str(error))
    True
    """
    report = compare_layer(layer, x, place=place, key=key, train=train, numeric=numeric)
    if not report.agrees:
        raise GradientError(f"the backward of {layer} is not the derivative of its apply\n{report}")
    return report


def compare_layer(
    layer: Layer,
    x: Any,
    *,
    place: tuple[PyTree, PyTree] | None = None,
    key: Array | None = None,
    train: bool = True,
    numeric: bool = True,
) -> Report:
    """Return the report of `check_layer`, whatever it says."""
    found = gradients(layer, x, place=place, key=key, train=train, numeric=numeric)
    by_hand, terms = found.manual, int(found.terms)
    rows = agreements(by_hand, found.auto, "auto", rounding(jnp.float64, terms))
    if numeric:
        slopes, doubts = found.numeric
        doubt = largest(doubts) / (largest(slopes) or 1.0)
        bound = difference(jnp.float64, terms, doubt)
        rows += agreements(by_hand, slopes, "numeric", bound)
    return Report(tuple(rows))


class Gradients(NamedTuple):
    """What a layer gives in float64: its outputs, and ``(dparams, dx)`` in three ways.

    `numeric` is a pair, the differences and their doubt, or None. `terms` is the number of terms in
    the longest sum: none is longer than the largest array.
    """

    y: Any
    state: PyTree
    manual: Any
    auto: Any
    numeric: Any
    terms: Any


def gradients(
    layer: Layer,
    x: Any,
    *,
    place: tuple[PyTree, PyTree] | None = None,
    key: Array | None = None,
    train: bool = True,
    numeric: bool = True,
) -> Gradients:
    """Compute what `check_layer` compares."""
    key = jax.random.key(0) if key is None else key
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        x, place = jax.tree.map(_widened, (x, place))
        return _gradients(layer, train, numeric, x, place, key)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _gradients(
    layer: Layer, train: bool, numeric: bool, x: Any, place: Any, key: Array
) -> Gradients:
    place_key, dy_key, run_key = jax.random.split(key, 3)
    params, state = moved_place(layer, x, place_key) if place is None else place

    def apply(params: PyTree, floats: Any) -> Any:
        y, _ = layer.apply(params, state, merged(floats, x), key=run_key, train=train)
        return floating(y)

    floats, pull_back = jax.vjp(apply, params, floating(x))
    dy = normal_like(dy_key, floats)
    y, new_state, residuals = layer.forward(params, state, x, key=run_key, train=train)
    by_hand = layer.backward(params, residuals, dy)
    differences = None
    if numeric:
        flat, unravel = ravel_pytree((params, floating(x)))

        def objective(flat: Array) -> Array:
            products = jax.tree.map(jnp.vdot, apply(*unravel(flat)), dy)
            return sum(jax.tree.leaves(products), jnp.float64(0))

        slopes, doubts = with_doubt(objective, flat, jnp.arange(flat.size))
        differences = unravel(slopes), unravel(doubts)
    terms = max(leaf.size for leaf in jax.tree.leaves((params, x, y)))
    return Gradients(y, new_state, by_hand, pull_back(dy), differences, terms)


def moved_place(layer: Layer, x: Any, key: Array) -> tuple[PyTree, PyTree]:
    """Draw parameters and state away from where they start: initial values hide mistakes."""
    init_key, params_key, state_key = jax.random.split(key, 3)
    params, state = layer.init(init_key, x)
    # The absolute value, since a variance is never negative.
    return moved(params_key, params), jax.tree.map(jnp.abs, moved(state_key, state))


def agreements(gradient: Any, reference: Any, against: str, bound: float) -> list[Agreement]:
    """Compare ``(dparams, dx)`` with a reference, leaf by leaf, in float64."""
    named = jax.tree.leaves_with_path({"dparams": gradient[0], "dx": gradient[1]})
    right = jax.tree.leaves({"dparams": reference[0], "dx": reference[1]})
    if len(named) != len(right):
        raise GradientError(
            f"backward returned {jax.tree.structure(gradient)}, and the gradient has the structure "
            f"{jax.tree.structure(reference)}"
        )
    scale = largest(right)
    rows = []
    for (path, leaf), other in zip(named, right, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        rows.append(_agreement(name, against, bound, scale, leaf, other))
    return rows


def _agreement(
    leaf: str, against: str, bound: float, scale: float, value: Any, reference: Any
) -> Agreement:
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    if value.shape != reference.shape:
        raise GradientError(f"{leaf} has shape {value.shape}, and should have {reference.shape}")
    apart = np.abs(value - reference)
    if not apart.size:
        return Agreement(leaf, against, 0.0, bound, (), 0.0, 0.0)
    # argmax takes the first NaN for the largest number, which is what should be shown.
    index = np.unravel_index(int(apart.argmax()), apart.shape)
    place = tuple(int(i) for i in index)
    # A gradient that is zero throughout has no scale: then the error is absolute.
    error = float(apart[place]) / (scale or 1.0)
    return Agreement(
        leaf, against, error, bound, place, float(value[place]), float(reference[place])
    )


def _widened(a: Any) -> Any:
    a = np.asarray(a)
    return jnp.asarray(a, jnp.float64 if jnp.issubdtype(a.dtype, jnp.floating) else a.dtype)


def largest(tree: PyTree) -> float:
    """Return the largest absolute value of all numbers of a tree, 0 for none."""
    return max((float(np.abs(leaf).max(initial=0)) for leaf in jax.tree.leaves(tree)), default=0.0)


def moved(key: Array, tree: PyTree) -> PyTree:
    """Move every floating number of a tree off its place, at random."""
    noise = normal_like(key, floating(tree))
    return merged(jax.tree.map(lambda a, n: a + 0.3 * n, floating(tree), noise), tree)


def normal_like(key: Array, tree: PyTree) -> PyTree:
    """Return a tree of independent normal numbers in the shapes and dtypes of another."""
    leaves, structure = jax.tree.flatten(tree)
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    # One draw for all: every draw is a large piece of program, and takes its time to compile.
    pairs = jax.random.normal(key, (-(-sum(sizes) // 2), 2), jnp.float32)
    # A compiler that sees them used twice may draw them twice, and round them otherwise the second
    # time. It does not take a matrix product apart, even one that changes nothing.
    drawn = jnp.matmul(pairs, jnp.eye(2, dtype=jnp.float32), precision=jax.lax.Precision.HIGHEST)
    pieces = jnp.split(drawn.ravel()[: sum(sizes)], list(itertools.accumulate(sizes))[:-1])
    shaped = [
        piece.reshape(leaf.shape).astype(leaf.dtype)
        for piece, leaf in zip(pieces, leaves, strict=False)
    ]
    return jax.tree.unflatten(structure, shaped)
