"""Combinators: models made of layers, and again layers themselves.

Parameters, state and residuals mirror the model: the path of a layer is the path of its
parameters. `serial` and `parallel` hold a tuple, or a dict when the layers are named.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import jax

from fnn._core import check
from fnn._core.description import constructor
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
from fnn.combinators._parts import branching, fold, parts_of
from fnn.layer import Layer, output_shape


@constructor
def serial(*layers: Layer, **named: Layer) -> Layer:
    """Sequential composition: the output of one layer is the input of the next.

    Positional layers give tuples of parameters, named layers dicts. Layer `i` draws its randomness
    from ``jax.random.fold_in(key, i)``.

    Forward:   y = f_n(... f_2(f_1(x)))
    Backward:  dx = J_1^T J_2^T ... J_n^T dy, the chain rule read from right to left: each factor
        is the backward of one layer

    Args:
        layers: the layers in their order, one or more.
        named: the same by name, in place of `layers`.
    Shapes:    x is what the first layer takes, y what the last makes
    Saves:     what each layer saves
    Raises:    InputError when positional and named layers are mixed, or something is no layer.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model = serial(hidden=fnn.dense(4), act=fnn.relu(), out=fnn.dense(2))
    >>> params, state = model.init(jax.random.key(0), jnp.ones((1, 3)))
    >>> sorted(params), params["out"]["weight"].shape
    (['act', 'hidden', 'out'], (4, 2))
    """
    parts, pack = parts_of(layers, named)

    def init(key: Array, x: Input, /) -> tuple[Params, State]:
        key = check.key(key)
        params, state = [], []
        for i, (_, layer) in enumerate(parts):
            p, s = layer.init(jax.random.fold_in(key, i), x)
            x = output_shape(layer, p, s, x)
            params.append(p)
            state.append(s)
        return pack(params), pack(state)

    def apply(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        states = []
        for i, (name, layer) in enumerate(parts):
            x, s = layer.apply(params[name], state[name], x, key=fold(key, i), train=train)
            states.append(s)
        return x, pack(states)

    def forward(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        states, residuals = [], []
        for i, (name, layer) in enumerate(parts):
            x, s, r = layer.forward(params[name], state[name], x, key=fold(key, i), train=train)
            states.append(s)
            residuals.append(r)
        return x, pack(states), pack(residuals)

    def backward(
        params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        gradients = []
        for name, layer in reversed(parts):
            dparams, dy = layer.backward(params[name], residuals[name], dy)
            gradients.append(dparams)
        return pack(reversed(gradients)), dy

    functions = init, apply, forward, backward
    caching = functools.partial(_prefill, parts, pack), functools.partial(_decode, parts, pack)
    return branching(serial, layers, named, functions, caching)


_Parts: TypeAlias = list[tuple[Any, Layer]]
_Pack: TypeAlias = Callable[[Iterable[Any]], PyTree]


def _prefill(
    parts: _Parts,
    pack: _Pack,
    params: Params,
    state: State,
    x: Input,
    /,
    *,
    window: int,
    lengths: Array | None = None,
) -> tuple[Output, Cache]:
    """Read a prompt, layer by layer."""
    caches = []
    for name, layer in parts:
        x, c = layer.prefill(params[name], state[name], x, window=window, lengths=lengths)
        caches.append(c)
    return x, pack(caches)


def _decode(
    parts: _Parts,
    pack: _Pack,
    params: Params,
    state: State,
    cache: Cache,
    x: Input,
    position: Array,
    /,
) -> tuple[Output, Cache]:
    """Take one time step, layer by layer."""
    caches = []
    for name, layer in parts:
        x, c = layer.decode(params[name], state[name], cache[name], x, position)
        caches.append(c)
    return x, pack(caches)
