"""The sums of `fnn.layers.convolve`, in the formulation measured best for platform and shape.

GPU and TPU have good convolutions, and get them. On CPU those of one group are good too, but not
the sums over examples that a weight gradient is, nor anything with groups, which XLA computes
number by number. There:

- few channels in a group, as in a depthwise convolution: shifted copies of x times the weights,
  number by number, which the compiler makes one pass of;
- more channels in several groups: one convolution a group;
- a weight gradient: the patches of a few examples after the other, side by side in a matrix, times
  dy: a matrix product, and its matrix stays in the cache.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn.layers import convolve as plain
from fnn.layers.precision import narrowed, widened
from fnn.layers.window import Geometry, Sizes, count, pad, taps

# Bytes of the patches of a few examples: about what a core's share of the cache holds.
_PATCHES = 4 * 2**20
# More than this many terms written out one by one make a program long to compile.
_TERMS = 64
# Channels in a group up to which shifted copies are faster than one convolution a group.
_FEW = 4
# In so many parts are examples summed number by number, before the places are.
_PARTS = 8


def convolve(x: Any, weight: Any, geometry: Geometry) -> Any:
    """Return y of x and weight."""

    def default(x: Any, weight: Any) -> Any:
        return plain.convolve(x, weight, geometry)

    within = weight.shape[-2]
    groups = x.shape[-1] // within
    if (within == 1 or _scattered(groups, within)) and count(geometry.size) * within <= _TERMS:
        return _on_cpu(lambda x, w: _shifted(x, w, geometry), default, x, weight)
    if groups > 1:
        return _on_cpu(lambda x, w: _group_by_group(x, w, geometry), default, x, weight)
    return default(x, weight)


def input_gradient(dy: Any, weight: Any, geometry: Geometry, space: Sizes, groups: int) -> Any:
    """Return dx (B, *space, I) of dy and weight."""
    return convolve(dy, *plain.turned(weight, geometry, space, dy.shape[1:-1], groups))


def weight_gradient(x: Any, dy: Any, geometry: Geometry, groups: int) -> Any:
    """Return dweight of x and dy."""

    def default(x: Any, dy: Any) -> Any:
        return plain.weight_gradient(x, dy, geometry, groups)

    within, terms = x.shape[-1] // groups, count(geometry.size)
    if _scattered(groups, within) and terms * within <= _TERMS:
        return _on_cpu(lambda x, dy: _products(x, dy, geometry, groups), default, x, dy)
    if terms <= _TERMS and _patch_bytes(dy, terms * within) <= 2 * _PATCHES:

        def cpu(x: Any, dy: Any) -> Any:
            pairs = zip(_split(x, groups), _split(dy, groups), strict=True)
            return jnp.concatenate([_by_patches(*pair, geometry) for pair in pairs], -1)

        return _on_cpu(cpu, default, x, dy)
    return default(x, dy)


def _on_cpu(cpu: Callable[..., Any], default: Callable[..., Any], *arrays: Any) -> Any:
    return jax.lax.platform_dependent(
        *arrays,
        cpu=lambda *arrays: narrowed(cpu(*map(widened, arrays)), arrays[0]),
        default=default,
    )


def _scattered(groups: int, within: int) -> bool:
    return groups > 1 and within <= _FEW


def _split(x: Any, groups: int) -> list[Any]:
    return jnp.split(x, groups, -1)


def _grouped(x: Any, groups: int) -> Any:
    return x.reshape(*x.shape[:-1], groups, -1)


def _shifted(x: Any, weight: Any, geometry: Geometry) -> Any:
    """Sum the places that the window sees, each times its weights."""
    *_, within, outputs = weight.shape
    groups = x.shape[-1] // within
    places = geometry.places(x.shape[1:-1])
    weights = weight.reshape(-1, within, groups, outputs // groups)
    terms = (
        _grouped(seen, groups)[..., i, None] * one[i].reshape((1,) * (x.ndim - 1) + one[i].shape)
        for seen, one in zip(taps(pad(x, geometry), geometry, places), weights, strict=True)
        for i in range(within)
    )
    return functools.reduce(operator.add, terms).reshape(x.shape[0], *places, outputs)


def _group_by_group(x: Any, weight: Any, geometry: Geometry) -> Any:
    groups = x.shape[-1] // weight.shape[-2]
    pairs = zip(_split(x, groups), _split(weight, groups), strict=True)
    return jnp.concatenate([plain.convolve(*pair, geometry) for pair in pairs], -1)


def _products(x: Any, dy: Any, geometry: Geometry, groups: int) -> Any:
    """Multiply what the window sees by dy, number by number, and sum."""
    batch, *places, outputs = dy.shape
    parts = max(n for n in range(1, _PARTS + 1) if not batch % n)
    padded = jnp.split(pad(x, geometry), parts)
    pieces = jnp.split(_grouped(dy, groups), parts)
    within = x.shape[-1] // groups
    seen = [[_grouped(t, groups) for t in taps(part, geometry, tuple(places))] for part in padded]
    sums = [
        # Few of the numbers are left for the sum over places, which is not vectorised.
        sum(s[k][..., i, None] * d for s, d in zip(seen, pieces, strict=True)).sum(
            tuple(range(dy.ndim - 1))
        )
        for k in range(count(geometry.size))
        for i in range(within)
    ]
    return jnp.stack(sums).reshape(*geometry.size, within, outputs)


def _patch_bytes(dy: Any, columns: int) -> int:
    """Return the bytes of the patches of one example."""
    return columns * count(dy.shape[1:-1]) * max(4, dy.dtype.itemsize)


def _by_patches(x: Any, dy: Any, geometry: Geometry) -> Any:
    """Put what the window sees side by side, a few examples at a time, and multiply by dy."""
    batch, columns = dy.shape[0], count(geometry.size) * x.shape[-1]
    few = max(1, _PATCHES // _patch_bytes(dy, columns))
    whole = batch // few if few < batch else 0

    def product(x: Any, dy: Any) -> Any:
        seen = jnp.concatenate(list(taps(pad(x, geometry), geometry, dy.shape[1:-1])), -1)
        leading = tuple(range(dy.ndim - 1))
        return jnp.tensordot(seen, dy, (leading, leading))

    def step(total: Any, pair: Any) -> tuple[Any, None]:
        return total + product(*pair), None

    cut = whole * few
    total = jnp.zeros((columns, dy.shape[-1]), x.dtype)
    if whole:
        pairs = [a[:cut].reshape(whole, few, *a.shape[1:]) for a in (x, dy)]
        total, _ = jax.lax.scan(step, total, pairs)
    if cut < batch:
        total = total + product(x[cut:], dy[cut:])
    return total.reshape(*geometry.size, x.shape[-1], dy.shape[-1])
