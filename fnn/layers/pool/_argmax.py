"""The largest element of every window, and the way of its gradient back.

As in PyTorch the first of several equal ones is it, a NaN is larger than all numbers and the last
NaN is it, and padding never is, even where a window sees nothing above -inf.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.precision import downcast, upcast
from fnn._core.types import Array
from fnn._core.written import written
from fnn.layers._window import Geometry, Sizes, pad, unpadded
from fnn.layers.pool._window_sum import (
    UNROLLED,
    interleave,
    join_axis,
    split_axis,
    strided_slices,
)

# Windows side by side of more elements than these along an axis have their largest found by a
# reduction; of two a comparison costs less.
_COMPARED = 2

# What `window_argmax` found, and a witness of the shape of x.
Found: TypeAlias = tuple[tuple[Array, ...], Array]


class _Along(NamedTuple):
    """The windows along one axis, of which `inner` elements lie in a step of a window's index."""

    axis: int
    size: int
    stride: int
    positions: int
    # The padding before the axis.
    low: int
    inner: int
    kind: type[np.integer]

    def slices(self, x: Array) -> list[Array]:
        """Return what each offset in the windows sees."""
        return strided_slices(x, self.axis, self.size, self.stride, self.positions)

    def first_inside(self, offset: int, ndim: int) -> np.ndarray:
        """Return which windows begin in the padding and have their first element at an offset."""
        first = (np.arange(self.positions) * self.stride + offset == self.low) & (offset > 0)
        return np.expand_dims(first, [axis for axis in range(ndim) if axis != self.axis])


def window_argmax(x: Array, geometry: Geometry) -> tuple[Array, tuple[Array, ...]]:
    """Return the largest element of each window, and where in there it is.

    Along one axis after the other, the last one first: the first row that has the largest element
    of the window, and the first such in that row, are the first in row-major order. Of windows side
    by side that is one row-major index. Others share what was found in a row, so that the offset
    along each axis is kept by itself: the gradient goes back axis by axis.
    """
    if geometry.size == geometry.stride:
        return _argmax(x, geometry)
    # Else every element of dx would compare all windows it lies in once more.
    found: tuple[Array, tuple[Array, ...]] = written(lambda x: _argmax(x, geometry), x)
    return found


def _argmax(x: Array, geometry: Geometry) -> tuple[Array, tuple[Array, ...]]:
    apart = geometry.size != geometry.stride
    most = max(geometry.size) if apart else math.prod(geometry.size)
    kind = next((t for t in (np.uint8, np.uint16) if most <= np.iinfo(t).max), np.int32)
    positions = geometry.positions(x.shape[1:-1])
    y, index, inner = pad(x, geometry, -math.inf), None, 1
    found: list[Array] = []
    for axis in reversed(range(1, x.ndim - 1)):
        size, stride, low = (
            geometry.size[axis - 1], geometry.stride[axis - 1], geometry.padding[axis - 1][0]
        )  # fmt: skip
        along = _Along(axis, size, stride, positions[axis - 1], low, inner, kind)
        step = _by_reduction if size == stride and size > _COMPARED else _written_out
        y, index = step(y, index, along)
        if apart:
            found.append(index)
            index = None
        else:
            inner *= size
    return y, tuple(found) if index is None else (index,)


def _written_out(x: Array, index: Array | None, along: _Along) -> tuple[Array, Array]:
    """Compare the offsets of the windows along one axis, one after the other."""
    values = along.slices(x)
    codes = along.slices(jnp.zeros_like(x, along.kind) if index is None else index)
    y, best = values[0], codes[0]
    for k, (value, code) in enumerate(zip(values[1:], codes[1:], strict=True), 1):
        # Larger, and not as large: the first of equal ones stays.
        better = (value > y) | jnp.isnan(value)
        first = along.first_inside(k, x.ndim)
        if first.any():
            better |= first
        best = jnp.where(better, code + along.kind(k * along.inner), best)
        y = jnp.where(better, value, y)
    return y, best


def _by_reduction(x: Array, index: Array | None, along: _Along) -> tuple[Array, Array]:
    """Compare windows side by side along one axis, and reduce them to where the largest are.

    XLA takes comparisons into what needs them, so that each element of dx would compare its whole
    window, but a reduction only once. That of many terms is several times as fast if they float.
    """
    axis, size, inner, kind = along.axis, along.size, along.inner, along.kind
    y, values = _largest(x, along), split_axis(x, axis, size, along.positions)
    ranks: type[np.float32 | np.int16 | np.int32]
    if size > UNROLLED:
        top = values.max(axis + 1, keepdims=True)
        ranks = np.float32 if inner * size < 2**24 else np.int32
    else:
        top = jnp.expand_dims(y, axis + 1)
        ranks = np.int16 if inner * size < 2**15 else np.int32
    # Zeros like the values lie on the devices where these do.
    offsets_inside = jax.lax.broadcasted_iota(ranks, values.shape, axis + 1)
    code = jnp.zeros_like(values, ranks) + ranks(inner) * offsets_inside
    if index is not None:
        code = code + split_axis(index, axis, size, along.positions).astype(ranks)
    hit = values == top
    if along.low:
        offsets = np.arange(along.positions)[:, None] * size + np.arange(size)
        others = [i for i in range(values.ndim) if i not in (axis, axis + 1)]
        hit &= np.expand_dims(offsets >= along.low, others)
    # The least code of those that are as large; of NaN, which equals nothing, the largest.
    rank = jnp.where(hit, -code, ranks(-inner * size))
    most = jnp.where(jnp.isnan(values), 1 + code, rank).max(axis + 1)
    return y, jnp.where(most > 0, most - 1, -most).astype(kind)


def _largest(x: Array, along: _Along) -> Array:
    """Return the largest elements of windows side by side, a few compared at a time.

    Not by a maximum, whose derivative would share among equal ones, nor from where they are: the
    program of y alone would look for that. A window is taken as several, the end of it filled.
    """
    while along.size > 1:
        axis, size, positions = along.axis, along.size, along.positions
        few = next((k for k in range(UNROLLED, UNROLLED // 4, -1) if size % k == 0), UNROLLED)
        few, several = min(few, size), -(-size // few)
        ends = [(0, 0, 0)] * (x.ndim + 1)
        ends[axis + 1] = (0, several * few - size, 0)
        filled = jax.lax.pad(split_axis(x, axis, size, positions), x.dtype.type(-math.inf), ends)
        part = along._replace(size=few, stride=few, positions=several * positions)
        x = _written_out(join_axis(filled, axis), None, part)[0]
        along = along._replace(size=several, stride=several, low=along.low // few)
    return x


def scatter_to_argmax(
    found: tuple[Array, ...], dy: Array, geometry: Geometry, spatial: Sizes
) -> Array:
    """Return dx (B, *spatial, C): each element of dy is added where its window is largest."""
    padded = geometry.padded(spatial)
    if geometry.size == geometry.stride:
        return unpadded(_side_by_side(found[0], dy, geometry, padded), geometry)
    dx = upcast(dy)
    for axis, offset in enumerate(reversed(found), 1):
        back = functools.partial(_back, axis=axis, geometry=geometry, length=padded[axis - 1])
        # What several windows of the next axis read.
        dx = back(dx, offset) if axis == len(found) else written(back, dx, offset)
    return unpadded(downcast(dx, dy), geometry)


def _back(dy: Array, offset: Array, *, axis: int, geometry: Geometry, length: int) -> Array:
    """Return dy where it came from along an axis, of `length` with its padding."""
    size, stride = geometry.size[axis - 1], geometry.stride[axis - 1]
    return interleave(functools.partial(_chosen, dy, offset), axis, size, stride, length)


def _chosen(dy: Array, offset: Array, k: int) -> Array:
    """Return dy where the largest element is at an offset, else 0."""
    return jnp.where(offset == offset.dtype.type(k), dy, dy.dtype.type(0))


def _side_by_side(index: Array, dy: Array, geometry: Geometry, padded: Sizes) -> Array:
    """Return dx, padded, of windows that do not overlap."""
    rank = len(padded)
    between = tuple(range(2, 2 * rank + 1, 2))
    codes = np.arange(math.prod(geometry.size)).astype(index.dtype).reshape(geometry.size)
    codes = np.expand_dims(codes, (0, *(axis - 1 for axis in between), 2 * rank + 1))
    hit = jnp.expand_dims(index, between) == codes
    dx = jnp.where(hit, jnp.expand_dims(dy, between), dy.dtype.type(0))
    covered = tuple(m * k for m, k in zip(dy.shape[1:-1], geometry.size, strict=True))
    dx = dx.reshape(dy.shape[0], *covered, dy.shape[-1])
    rest = [(0, n - m, 0) for n, m in zip(padded, covered, strict=True)]
    return jax.lax.pad(dx, dx.dtype.type(0), ((0, 0, 0), *rest, (0, 0, 0)))
