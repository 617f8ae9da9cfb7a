"""The sums of `fnn.layers.convolve`, in the formulation measured best for platform and shape.

GPU and TPU have good convolutions, and get them. XLA's for CPU are good in one group, for channels
last and as long as operands stay in the cache; those in groups it computes number by number, and a
weight gradient it puts into its own order of axes outside of loops only: inside one, as a training
run is, it takes a hundred times as long. So on CPU:

- one group of 32 to about a hundred channels: examples side by side in long rows, zeros between
  them, because XLA shares a convolution among threads by the length of its rows (28x28, 32 to 64
  channels, batch 128: 10.8 ms, where the plain one took 16 on one of two cores). Fewer channels
  cost less than the copy; more are shared as they are. Without padding it takes 67 ms, and gets
  some; a kernel of one place is a matrix product;
- one channel in a group, as in a depthwise convolution: shifted copies of x times the weights,
  number by number, which the compiler makes one pass of;
- more groups: a convolution for every few of them, with zeros between different groups;
- a weight gradient: a few examples after the other, so that no copy of x or dy is ever whole. A
  row of the kernel is a matrix product, which both cores of the machine measured share where XLA's
  convolution kept to one (28x28, 32 to 64 channels, batch 128: 16 ms, where the plain one took 48
  and one in the order of axes that it likes 28, and a seventh of the memory). With strides, few
  channels, few bytes or large examples it is that convolution; of a kernel of one place, one
  product.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn.layers import convolve as plain
from fnn.layers.precision import narrowed, widened
from fnn.layers.window import Geometry, Sizes, count, pad, side_by_side, taps

# Bytes of the examples that a weight gradient takes at a time: they stay in a core's cache.
_BYTES = 2 * 2**20
# More than this many terms written out one by one make a program long to compile.
_TERMS = 64
# Channels up to which groups are put together.
_WIDE = 32
# XLA for CPU since this version: a convolution over two axes is shared among threads where rows are
# as long as this, or sums have more terms than these; one without padding takes up to five times as
# long as one with it.
_BY_ROWS = jax.__version_info__ >= (0, 10, 2)
_LONG = 448
_SUMMED = range(256, 1025)
_FEW = 8


def convolve(x: Any, weight: Any, geometry: Geometry) -> Any:
    """Return y of x and weight."""

    def default(x: Any, weight: Any) -> Any:
        return plain.convolve(x, weight, geometry)

    way = _way_on_cpu(x, weight, geometry)
    return default(x, weight) if way is None else _on_cpu(way, default, x, weight)


def _way_on_cpu(x: Any, weight: Any, geometry: Geometry) -> Callable[[Any, Any], Any] | None:
    """Return another formulation that pays on CPU, if one does."""
    within = weight.shape[-2]
    if within == 1 and count(geometry.size) <= _TERMS:
        return lambda x, weight: _shifted(x, weight, geometry)
    if x.shape[-1] > within:
        return lambda x, weight: _in_groups(x, weight, geometry)
    if geometry == side_by_side((1,) * len(geometry.size)):
        return lambda x, weight: x @ weight.reshape(weight.shape[-2:])
    if _rows_pay(x, weight, geometry):
        return lambda x, weight: _in_rows(x, weight, geometry)
    if _pays_padded(weight, geometry):
        return lambda x, weight: _padded(x, weight, geometry)
    return None


def input_gradient(dy: Any, weight: Any, geometry: Geometry, space: Sizes, groups: int) -> Any:
    """Return dx (B, *space, I) of dy and weight."""
    return convolve(dy, *plain.turned(weight, geometry, space, dy.shape[1:-1], groups))


def weight_gradient(x: Any, dy: Any, geometry: Geometry, groups: int) -> Any:
    """Return dweight of x and dy."""
    return _on_cpu(
        lambda x, dy: _weight_gradient_in_groups(x, dy, geometry, groups),
        lambda x, dy: plain.weight_gradient(x, dy, geometry, groups),
        x,
        dy,
    )


def _on_cpu(cpu: Callable[..., Any], default: Callable[..., Any], *arrays: Any) -> Any:
    return jax.lax.platform_dependent(
        *arrays,
        cpu=lambda *arrays: narrowed(cpu(*map(widened, arrays)), arrays[0]),
        default=default,
    )


def _shifted(x: Any, weight: Any, geometry: Geometry) -> Any:
    """Sum the places that the window sees, each times its weights, for groups of one channel."""
    channels, outputs = x.shape[-1], weight.shape[-1]
    places = geometry.places(x.shape[1:-1])
    weights = weight.reshape(-1, *(1,) * (x.ndim - 1), channels, outputs // channels)
    terms = (
        seen[..., None] * one
        for seen, one in zip(taps(pad(x, geometry), geometry, places), weights, strict=True)
    )
    return functools.reduce(operator.add, terms).reshape(x.shape[0], *places, outputs)


def _pays_padded(weight: Any, geometry: Geometry) -> bool:
    """Return whether there is no padding and some would pay."""
    overlap = any(k > s for k, s in zip(geometry.span, geometry.stride, strict=True))
    bare = all(pads == (0, 0) for pads in geometry.padding) and len(geometry.size) == 2
    return _BY_ROWS and bare and overlap and weight.size > _TERMS * weight.shape[-1]


def _padded(x: Any, weight: Any, geometry: Geometry) -> Any:
    """Convolve with one more row of zeros where there is no padding, and leave out what sees it."""
    if not _pays_padded(weight, geometry):
        return plain.convolve(x, weight, geometry)
    places = geometry.places(x.shape[1:-1])
    more = geometry._replace(padding=((0, 1), *geometry.padding[1:]))
    return plain.convolve(x, weight, more)[:, : places[0]]


def _gap(width: int, geometry: Geometry) -> int:
    """Return the zeros after each of several examples in a row: no window sees two examples."""
    gap = max(0, *geometry.padding[-1])
    return gap + -(width + gap) % geometry.stride[-1]


def _rows_pay(x: Any, weight: Any, geometry: Geometry) -> bool:
    """Return whether a convolution is shared among threads as one image of long rows only."""
    terms, width = count(geometry.size) * weight.shape[-2], x.shape[-2]
    short = width < _LONG <= x.shape[0] * width
    many = terms in _SUMMED and weight.shape[-1] >= _FEW
    return _BY_ROWS and len(geometry.size) == 2 and short and many and max(geometry.spread) == 1


def _in_rows(x: Any, weight: Any, geometry: Geometry) -> Any:
    """Convolve all examples side by side in one image.

    Its copies of x and y become part of the layers before and after.
    """
    batch, height, width, channels = x.shape
    places = geometry.places((height, width))
    gap, stride = _gap(width, geometry), geometry.stride[-1]
    low = geometry.padding[-1][0]
    # So much after the last example that each has as many places in the row, some of the gap.
    along = (low, geometry.span[-1] - stride - low)
    row = geometry._replace(padding=(*geometry.padding[:-1], along))
    apart = jnp.pad(x, ((0, 0), (0, 0), (0, gap), (0, 0))).swapaxes(0, 1)
    y = plain.convolve(apart.reshape(1, height, -1, channels), weight, row)
    every = y.reshape(places[0], batch, (width + gap) // stride, -1)
    return every[:, :, : places[1]].swapaxes(0, 1)


def _bundles(groups: int, widest: int) -> int:
    """Return in how many bundles of few groups to take them, `widest` channels in each group."""
    together = max(
        n for n in range(1, groups + 1) if n == 1 or (groups % n == 0 and n * widest <= _WIDE)
    )
    return groups // together


def _bundled(x: Any, bundles: int) -> Any:
    """Return x (..., C) as (bundles, ..., C / bundles)."""
    return jnp.moveaxis(x.reshape(*x.shape[:-1], bundles, -1), -2, 0)


def _side_by_side(z: Any) -> Any:
    """Return the transpose of `_bundled`: (bundles, ..., C / bundles) as (..., C)."""
    last = jnp.moveaxis(z, 0, -2)
    return last.reshape(*last.shape[:-2], -1)


def _in_groups(x: Any, weight: Any, geometry: Geometry) -> Any:
    """Convolve bundle by bundle, the weight between different groups of a bundle being 0."""
    *kernel, within, outputs = weight.shape
    groups = x.shape[-1] // within
    bundles = _bundles(groups, max(within, outputs // groups))
    together = groups // bundles
    split = weight.reshape(*kernel, within, bundles, together, -1)
    own = jnp.eye(together, dtype=weight.dtype).reshape(together, 1, 1, together, 1)
    spread = jnp.expand_dims(split, -5) * own.reshape((1,) * len(kernel) + own.shape)
    wide = spread.reshape(*kernel, together * within, outputs)
    return _side_by_side(
        jax.lax.map(
            lambda pair: _padded(pair[0], pair[1], geometry),
            (_bundled(x, bundles), _bundled(wide, bundles)),
        )
    )


def _weight_gradient_in_groups(x: Any, dy: Any, geometry: Geometry, groups: int) -> Any:
    """Take every bundle for one group, and of its gradient what lies within the groups."""
    if groups == 1:
        return _weight_gradient(x, dy, geometry)
    within, outputs = x.shape[-1] // groups, dy.shape[-1]
    bundles = _bundles(groups, max(within, outputs // groups))
    together = groups // bundles
    wide = _side_by_side(
        jax.lax.map(
            lambda pair: _weight_gradient(pair[0], pair[1], geometry),
            (_bundled(x, bundles), _bundled(dy, bundles)),
        )
    )
    split = wide.reshape(*geometry.size, together, within, bundles, together, -1)
    own = jnp.diagonal(split, axis1=-5, axis2=-2)
    return jnp.moveaxis(own, -1, -2).reshape(*geometry.size, within, outputs)


def _weight_gradient(x: Any, dy: Any, geometry: Geometry) -> Any:
    """Return dweight in one group."""
    if geometry == side_by_side((1,) * len(geometry.size)):
        leading = tuple(range(x.ndim - 1))
        return jnp.tensordot(x, dy, (leading, leading)).reshape(
            *geometry.size, x.shape[-1], dy.shape[-1]
        )
    batch = x.shape[0]
    example = (x.size * x.itemsize + dy.size * dy.itemsize) // max(1, batch)
    most = max(1, min(batch, _BYTES // max(1, example)))
    # Of a batch in equal parts every part is read in place; what is left over takes a copy.
    few = next((n for n in range(most, most // 2, -1) if batch % n == 0), most)
    # Of fewer bytes products gain nothing, and the columns of a part take more than a plain copy.
    many = batch * example > 2 * _BYTES >= 2 * example and batch % few == 0
    one = _in_products if many and _products_pay(x.shape[-1], geometry) else _in_order
    whole = batch // few if few < batch else 0

    # The examples of a part side by side: an axis of one example would cost a copy of x.
    def step(total: Any, part: Any) -> tuple[Any, None]:
        x, dy = (a.reshape(few, -1, *a.shape[1:]) for a in part)
        return total + one(x, dy, geometry), None

    cut = whole * few
    total = jnp.zeros((*geometry.size, x.shape[-1], dy.shape[-1]), x.dtype)
    if whole:
        parts = [a[:cut].reshape(whole, few * a.shape[1], *a.shape[2:]) for a in (x, dy)]
        total, _ = jax.lax.scan(step, total, parts)
    return total + one(x[cut:], dy[cut:], geometry) if cut < batch else total


def _products_pay(channels: int, geometry: Geometry) -> bool:
    """Return whether rows of the kernel are wide and few enough, and seen without gaps."""
    *rows, last = geometry.size
    return channels * last >= _WIDE and count(tuple(rows)) <= _TERMS and max(geometry.stride) == 1


def _in_products(x: Any, dy: Any, geometry: Geometry) -> Any:
    """Return dweight as one matrix product, with strides of 1.

    x is moved to the columns of the kernel, and dy, the other way, to its rows.
    """
    *rows, last = geometry.size
    height = x.shape[1:-2]
    lows = [low for low, _ in geometry.padding]
    by = geometry.dilation
    columns = [_moved(x, {x.ndim - 2: (lows[-1] - k * by[-1], dy.shape[-2])}) for k in range(last)]
    lines = [
        _moved(dy, {i + 1: (k * by[i] - lows[i], height[i]) for i, k in enumerate(offset)})
        for offset in itertools.product(*map(range, rows))
    ]
    seen, met = (jnp.concatenate(each, -1) for each in (columns, lines))
    product = jax.lax.dot_general(
        seen.reshape(-1, seen.shape[-1]), met.reshape(-1, met.shape[-1]), (((0,), (0,)), ((), ()))
    )
    split = product.reshape(last, x.shape[-1], -1, dy.shape[-1]).transpose(2, 0, 1, 3)
    return split.reshape(*geometry.size, x.shape[-1], dy.shape[-1])


def _moved(x: Any, moves: dict[int, tuple[int, int]]) -> Any:
    """Return x moved along some axes by so many places, into so many; zeros come, ends are lost."""
    pads = [(0, 0, 0)] * x.ndim
    for axis, (by, size) in moves.items():
        pads[axis] = (by, size - x.shape[axis] - by, 0)
    return jax.lax.pad(x, x.dtype.type(0), pads)


def _in_order(x: Any, dy: Any, geometry: Geometry) -> Any:
    """Return dweight as a convolution whose examples are channels, and its channels examples."""
    rank = len(geometry.size)
    space = tuple(range(1, rank + 1))
    back = plain.exchanged(x.shape[1:-1], dy.shape[1:-1], geometry)
    turned = _padded(x.transpose(rank + 1, *space, 0), dy.transpose(*space, 0, rank + 1), back)
    return turned.transpose(*space, 0, rank + 1)
