"""What a recurrent layer runs: over time in one direction, in two, and in a stack.

What is run takes and gives a `fnn.Sequence` whose lengths are None or booleans (B, T), the mask.
Its carry is h (B, H) or a pair (h, c); of two directions a dict of two carries, and of a stack a
tuple of those of its layers. The parameters nest in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn._core.errors import InputError
from fnn._core.types import (
    Array,
    Cache,
    Input,
    Output,
    Params,
    PyTree,
    Residuals,
    Unchecked,
)
from fnn.combinators.sequence import Sequence


class Run(NamedTuple):
    """Functions as those of a layer, without state.

    `carry` gives the shapes of a carry for a batch size and a dtype. `prefill` returns y and the
    carry after the last step, which is not rounded to half precision, and `decode` goes on from it:
    ``(params, carry, x) -> y, carry`` of one step, x and y (B, ...).
    """

    init: Callable[[Array, Input], Params]
    apply: Callable[[Params, Sequence], Sequence]
    forward: Callable[[Params, Sequence], tuple[Sequence, Residuals]]
    backward: Callable[[Params, Residuals, Sequence], tuple[Params, Sequence]]
    carry: Callable[[int, Any], PyTree]
    prefill: Callable[[Params, Sequence], tuple[Output, Cache]]
    decode: Callable[[Params, Cache, Input], tuple[Output, Cache]]


def both_ways(one: Run, other: Run) -> Run:
    """Run over a sequence forwards and backwards, and put the outputs side by side."""
    ways = {"forward": one, "backward": other}

    def part(x: Sequence, name: str) -> Sequence:
        return x if x.carry is None else x._replace(carry=x.carry[name])

    def side_by_side(x: Sequence, ys: dict[str, Sequence]) -> Sequence:
        values = jnp.concatenate([y.values for y in ys.values()], -1)
        return Sequence(values, x.lengths, {name: y.carry for name, y in ys.items()})

    def init(key: Array, x: Input) -> Params:
        keys = jax.random.split(key, len(ways))
        return {name: way.init(k, x) for k, (name, way) in zip(keys, ways.items(), strict=True)}

    def apply(params: Params, x: Sequence) -> Sequence:
        ys = {name: way.apply(params[name], part(x, name)) for name, way in ways.items()}
        return side_by_side(x, ys)

    def forward(params: Params, x: Sequence) -> tuple[Sequence, Residuals]:
        found = {name: way.forward(params[name], part(x, name)) for name, way in ways.items()}
        y = side_by_side(x, {name: y for name, (y, _) in found.items()})
        return y, {name: residuals for name, (_, residuals) in found.items()}

    def backward(params: Params, residuals: Residuals, dy: Sequence) -> tuple[Params, Sequence]:
        halves = jnp.split(dy.values, len(ways), -1)
        found = {}
        for half, (name, way) in zip(halves, ways.items(), strict=True):
            cotangent = part(dy, name)._replace(values=half)
            found[name] = way.backward(params[name], residuals[name], cotangent)
        dparams = {name: d for name, (d, _) in found.items()}
        dxs = {name: dx for name, (_, dx) in found.items()}
        total = dxs["forward"].values + dxs["backward"].values
        return dparams, Sequence(total, None, {name: dx.carry for name, dx in dxs.items()})

    def carry(batch: int, dtype: Any) -> PyTree:
        return {name: way.carry(batch, dtype) for name, way in ways.items()}

    def refuse(*_: Unchecked) -> tuple[Output, Cache]:
        raise InputError(
            "one direction, to generate from a cache",
            "bidirectional=True",
            "leave it out: the backward direction begins with what is not drawn yet",
        )

    return Run(init, apply, forward, backward, carry, refuse, refuse)


def stacked(layer: Run, layers: int) -> Run:
    """Run over the outputs of a run, layer upon layer."""

    def part(x: Sequence, i: int) -> Sequence:
        return x if x.carry is None else x._replace(carry=x.carry[i])

    def init(key: Array, x: Input) -> Params:
        params = []
        for k in jax.random.split(key, layers):
            params.append(layer.init(k, x))
            x = jax.eval_shape(layer.apply, params[-1], Sequence(x)).values
        return tuple(params)

    def apply(params: Params, x: Sequence) -> Sequence:
        values = x.values
        carry: tuple[Any, ...] = ()
        for i in range(layers):
            y = layer.apply(params[i], part(x, i)._replace(values=values))
            values, carry = y.values, (*carry, y.carry)
        return Sequence(values, x.lengths, carry)

    def forward(params: Params, x: Sequence) -> tuple[Sequence, Residuals]:
        values = x.values
        carry: tuple[Any, ...] = ()
        residuals: tuple[Any, ...] = ()
        for i in range(layers):
            y, saved = layer.forward(params[i], part(x, i)._replace(values=values))
            values, carry, residuals = y.values, (*carry, y.carry), (*residuals, saved)
        return Sequence(values, x.lengths, carry), residuals

    def backward(params: Params, residuals: Residuals, dy: Sequence) -> tuple[Params, Sequence]:
        values = dy.values
        dparams: tuple[Any, ...] = ()
        dcarry: tuple[Any, ...] = ()
        for i in reversed(range(layers)):
            cotangent = part(dy, i)._replace(values=values)
            d, dx = layer.backward(params[i], residuals[i], cotangent)
            values, dparams, dcarry = dx.values, (d, *dparams), (dx.carry, *dcarry)
        return dparams, Sequence(values, None, dcarry)

    def carry(batch: int, dtype: Any) -> PyTree:
        return (layer.carry(batch, dtype),) * layers

    def prefill(params: Params, x: Sequence) -> tuple[Output, Cache]:
        caches = []
        for i in range(layers):
            values, cache = layer.prefill(params[i], x)
            x = x._replace(values=values)
            caches.append(cache)
        return x.values, tuple(caches)

    def decode(params: Params, cache: Cache, x: Input) -> tuple[Output, Cache]:
        caches = []
        for i in range(layers):
            x, one = layer.decode(params[i], cache[i], x)
            caches.append(one)
        return x, tuple(caches)

    return Run(init, apply, forward, backward, carry, prefill, decode)
