"""The first largest number of every window, and the way back to it."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.layers._window import Geometry, Sizes, count, pad, unpadded
from fnn.layers.pool._window_sum import UNROLLED, interleaved, split_axis, strided_slices


def first_largest(x: Any, geometry: Geometry) -> tuple[Any, Any]:
    """Return the largest number of each window and the place of the first such, row by row.

    Along one axis after the other, the last one first: the first row that has the largest number
    of the window, and the first place in it, are the first in row-major order.
    """
    kind = next(
        t for t in (np.uint8, np.uint16, np.int32) if count(geometry.size) <= np.iinfo(t).max
    )
    places = geometry.places(x.shape[1:-1])
    y, index, inner = pad(x, geometry, -math.inf), None, 1
    for axis in reversed(range(1, x.ndim - 1)):
        size, stride, m = geometry.size[axis - 1], geometry.stride[axis - 1], places[axis - 1]
        along = _reduced if size == stride and size > UNROLLED else _written_out
        y, index = along(y, index, axis, (size, stride, m), inner, kind)
        inner *= size
    return y, index


def _written_out(
    x: Any, index: Any, axis: int, window: Sizes, inner: int, kind: Any
) -> tuple[Any, Any]:
    numbers = strided_slices(x, axis, *window)
    codes = strided_slices(jnp.zeros(x.shape, kind) if index is None else index, axis, *window)
    y, best = numbers[0], codes[0]
    for k, (number, code) in enumerate(zip(numbers[1:], codes[1:], strict=True), 1):
        # Larger, and not as large: the first of equal numbers stays. A NaN is the largest.
        better = (number > y) | (jnp.isnan(number) & ~jnp.isnan(y))
        best = jnp.where(better, code + kind(k * inner), best)
        y = jnp.where(better, number, y)
    return y, best


def _reduced(
    x: Any, index: Any, axis: int, window: Sizes, inner: int, kind: Any
) -> tuple[Any, Any]:
    size, _, places = window
    numbers = split_axis(x, axis, size, places)
    top = numbers.max(axis + 1, keepdims=True)
    hit = (numbers == top) | jnp.isnan(numbers)
    code = kind(inner) * jax.lax.broadcasted_iota(kind, numbers.shape, axis + 1)
    if index is not None:
        code = code + split_axis(index, axis, size, places)
    best = jnp.where(hit, code, np.iinfo(kind).max).min(axis + 1, keepdims=True)
    # Not the maximum itself, whose derivative would share among equal numbers.
    y = jnp.take_along_axis(numbers, (best // kind(inner)).astype(jnp.int32), axis + 1)
    return y.squeeze(axis + 1), best.squeeze(axis + 1)


def to_the_first(index: Any, dy: Any, geometry: Geometry, space: Sizes) -> Any:
    """Return dx (B, *space, C): each number of dy is added at the place of its window."""
    rank = len(space)
    padded = geometry.padded(space)
    if geometry.size == geometry.stride:
        between = tuple(range(2, 2 * rank + 1, 2))
        own = np.arange(count(geometry.size)).astype(index.dtype).reshape(geometry.size)
        own = np.expand_dims(own, (0, *(axis - 1 for axis in between), 2 * rank + 1))
        hit = jnp.expand_dims(index, between) == own
        dx = jnp.where(hit, jnp.expand_dims(dy, between), dy.dtype.type(0))
        dx = dx.reshape(
            dy.shape[0], *(m * k for m, k in zip(dy.shape[1:-1], geometry.size, strict=True)), -1
        )
        rest = [(0, n - m, 0) for n, m in zip(padded, dx.shape[1:-1], strict=True)]
        dx = jax.lax.pad(dx, dx.dtype.type(0), ((0, 0, 0), *rest, (0, 0, 0)))
    else:
        dx = _overlapping(index, dy, geometry, padded)
    return unpadded(dx, geometry)


def _overlapping(index: Any, dy: Any, geometry: Geometry, padded: Sizes, *known: int) -> Any:
    """Add up axis by axis, the last one inside, what each place of the window sends back."""
    axis = len(known)
    if axis == len(padded):
        code = np.ravel_multi_index(known, geometry.size)
        return jnp.where(index == index.dtype.type(code), dy, dy.dtype.type(0))
    return interleaved(
        lambda k: _overlapping(index, dy, geometry, padded, *known, k),
        axis + 1,
        geometry.size[axis],
        geometry.stride[axis],
        padded[axis],
    )
