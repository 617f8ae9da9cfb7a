"""Repetition with a scan."""

from __future__ import annotations

import functools

import jax

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.mesh import scan
from fnn._core.types import (
    Array,
    Cache,
    Cotangent,
    Input,
    Key,
    Output,
    Params,
    PyTree,
    Residuals,
    State,
)
from fnn.combinators._parts import copy_of, first_of, split
from fnn.layer import Layer, output_shape, require_layer

# Copies that are written out, where a scan would copy what each saves to an array of all, and back.
_WRITTEN_OUT = 4


@constructor
def repeat(layer: Layer, times: int, /) -> Layer:
    """Repetition: copies of a layer, each with its own parameters, through `jax.lax.scan`.

    The same function as ``serial(layer, layer, ...)``, but compiled once: of more than 4 copies
    compile time does not depend on the number. Up to 4 are written out.

    Forward:   y = f_n(... f_2(f_1(x))), a scan
    Backward:  dx = J_1^T J_2^T ... J_n^T dy, the scan run in reverse

    Args:
        layer: f, whose output has the shape of its input.
        times: n, the number of copies.
    Shapes:    x and y of one shape; parameters and state have a leading axis of length n
    Saves:     what each copy saves, with a leading axis of length n
    Raises:    InputError for `times` below 1, for what is no layer, and when the layer changes the
        shape of its input.

    >>> import fnn, jax, jax.numpy as jnp
    >>> params, state = repeat(fnn.dense(4), 6).init(jax.random.key(0), jnp.ones((1, 4)))
    >>> params["weight"].shape
    (6, 4, 4)
    """
    require_layer(layer)
    check.count(times, "times")
    at_once = times if times <= _WRITTEN_OUT else 1

    def init(key: Array, x: Input, /) -> tuple[Params, State]:
        keys = jax.random.split(check.key(key), times)
        params, state = jax.vmap(lambda k: layer.init(k, x))(keys)
        one_params, one_state = first_of((params, state))
        check.same_shape(x, output_shape(layer, one_params, one_state, x))
        return params, state

    def apply(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        copies = params, state, split(key, times)
        step = functools.partial(_apply, layer, train)
        return scan(step, x, copies, length=times, unroll=at_once)

    def forward(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        copies, step = (params, state, split(key, times)), functools.partial(_forward, layer, train)
        y, (state, residuals) = scan(step, x, copies, length=times, unroll=at_once)
        return y, state, residuals

    def backward(
        params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        step, copies = functools.partial(_backward, layer, at_once), (params, residuals)
        dx, dparams = scan(step, dy, copies, length=times, reverse=True, unroll=at_once)
        return dparams, dx

    return Layer(
        init,
        apply,
        forward,
        backward,
        children={"": layer},
        rebuild=lambda layer: repeat(layer, times),
        copies=times,
        prefill=functools.partial(_prefill, layer, times),
        decode=functools.partial(_decode, layer),
    )


def _apply(layer: Layer, train: bool, x: Input, copy: PyTree) -> tuple[Output, State]:
    """Apply one copy."""
    params, state, key = copy
    return layer.apply(params, state, x, key=key, train=train)


def _forward(
    layer: Layer, train: bool, x: Input, copy: PyTree
) -> tuple[Output, tuple[State, Residuals]]:
    """Run one copy forward."""
    params, state, key = copy
    y, state, residuals = layer.forward(params, state, x, key=key, train=train)
    return y, (state, residuals)


def _backward(layer: Layer, at_once: int, dy: Cotangent, copy: PyTree) -> tuple[Cotangent, Params]:
    """Run one copy backward."""
    params, residuals = copy
    if at_once > 1:
        # As in a loop nothing of a copy is computed, or takes memory, before its turn.
        dy, residuals = jax.lax.optimization_barrier((dy, residuals))
    dparams, dx = layer.backward(params, residuals, dy)
    return dx, dparams


def _prefill(
    layer: Layer,
    times: int,
    params: Params,
    state: State,
    x: Input,
    /,
    *,
    window: int,
    lengths: Array | None = None,
) -> tuple[Output, Cache]:
    """Read a prompt by the copies, and keep their caches apart.

    So a step is written into each in its place, where a scan over them would copy them all.
    """

    def one(x: Input, copy: PyTree) -> tuple[Output, Cache]:
        params, state = copy
        return layer.prefill(params, state, x, window=window, lengths=lengths)

    y, caches = scan(one, x, (params, state), length=times)
    return y, tuple(copy_of(caches, i) for i in range(times))


def _decode(
    layer: Layer, params: Params, state: State, cache: Cache, x: Input, position: Array, /
) -> tuple[Output, Cache]:
    """Take one time step through the copies."""
    caches = []
    for i, one in enumerate(cache):
        p, s = copy_of((params, state), i)
        x, one = layer.decode(p, s, one, x, position)
        caches.append(one)
    return x, tuple(caches)
