"""The largest element of every window, and the way of its gradient back.

As in PyTorch the first of several equal ones is it, a NaN is larger than all numbers and the last
NaN is it, and padding never is, even where a window sees nothing above -inf.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.precision import downcast, upcast
from fnn._core.types import Array
from fnn._core.written import written
from fnn.layers._window import Geometry, Sizes, pad, unpadded, window_slices
from fnn.layers.pool._window_sum import UNROLLED, interleave, join_axis, pad_end, split_axis

Elements = TypeVar("Elements", Array, np.ndarray)
# What `window_argmax` found, and a witness of the shape of x.
Found: TypeAlias = tuple[tuple[Array, ...], Array]


def window_argmax(x: Array, geometry: Geometry) -> tuple[Array, tuple[Array, ...]]:
    """Return the largest element of each window, and where in there it is: row-major indices.

    An index is found in a second pass over x, which compares it with y: XLA for CPUs takes twice
    the time for comparisons that carry one. Of many elements in windows that overlap, one axis is
    reduced after the other, the last one first, with an index each: windows share their rows.
    """

    def by_parts(x: Array) -> tuple[Array, tuple[Array, ...]]:
        found = []
        for part in _parts(geometry):
            x, index = (_of_many if _is_long(part) else _of_few)(x, part)
            found.append(index)
        return x, tuple(found)

    # Else every element of dx would compare all windows it lies in once more.
    both: tuple[Array, tuple[Array, ...]] = written(by_parts, x)
    return both


def at_argmax(x: Array, geometry: Geometry) -> Array:
    """Return the same elements, as autodiff takes them: those at the index."""
    _, found = window_argmax(jax.lax.stop_gradient(x), geometry)
    for part, index in zip(_parts(geometry), found, strict=True):
        if _is_long(part):
            x = jnp.where(_hits(index, part), _split(x, part), 0).sum(_inside(part))
        else:
            chosen = (_chosen(value, index, k) for k, value in enumerate(_seen(x, part)))
            x = functools.reduce(operator.add, chosen)
    return x


def scatter_to_argmax(
    found: tuple[Array, ...], dy: Array, geometry: Geometry, spatial: Sizes
) -> Array:
    """Return dx (B, *spatial, C): each element of dy is added where its window is largest."""
    padded = geometry.padded(spatial)
    if geometry.size == geometry.stride:
        return unpadded(_side_by_side(found[0], dy, geometry, padded), geometry)
    dx, parts = upcast(dy), _parts(geometry)
    if _few_at_once(geometry):
        return downcast(_by_phase(dx, found[0], geometry, padded), dy)
    for number, (part, index) in reversed(list(enumerate(zip(parts, found, strict=True)))):
        back = functools.partial(_overlapping, geometry=part, padded=padded)
        # What several windows of the next axis read.
        dx = written(back, dx, index) if number else back(dx, index)
    return downcast(dx, dy)


def _parts(geometry: Geometry) -> list[Geometry]:
    """Return the geometries of what is reduced one after the other: of all axes, or of each."""
    if geometry.size == geometry.stride or math.prod(geometry.size) <= UNROLLED:
        return [geometry]
    axes = list(zip(*geometry, strict=True))
    others = (1, 1, (0, 0), 1, 1)
    alone = ([a if i == j else others for j in range(len(axes))] for i, a in enumerate(axes))
    return [Geometry(*zip(*part, strict=True)) for part in alone][::-1]


def _is_long(geometry: Geometry) -> bool:
    """Return whether windows side by side have more elements than are compared one by one."""
    return geometry.size == geometry.stride and math.prod(geometry.size) > UNROLLED


def _of_few(x: Array, geometry: Geometry) -> tuple[Array, Array]:
    """Return y and the index, one element of the windows compared after the other."""
    seen = _seen(x, geometry)
    y, behind = functools.reduce(jnp.maximum, seen), _behind_padding(x, geometry)
    ranks = []
    for k, (offset, value) in enumerate(zip(np.ndindex(geometry.size), seen, strict=True)):
        at = (slice(None), *(part for i in offset for part in (slice(None), i)))
        ranks.append(_rank(value, y, np.int32(k), behind[at], geometry))
    return y, _decoded(functools.reduce(jnp.maximum, ranks), geometry)


def _of_many(x: Array, geometry: Geometry) -> tuple[Array, Array]:
    """Return y and the index of windows side by side, reduced a few elements at a time."""
    split, inside = _split(x, geometry), _inside(geometry)
    y = functools.reduce(_largest, reversed(inside), split)
    last, behind = inside[-1], _behind_padding(x, geometry)
    offsets = _pieces(_offsets(geometry), last)
    pieces = zip(_pieces(split, last), offsets, _pieces(behind, last), strict=True)
    # Piece by piece: the ranks of a whole would be written before any is compared.
    ranks = [_rank(value, y, offset, here, geometry) for value, offset, here in pieces]
    rank = functools.reduce(_largest, reversed(inside), functools.reduce(jnp.maximum, ranks))
    return jax.lax.squeeze(y, inside), _decoded(jax.lax.squeeze(rank, inside), geometry)


def _rank(
    value: Array, y: Array, offset: np.ndarray | np.int32, behind: np.ndarray, geometry: Geometry
) -> Array:
    """Return a number that is larger, the more an element of a window is the one that has y.

    It falls along the elements that are as large, and rises along NaN, above these.
    """
    n = np.int32(math.prod(geometry.size))
    hit = value == y
    if not behind.all():
        hit &= behind
    return jnp.where(jnp.isnan(value), n + offset, jnp.where(hit, n - 1 - offset, np.int32(0)))


def _decoded(rank: Array, geometry: Geometry) -> Array:
    """Return the offset that has a rank."""
    n = math.prod(geometry.size)
    kind = next((t for t in (np.uint8, np.uint16) if n <= np.iinfo(t).max), np.int32)
    return jnp.where(rank < n, n - 1 - rank, rank - n).astype(kind)


def _behind_padding(x: Array, geometry: Geometry) -> np.ndarray:
    """Return which elements of the windows are not in the padding in front of an axis of x.

    Of shape (1, m1, k1, m2, k2, ..., 1) for m positions and k elements along each axis. Padding
    behind x needs no telling: what is in x is as large, and comes first.
    """
    behind = np.ones(1, bool)
    positions = geometry.positions(x.shape[1:-1])
    for k, s, (low, _), m in zip(*geometry[:3], positions, strict=True):
        behind = behind[..., None, None] & (np.arange(m)[:, None] * s + np.arange(k) >= low)
    return behind[..., None]


def _pieces(x: Elements, axis: int) -> list[Elements]:
    """Return equal parts of an axis, few enough for a term each; the last ones may overlap."""
    size = x.shape[axis]
    length = -(-size // UNROLLED)
    starts = [min(k, size - length) for k in range(0, size, length)]
    return [x[(slice(None),) * axis + (slice(k, k + length),)] for k in starts]


def _largest(x: Array, axis: int) -> Array:
    """Return the largest elements along an axis, which is left with one.

    Not by a reduction: from YNNPACK, which XLA for CPUs of JAX 0.10.2 leaves it to, comes no NaN.
    """
    while x.shape[axis] > 1:
        x = functools.reduce(jnp.maximum, _pieces(x, axis))
    return x


def _seen(x: Array, geometry: Geometry) -> list[Array]:
    """Return what each element of the window sees, in row-major order, padding being -inf."""
    positions = geometry.positions(x.shape[1:-1])
    return list(window_slices(pad(x, geometry, -math.inf), geometry, positions))


def _split(x: Array, geometry: Geometry) -> Array:
    """Return (B, m1, k1, m2, k2, ..., C): windows side by side, and the elements in each."""
    positions = geometry.positions(x.shape[1:-1])
    x = pad(x, geometry, -math.inf)
    for axis in reversed(range(1, 1 + len(positions))):
        x = split_axis(x, axis, geometry.size[axis - 1], positions[axis - 1])
    return x


def _inside(geometry: Geometry) -> tuple[int, ...]:
    """Return the axes of the elements in a window, of what `_split` returns."""
    return tuple(range(2, 2 * len(geometry.size) + 1, 2))


def _offsets(geometry: Geometry) -> np.ndarray:
    """Return the row-major indices of the elements in a window, as those are in `_split`."""
    offsets = np.arange(math.prod(geometry.size), dtype=np.int32).reshape(geometry.size)
    return np.expand_dims(offsets, (0, *(axis - 1 for axis in _inside(geometry)), -1))


def _hits(index: Array, geometry: Geometry) -> Array:
    """Return which elements of windows side by side are those of an index."""
    return jnp.expand_dims(index, _inside(geometry)) == _offsets(geometry).astype(index.dtype)


def _chosen(value: Array, index: Array, k: int) -> Array:
    """Return a value where an index is k, else 0."""
    return jnp.where(index == index.dtype.type(k), value, value.dtype.type(0))


def _side_by_side(index: Array, dy: Array, geometry: Geometry, padded: Sizes) -> Array:
    """Return dx, padded, of windows that do not overlap."""
    wide = jnp.expand_dims(dy, _inside(geometry))
    dx = jnp.where(_hits(index, geometry), wide, dy.dtype.type(0))
    covered = tuple(m * k for m, k in zip(dy.shape[1:-1], geometry.size, strict=True))
    dx = dx.reshape(dy.shape[0], *covered, dy.shape[-1])
    rest = [(0, n - m, 0) for n, m in zip(padded, covered, strict=True)]
    return jax.lax.pad(dx, dx.dtype.type(0), ((0, 0, 0), *rest, (0, 0, 0)))


def _few_at_once(geometry: Geometry) -> bool:
    """Return whether at most 4 windows of at most 9 elements meet at one: then one pass pays."""
    sides = list(zip(geometry.size, geometry.stride, strict=True))
    meeting = math.prod(-(-k // s) for k, s in sides)
    return all(s <= k for k, s in sides) and meeting <= 4 and math.prod(geometry.size) <= 9


def _by_phase(dy: Array, index: Array, geometry: Geometry, padded: Sizes) -> Array:
    """Return dx of windows that overlap: a sum for each remainder of a position by the strides.

    XLA for CPUs computes all of it in one pass over dy and the index (3x3, stride 2, 128x28x28x64:
    1.7 ms, from 3.7 along one axis after the other).
    """
    size, stride = geometry.size, geometry.stride
    steps = [-(-n // s) for n, s in zip(padded, stride, strict=True)]

    def shifted(offset: Sizes) -> Array:
        z = _chosen(dy, index, int(np.ravel_multi_index(offset, size)))
        sides = zip(offset, stride, steps, dy.shape[1:-1], strict=True)
        before = [(k // s, n - m - k // s, 0) for k, s, n, m in sides]
        return jax.lax.pad(z, z.dtype.type(0), ((0, 0, 0), *before, (0, 0, 0)))

    def joined(phase: Sizes) -> Array:
        axis = len(phase)
        if axis < len(size):
            each = [joined((*phase, r)) for r in range(stride[axis])]
            return jnp.stack(each, axis + 2)
        met = itertools.product(*map(range, phase, size, stride))
        return functools.reduce(operator.add, map(shifted, met))

    dx = joined(())
    for axis, length in enumerate(padded, 1):
        dx = pad_end(join_axis(dx, axis), axis, length)
    return unpadded(dx, geometry)


def _overlapping(dy: Array, index: Array, geometry: Geometry, padded: Sizes) -> Array:
    """Return dx of windows that may overlap: along one axis after the other.

    Windows whose largest element lies in the same row have the same one, so that the index along
    the axes that are left goes where dy goes.
    """
    axes = zip(geometry.size, geometry.stride, padded, strict=True)
    moved = [(i, axis) for i, axis in enumerate(axes, 1) if axis[:2] != (1, 1)]
    inner = math.prod(geometry.size)
    for i, (size, stride, length) in moved:
        inner //= size
        back = functools.partial(
            _along, axis=i, size=size, stride=stride, length=length, inner=inner
        )
        dy, index = back(dy, index) if i == moved[-1][0] else written(back, dy, index)
    return unpadded(dy, geometry)


def _along(
    dy: Array, index: Array, *, axis: int, size: int, stride: int, length: int, inner: int
) -> tuple[Array, Array]:
    """Return dy where it came from along an axis, and the index along those behind it."""
    steps = index.dtype.type(inner)
    back = functools.partial(interleave, axis=axis, size=size, stride=stride, length=length)
    dx = back(functools.partial(_chosen, dy, index // steps))
    rest = functools.partial(_chosen, index % steps, index // steps)
    return dx, back(rest, combine=jnp.maximum)
