"""Wrappers: combinators of one layer, which add nothing to the path of its parameters."""

from __future__ import annotations

from typing import Any

import jax

from fnn.errors import InputError, describe, is_count
from fnn.layer import (
    Array,
    Key,
    Layer,
    PyTree,
    check_same_shape,
    floating,
    merged,
    output_shape,
)
from fnn.origin import constructor
from fnn.sequence import Sequence


@constructor
def residual(layer: Layer, /) -> Layer:
    """Add a layer's input to its output.

    Forward ``y = x + f(x)``; backward ``dx = dy + J^T dy``: the gradient has a way around the
    layer, which is what keeps it from vanishing in deep stacks (He et al. 2015, arXiv:1512.03385,
    eq. 1). Of a tree every array of floating numbers is added, and the others are those of f(x); of
    a `fnn.Sequence` the values are added, and lengths and carry are those of f(x).

    Raises `fnn.InputError` when the layer changes the shape.

    >>> import fnn, jax.numpy as jnp
    >>> residual(fnn.relu()).apply((), (), jnp.array([-1.0, 2.0]))[0]
    Array([-1.,  4.], dtype=float32)
    """

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        y, state, residuals = layer.forward(params, state, x, key=key, train=train)
        return sum_with("residual", x, y), state, residuals

    def apply(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree]:
        y, state = layer.apply(params, state, x, key=key, train=train)
        return sum_with("residual", x, y), state

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        dparams, dx = layer.backward(params, residuals, dy)
        return dparams, added(dy, dx)

    return Layer(layer.init, apply, forward, backward)


def sum_with(where: str, x: Any, y: Any) -> Any:
    """Return x + y, shaped alike, for all that are floating numbers."""
    check_same_shape(where, x, y)
    return merged(added(floating(x), floating(y)), y)


def added(x: Any, y: Any) -> Any:
    """Add tree to tree; of a `fnn.Sequence` the values alone, the rest being that of `y`."""

    def plus(a: Any, b: Any) -> Any:
        if isinstance(a, Sequence):
            return b._replace(values=added(a.values, b.values))
        return a + b

    return jax.tree.map(plus, x, y, is_leaf=lambda node: isinstance(node, Sequence))


@constructor
def repeat(layer: Layer, times: int, /) -> Layer:
    """Stack `times` copies of a layer, each with its own parameters, through `jax.lax.scan`.

    The same function as ``serial(layer, layer, ...)``, but compiled once: compile time does not
    depend on the depth. Parameters, state and residuals have a leading axis of length `times`.
    Backward is the scan run in reverse.

    Raises `fnn.InputError` when `times` is not a positive integer, or the layer changes the shape
    of its input.

    >>> import fnn, jax, jax.numpy as jnp
    >>> params, state = repeat(fnn.dense(4), 6).init(jax.random.key(0), jnp.ones((1, 4)))
    >>> params["weight"].shape
    (6, 4, 4)
    """
    if not is_count(times, 1):
        raise InputError(
            "repeat", "a positive number of copies", describe(times), "pass an int of 1 or more"
        )

    def init(key: Array, x: Any, /) -> tuple[PyTree, PyTree]:
        params, state = jax.vmap(lambda k: layer.init(k, x))(jax.random.split(key, times))
        one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (params, state))
        check_same_shape("repeat", x, output_shape(layer, one[0], one[1], x))
        return params, state

    def keys(key: Key) -> Key:
        return None if key is None else jax.random.split(key, times)

    def apply(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree]:
        def step(x: Any, one: PyTree) -> tuple[Any, PyTree]:
            p, s, k = one
            return layer.apply(p, s, x, key=k, train=train)

        return jax.lax.scan(step, x, (params, state, keys(key)), length=times)

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        def step(x: Any, one: PyTree) -> tuple[Any, PyTree]:
            p, s, k = one
            y, s, residuals = layer.forward(p, s, x, key=k, train=train)
            return y, (s, residuals)

        y, (state, residuals) = jax.lax.scan(step, x, (params, state, keys(key)), length=times)
        return y, state, residuals

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        def step(dy: Any, one: PyTree) -> tuple[Any, PyTree]:
            p, r = one
            dparams, dx = layer.backward(p, r, dy)
            return dx, dparams

        dx, dparams = jax.lax.scan(step, dy, (params, residuals), length=times, reverse=True)
        return dparams, dx

    return Layer(init, apply, forward, backward)


@constructor
def remat(layer: Layer, /) -> Layer:
    """Save a layer's input instead of its residuals, and run it forward again when going back.

    The same function and the same gradient for less memory and one more forward pass; both ways,
    by hand and (through `jax.checkpoint`) by autodiff. To save every n-th input of a deep stack
    (Chen et al. 2016, arXiv:1604.06174), wrap n layers: ``repeat(remat(repeat(layer, n)), times)``.
    `fnn.reversible` saves none. The residuals are ``{mode: (state, x,
    key)}``, the mode being ``"train"`` or ``"eval"``.

    >>> import fnn, jax, jax.numpy as jnp
    >>> deep = remat(fnn.serial(fnn.dense(8), fnn.gelu(), fnn.dense(8)))
    >>> params, state = deep.init(jax.random.key(0), jnp.ones((2, 8)))
    >>> y, state, residuals = deep.forward(params, state, jnp.ones((2, 8)))
    >>> [leaf.shape for leaf in jax.tree.leaves(residuals)]
    [(2, 8)]
    """

    def apply(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree]:
        def plain(params: PyTree, state: PyTree, x: Any, key: Key) -> tuple[Any, PyTree]:
            return layer.apply(params, state, x, key=key, train=train)

        y_and_state: tuple[Any, PyTree] = jax.checkpoint(plain)(params, state, x, key)
        return y_and_state

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        y, new_state = layer.apply(params, state, x, key=key, train=train)
        return y, new_state, {"train" if train else "eval": (state, x, key)}

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        ((mode, saved),) = residuals.items()
        # The barrier ties the second forward pass to dy: without it XLA would find the two passes
        # equal, merge them, and keep what was meant to be forgotten.
        (state, x, key), dy = jax.lax.optimization_barrier((saved, dy))
        _, _, residuals = layer.forward(params, state, x, key=key, train=mode == "train")
        return layer.backward(params, residuals, dy)

    return Layer(layer.init, apply, forward, backward)
