"""Repetition with a scan."""

from __future__ import annotations

from typing import Any

import jax

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import Array, Key, PyTree
from fnn.layer import Layer, output_shape


@constructor
def repeat(layer: Layer, times: int, /) -> Layer:
    """Repetition: `times` copies of a layer, each with its own parameters, through `jax.lax.scan`.

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
    if not check.is_count(times, 1):
        raise InputError("a positive number of copies", describe(times), "pass an int of 1 or more")

    def init(key: Array, x: Any, /) -> tuple[PyTree, PyTree]:
        params, state = jax.vmap(lambda k: layer.init(k, x))(jax.random.split(key, times))
        one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (params, state))
        check.same_shape(x, output_shape(layer, one[0], one[1], x))
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

    return Layer(
        init,
        apply,
        forward,
        backward,
        children={"": layer},
        rebuild=lambda layer: repeat(layer, times),
        copies=times,
    )
