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

from fnn._core.errors import InputError, describe, entry
from fnn._core.tree import combine, inexact_leaves
from fnn._core.types import Array, PyTree
from fnn.gradient.numeric import with_doubt
from fnn.lab.comparison import GradientError, Report, agreements, largest, leafwise
from fnn.lab.tolerance import difference, rounding
from fnn.layer import Layer


@entry
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
    dparams apart; the output of `forward` against that of `apply` too. `x` (B, ...) is an array, or
    what else the layer takes, best of random numbers; its values are used. `place` is ``(params,
    state)``; without it they are drawn, away from their initial values. `key` seeds all that is
    random. Switch `numeric` off at a kink, where differences see both sides, and for a gradient
    that is meant to be no derivative.

    Returns the table; raises `GradientError`, an `AssertionError` that holds it, when a leaf
    disagrees: with leaf, index, both values, their ratio, and a guess at the mistake, such as
    'sign', 'factor 2', 'transposed' or 'missing mean over batch'. A test of a layer is one line:
    ``def test_swish(): fnn.check_layer(swish(), x)``. Raises `fnn.InputError` for what is no layer.

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
    ...     print("guess: factor 0.5" in str(error))
    True
    """
    if not isinstance(layer, Layer):
        raise InputError("a layer", describe(layer), "call the constructor, as in fnn.relu()")
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
    bound = rounding(jnp.float64, terms)
    floats: list[Any] = jax.tree.leaves(inexact_leaves(jax.tree.map(np.asarray, x)))
    shape = floats[0].shape if floats else ()
    rows = agreements(by_hand, found.auto, "auto", bound, shape)
    if numeric:
        slopes, doubts = found.numeric
        doubt = largest(doubts) / (largest(slopes) or 1.0)
        rows += agreements(by_hand, slopes, "numeric", difference(jnp.float64, terms, doubt), shape)
    y, applied = {"y": inexact_leaves(found.y)}, {"y": found.applied}
    return Report((*rows, *leafwise(y, applied, "apply", bound)))


class Gradients(NamedTuple):
    """What a layer gives in float64: its outputs, and ``(dparams, dx)`` in three ways.

    `y` and `state` are those of forward, `applied` is the y of apply. `numeric` is a pair, the
    differences and their doubt, or None. `terms` is the number of terms in the longest sum: none is
    longer than the largest array.
    """

    y: Any
    state: PyTree
    manual: Any
    auto: Any
    numeric: Any
    terms: Any
    applied: Any


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
        y, _ = layer.apply(params, state, combine(floats, x), key=run_key, train=train)
        return inexact_leaves(y)

    floats_of_y, pull_back = jax.vjp(apply, params, inexact_leaves(x))
    dy = normal_like(dy_key, floats_of_y)
    y, new_state, residuals = layer.forward(params, state, x, key=run_key, train=train)
    by_hand = layer.backward(params, residuals, dy)
    differences = None
    if numeric:
        flat, unravel = ravel_pytree((params, inexact_leaves(x)))

        def objective(flat: Array) -> Array:
            products = jax.tree.map(jnp.vdot, apply(*unravel(flat)), dy)
            return sum(jax.tree.leaves(products), jnp.float64(0))

        slopes, doubts = with_doubt(objective, flat, jnp.arange(flat.size))
        differences = unravel(slopes), unravel(doubts)
    terms = max(leaf.size for leaf in jax.tree.leaves((params, x, y)))
    return Gradients(y, new_state, by_hand, pull_back(dy), differences, terms, floats_of_y)


def moved_place(layer: Layer, x: Any, key: Array) -> tuple[PyTree, PyTree]:
    """Draw parameters and state away from where they start: initial values hide mistakes."""
    init_key, params_key, state_key = jax.random.split(key, 3)
    params, state = layer.init(init_key, x)
    # The absolute value, since a variance is never negative.
    return moved(params_key, params), jax.tree.map(jnp.abs, moved(state_key, state))


def _widened(a: Any) -> Any:
    a = np.asarray(a)
    return jnp.asarray(a, jnp.float64 if jnp.issubdtype(a.dtype, jnp.floating) else a.dtype)


def moved(key: Array, tree: PyTree) -> PyTree:
    """Move every floating number of a tree off its place, at random."""
    noise = normal_like(key, inexact_leaves(tree))
    return combine(jax.tree.map(lambda a, n: a + 0.3 * n, inexact_leaves(tree), noise), tree)


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
