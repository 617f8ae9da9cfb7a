"""The gradient checker: `backward` must be the vector-Jacobian product of `apply`."""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from fnn._core import check
from fnn._core.arrays import require_arrays
from fnn._core.errors import InputError, describe, entry
from fnn._core.place import check_like
from fnn._core.tree import combine, inexact_leaves
from fnn._core.types import (
    Array,
    Grads,
    Input,
    Output,
    Params,
    PyTree,
    Residuals,
    State,
    Unchecked,
)
from fnn.gradient.numeric import with_doubt
from fnn.lab.agreement import GradientError, Report, agreements, largest, leafwise
from fnn.lab.tolerance import difference, rounding
from fnn.layer import Layer, require_layer
from fnn.train.precision import narrowest


@entry
def check_layer(
    layer: Layer,
    x: Input,
    *,
    params: Params = None,
    state: State = None,
    seed: int = 0,
    train: bool = True,
    numeric: bool = True,
) -> Report:
    """Check a layer's `backward` against `jax.vjp` and central differences of its `apply`.

    In float64 and at the highest matmul precision, for a random cotangent, for dx and each leaf of
    dparams apart, structures first; the output of `forward` against that of `apply` too. Returns
    the table. A test of a layer is one line:
    ``def test_swish(): fnn.check_layer(swish(), x)``. A layer in `fnn.mixed_precision` is judged
    as it computes, in half precision: by `jax.vjp` alone, and by what such numbers can tell, which
    for sums of hundreds of terms is little.

    Args:
        layer: any layer or model.
        x: an example input (B, ...), array or pytree. Use random values: they are evaluated, not
            only their shapes.
        params: the parameters to check at; None draws them, away from their initial values.
        state: the state to check at; None draws it likewise.
        seed: what all that is random comes from: parameters, cotangent, dropout.
        train: whether to check in training mode.
        numeric: whether to compare with differences too. Switch it off at a kink, where they see
            both sides, and for a gradient that is meant to be no derivative.
    Raises:    GradientError, an AssertionError that holds the table, where a leaf disagrees: it
        names leaf, index, both values, their ratio, and guesses at the mistake, such as 'sign',
        'factor 2', 'transposed' or 'missing mean over batch'. InputError for what is no layer, for
        an x that is no array, and for parameters or state of another
        layer.

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
    require_layer(layer)
    report = compare_layer(
        layer, x, params=params, state=state, seed=seed, train=train, numeric=numeric
    )
    if not report.agrees:
        raise GradientError(f"the backward of {layer} is not the derivative of its apply\n{report}")
    return report


def compare_layer(
    layer: Layer,
    x: Input,
    *,
    params: Params = None,
    state: State = None,
    seed: int = 0,
    train: bool = True,
    numeric: bool = True,
) -> Report:
    """Return the report of `check_layer`, whatever it says.

    Args:
        layer: any layer or model.
        x: an example input (B, ...), an array or a tree of arrays.
        params: the parameters to differentiate at; None draws them.
        state: the state to differentiate at; None draws it.
        seed: what all that is random comes from, an int of 0 or more.
        train: whether the layer runs in training mode.
        numeric: whether differences are taken too.
    """
    check.flag(numeric, "numeric")
    dtype = narrowest(layer, jnp.float64)
    # A step small enough for a difference is one that half precision does not see.
    numeric = numeric and dtype == jnp.float64
    found = gradients(layer, x, params=params, state=state, seed=seed, train=train, numeric=numeric)
    by_hand, terms = found.manual, int(found.terms)
    bound = rounding(dtype, terms)
    floats: list[Array] = jax.tree.leaves(inexact_leaves(x))
    shape = tuple(floats[0].shape) if floats else ()
    rows = agreements(by_hand, found.auto, "auto", bound, shape)
    if found.numeric is not None:
        slopes, doubts = found.numeric
        doubt = largest(doubts) / (largest(slopes) or 1.0)
        rows += agreements(by_hand, slopes, "numeric", difference(jnp.float64, terms, doubt), shape)
    for i, (name, value) in enumerate((("y", found.y), ("state", found.state))):
        ours, applied = {name: inexact_leaves(value)}, {name: found.applied[i]}
        rows += leafwise(ours, applied, "apply", bound)
    return Report(tuple(rows))


class Gradients(NamedTuple):
    """What a layer gives in float64: its outputs, and ``(dparams, dx)`` in three ways.

    `y` and `state` are those of forward, `applied` are those of apply. `numeric` is a pair, the
    differences and their doubt, or None. `terms` is the number of terms in the longest sum: none is
    longer than the largest array.
    """

    y: Output
    state: State
    manual: Grads
    auto: Grads
    numeric: tuple[Grads, Grads] | None
    terms: int
    applied: tuple[Output, State]


def gradients(
    layer: Layer,
    x: Input,
    *,
    params: Params = None,
    state: State = None,
    seed: int = 0,
    train: bool = True,
    numeric: bool = True,
) -> Gradients:
    """Compute what `check_layer` compares.

    Args:
        layer: any layer or model.
        x: an example input (B, ...), an array or a tree of arrays.
        params: the parameters to differentiate at; None draws them.
        state: the state to differentiate at; None draws it.
        seed: what all that is random comes from, an int of 0 or more.
        train: whether the layer runs in training mode.
        numeric: whether differences are taken too.
    """
    x = require_arrays(x)
    like = jax.eval_shape(layer.init, jax.random.key(0), x)
    for name, wanted, own in (("params", like[0], params), ("state", like[1], state)):
        if own is not None:
            check_like(name, wanted, own)
    check.count(seed, "seed", 0)
    check.flag(train, "train")
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        x, given = jax.tree.map(widened, (x, (params, state)))
        return _gradients(layer, bool(train), bool(numeric), x, given, jax.random.key(int(seed)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _gradients(
    layer: Layer,
    train: bool,
    numeric: bool,
    x: Input,
    given: tuple[Params, State],
    key: Array,
) -> Gradients:
    """Compute the gradients of one layer as one program, with what of its place is not given."""
    place_key, dy_key, run_key = jax.random.split(key, 3)
    params, state = _place(layer, x, given, place_key)

    def apply(params: Params, floats: Input) -> tuple[Output, State]:
        y, new_state = layer.apply(params, state, combine(floats, x), key=run_key, train=train)
        return inexact_leaves(y), new_state

    floats_of_y, pull_back, applied_state = jax.vjp(apply, params, inexact_leaves(x), has_aux=True)
    dy = normal_like(dy_key, floats_of_y)
    y, new_state, residuals = layer.forward(params, state, x, key=run_key, train=train)
    _check_returned(state, new_state, applied_state, residuals)
    by_hand = layer.backward(params, residuals, dy)
    differences = None
    if numeric:
        flat, unravel = ravel_pytree((params, inexact_leaves(x)))

        def objective(flat: Array) -> Array:
            products = jax.tree.map(jnp.vdot, apply(*unravel(flat))[0], dy)
            return sum(jax.tree.leaves(products), jnp.float64(0))

        everywhere = jnp.arange(flat.size)
        # An empty batch of a layer without parameters has no entry to differentiate in.
        slopes, doubts = with_doubt(objective, flat, everywhere) if flat.size else (flat, flat)
        differences = unravel(slopes), unravel(doubts)
    terms = max(leaf.size for leaf in jax.tree.leaves((params, x, y)))
    applied = floats_of_y, inexact_leaves(applied_state)
    return Gradients(y, new_state, by_hand, pull_back(dy), differences, terms, applied)


def _place(layer: Layer, x: Input, given: tuple[Params, State], key: Array) -> tuple[Params, State]:
    """Return parameters and state as given, and drawn where they are not."""
    params, state = given
    if params is not None and state is not None:
        return params, state
    drawn = moved_place(layer, x, key)
    return drawn[0] if params is None else params, drawn[1] if state is None else state


def _check_returned(
    state: State, new_state: State, applied_state: State, residuals: Residuals
) -> None:
    """Raise unless forward returns what `fnn.repeat` can carry: a state alike, and arrays."""
    wanted: Unchecked = jax.tree.structure(state)
    for way, of in (("apply", applied_state), ("forward", new_state)):
        found: Unchecked = jax.tree.structure(of)
        if found != wanted:
            raise GradientError(f"{way} makes a state of structure {found} of one of {wanted}")
    wrong = [leaf for leaf in jax.tree.leaves(residuals) if not hasattr(leaf, "dtype")]
    if wrong:
        raise InputError(
            "residuals of arrays",
            describe(wrong[0]),
            "return arrays; tell a mode by the structure of the tree",
        )


def moved_place(layer: Layer, x: Input, key: Array) -> tuple[Params, State]:
    """Draw parameters and state away from where they start: initial values hide mistakes.

    Args:
        layer: any layer or model.
        x: an example input (B, ...), an array or a tree of arrays.
        key: of the draws.
    """
    init_key, params_key, state_key = jax.random.split(key, 3)
    params, state = layer.init(init_key, x)
    # The absolute value, since a variance is never negative.
    away = _moved(state_key, state)
    return _moved(params_key, params), combine(jax.tree.map(jnp.abs, inexact_leaves(away)), away)


def widened(a: Array) -> Array:
    """Return floating values in float64, and others as they are.

    Args:
        a: an array of any shape and dtype.
    """
    if not jnp.issubdtype(a.dtype, jnp.floating):
        return jnp.asarray(a)
    # By NumPy, since JAX compiles a program for every shape.
    return jnp.asarray(np.asarray(a, np.float64))


@jax.jit
def _moved(key: Array, tree: PyTree) -> PyTree:
    """Move every floating entry of a tree off its place, at random."""
    noise = normal_like(key, inexact_leaves(tree))
    return combine(jax.tree.map(lambda a, n: a + 0.3 * n, inexact_leaves(tree), noise), tree)


def normal_like(key: Array, tree: PyTree) -> PyTree:
    """Return a tree of independent normal values in the shapes and dtypes of another.

    Args:
        key: of the draw.
        tree: arrays, or their shapes and dtypes.
    """
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
