"""The sums of `_reference`, in the formulation measured best for platform and shape.

GPU and TPU have good convolutions, and get them. XLA's for CPU are good in one group and for
channels last; those in groups it computes element by element. So on CPU:

- one channel in a group, as in a depthwise convolution: shifted copies of x times the weights,
  element by element, which the compiler makes one pass of;
- more groups: a convolution for every few of them, with zeros between different groups, and one
  for each where x is not finite, whose products with these zeros would be NaN;
- a kernel of size 1: a matrix product, of what a stride leaves of x;
- a window of fewer numbers than channels coming out, as of an image's three colors: what it sees as
  columns of a matrix product (3x3, 3 to 32 channels, 32x32, batch 64: 0.9 ms, from 3.4);
- fewer numbers in a window's channels coming out than channels going in, as in dx of such: the
  product first, then the window (16 to 1 channel, 64x64, batch 16: 0.5 ms, from 1.4);
- three spatial axes, over which XLA computes element by element too: the first one's part of the
  window as channels of a convolution over two (16 to 32 channels, 16x16x16, batch 4, on one core:
  forward 2.6 ms, from 16; dx 3.1, from 30; dweight 4.0, from 33);
- an x with zeros between its elements, as in dx of a stride: a convolution for each phase, which
  meets no such zeros (dx of 5x5, stride 2, 32 to 64 channels, 28x28, batch 128: 8 ms, from 46);
- in JAX 0.10.2, more rows of zeros after x, so that y is longer than x before what sees them is
  left out: by XLA a convolution of many terms is shared among threads then only (3x3, 64 to 64
  channels, 16x16, batch 64: 7.2 ms on two cores, from 11.8), and one took 67 without any padding;
- in JAX 0.10.2, with a stride, 32 to about a hundred channels: examples side by side in long rows,
  zeros between them, which are shared too (3x3, stride 2, 32 to 64 channels, 32x32, batch 64: 4.6
  ms, from 7.3).
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from fnn._core.precision import downcast, upcast
from fnn._core.types import Array, Unchecked
from fnn._core.written import written
from fnn.layers._window import Geometry, Sizes, pad, side_by_side, window_slices
from fnn.layers.conv import _reference as plain

# More than this many terms written out one by one make a program long to compile.
TERMS = 64
# Channels up to which groups are put together.
WIDE = 32
# So many bundles of groups are written out; in a loop each would be copied, there and back.
_WRITTEN_OUT = 4
# XLA for CPU of JAX 0.10.2, and of no other from 0.8.0 to 0.11.2, gives a convolution over two axes
# to YNNPACK if y is no longer than x. It shares one among threads where sums have more terms than
# `_MANY` and more channels come out than `_MANY_OUT`, or rows are as long as `_LONG`, and without
# padding takes up to five times as long as with it. What XLA had before, Eigen, shares all. Fewer
# channels coming out than `_FEW` it takes longer for, and other types than float32.
_YNNPACK = (0, 10, 2) <= jax.__version_info__ < (0, 11)
_MANY, _MANY_OUT, _LONG = 1024, 96, 448
_FEW = 12
# Terms of a sum for which rows pay.
_SUMMED = range(256, _MANY + 1)

Convolve: TypeAlias = Callable[[Array, Array, Geometry], Array]


def convolve(x: Array, weight: Array, geometry: Geometry) -> Array:
    """Return y of x and weight."""
    way = _way_on_cpu(x, weight, geometry)
    if way is plain.convolve:
        return way(x, weight, geometry)
    return on_cpu(
        lambda x, weight: way(x, weight, geometry),
        lambda x, weight: plain.convolve(x, weight, geometry),
        x,
        weight,
    )


def _way_on_cpu(x: Array, weight: Array, geometry: Geometry) -> Convolve:
    """Return the formulation that pays on CPU."""
    within = weight.shape[-2]
    if within == 1 and math.prod(geometry.size) <= TERMS:
        return _shifted
    if x.shape[-1] > within:
        return _in_groups
    if geometry == side_by_side((1,) * len(geometry.size)):
        return lambda x, weight, geometry: x @ weight.reshape(weight.shape[-2:])
    if columns_pay(within, weight.shape[-1], geometry):
        return _in_columns
    if _pays_before(weight, geometry):
        return _product_first
    if _phases_pay(weight, geometry):
        return _by_phase
    if is_deep(geometry):
        return _by_depth
    if _rows_pay(x, weight, geometry):
        return _in_rows
    return padded if _more_rows(x, weight, geometry) else plain.convolve


def input_gradient(
    dy: Array, weight: Array, geometry: Geometry, spatial: Sizes, groups: int
) -> Array:
    """Return dx (B, *spatial, I) of dy and weight."""
    return convolve(dy, *plain.flip_kernel(weight, geometry, spatial, dy.shape[1:-1], groups))


def on_cpu(cpu: Callable[..., Array], default: Callable[..., Array], *arrays: Array) -> Array:
    """Call one function on CPU, in float32 or wider, and another elsewhere."""
    y: Array = jax.lax.platform_dependent(
        *arrays,
        cpu=lambda *arrays: downcast(cpu(*map(upcast, arrays)), arrays[0]),
        default=default,
    )
    return y


def _shifted(x: Array, weight: Array, geometry: Geometry) -> Array:
    """Sum shifted copies of x, and write the sum: many terms, that each reader would compute."""
    y: Array = written(functools.partial(_sum_of_shifted, geometry=geometry), x, weight)
    return y


def _sum_of_shifted(x: Array, weight: Array, geometry: Geometry) -> Array:
    """Sum what the window sees, each element times its weights, for groups of one channel."""
    channels, outputs = x.shape[-1], weight.shape[-1]
    positions = geometry.positions(x.shape[1:-1])
    weights = weight.reshape(-1, *(1,) * (x.ndim - 1), channels, outputs // channels)
    terms = (
        seen[..., None] * one
        for seen, one in zip(
            window_slices(pad(x, geometry), geometry, positions), weights, strict=True
        )
    )
    return functools.reduce(operator.add, terms).reshape(x.shape[0], *positions, outputs)


def columns_pay(inputs: int, outputs: int, geometry: Geometry) -> bool:
    """Return whether a window sees a single place, or fewer numbers than channels come out."""
    offsets, dilated = math.prod(geometry.size), max(geometry.input_dilation) > 1
    few = offsets * inputs <= min(TERMS, outputs)
    return not dilated and (offsets == 1 or few)


def columns(x: Array, geometry: Geometry, positions: Sizes) -> Array:
    """Return what the window sees at every position, side by side: (B, *positions, K I)."""
    return jnp.concatenate(list(window_slices(pad(x, geometry), geometry, positions)), -1)


def _in_columns(x: Array, weight: Array, geometry: Geometry) -> Array:
    """Convolve as a product of what the window sees."""
    seen = columns(x, geometry, geometry.positions(x.shape[1:-1]))
    return seen @ weight.reshape(-1, weight.shape[-1])


def _pays_before(weight: Array, geometry: Geometry) -> bool:
    """Return whether a place adds fewer numbers to all who see it than it has channels."""
    added = math.prod(geometry.size) * weight.shape[-1]
    return max(geometry.input_dilation) == 1 and added <= min(TERMS, weight.shape[-2])


def _product_first(x: Array, weight: Array, geometry: Geometry) -> Array:
    """Multiply every place of x by the whole kernel, and add up what the window sees of that."""
    inputs, outputs = weight.shape[-2:]
    by_place = jnp.moveaxis(weight, -2, 0).reshape(inputs, -1)
    positions = geometry.positions(x.shape[1:-1])
    seen = window_slices(pad(x @ by_place, geometry), geometry, positions)
    parts = (one[..., k * outputs : (k + 1) * outputs] for k, one in enumerate(seen))
    return functools.reduce(operator.add, parts)


def _more_rows(x: Array, weight: Array, geometry: Geometry) -> int:
    """Return how many rows of zeros after x pay."""
    terms: Unchecked = math.prod(geometry.size) * weight.shape[-2]
    # Those of a weight gradient are examples: a symbolic number, as in `jax.export`, may be small.
    many = isinstance(terms, int) and terms > TERMS
    if not (_YNNPACK and many and len(geometry.size) == 2):
        return 0
    positions = geometry.positions(x.shape[1:-1])[0]
    longer = max(0, x.shape[1] + 1 - positions)
    if 2 * longer <= positions and _eigen_pays(x, weight, geometry):
        return longer
    overlap = any(k > s for k, s in zip(geometry.span, geometry.stride, strict=True))
    return int(overlap and all(pads == (0, 0) for pads in geometry.padding))


def _eigen_pays(x: Array, weight: Array, geometry: Geometry) -> bool:
    """Return whether Eigen's convolution is faster than YNNPACK's."""
    outputs = weight.shape[-1]
    shared = weight.size > _MANY * outputs and outputs > _MANY_OUT
    return (
        x.dtype == jnp.float32
        and max(*geometry.stride, *geometry.input_dilation) == 1
        and outputs >= _FEW
        and not shared
    )


def padded(x: Array, weight: Array, geometry: Geometry) -> Array:
    """Convolve with more rows of zeros after x if these pay, and leave out what sees them."""
    more = _more_rows(x, weight, geometry)
    if not more:
        return plain.convolve(x, weight, geometry)
    (low, high), *rest = geometry.padding
    positions = geometry.positions(x.shape[1:-1])
    taller = geometry._replace(padding=((low, high + more), *rest))
    return plain.convolve(x, weight, taller)[:, : positions[0]]


def _phases_pay(weight: Array, geometry: Geometry) -> bool:
    """Return whether x is dilated and its channels many, and nothing else is strided or dilated."""
    ones = max(*geometry.stride, *geometry.dilation) == 1
    return (
        ones
        and max(geometry.input_dilation) > 1
        and weight.shape[-2] >= WIDE <= 4 * weight.shape[-1]
    )


def _by_phase(x: Array, weight: Array, geometry: Geometry) -> Array:
    """Convolve without the zeros between the elements of a dilated x.

    Positions of y that lie a dilation apart see the same part of the kernel: that whose offsets
    meet no zeros. Each such phase of y is a convolution with a part of the kernel.
    """
    rank, ones = len(geometry.size), (1,) * len(geometry.size)
    spatial, factors = x.shape[1:-1], geometry.input_dilation
    positions = geometry.positions(spatial)
    most = [-(-m // f) for m, f in zip(positions, factors, strict=True)]
    phases = []
    for phase in itertools.product(*map(range, factors)):
        axes = list(zip(phase, factors, geometry.padding, strict=True))
        first = [(low - at) % f for at, f, (low, _) in axes]
        part = weight[tuple(slice(k, None, f) for k, f in zip(first, factors, strict=True))]
        lows = [(low - at - k) // f for k, (at, f, (low, _)) in zip(first, axes, strict=True)]
        sizes = zip(lows, most, spatial, part.shape, strict=False)
        padding = tuple((low, m - n - low + k - 1) for low, m, n, k in sizes)
        seen = Geometry(part.shape[:rank], ones, padding, ones, ones)
        none = jnp.zeros((x.shape[0], *most, weight.shape[-1]), x.dtype)
        phases.append(_way_on_cpu(x, part, seen)(x, part, seen) if part.size else none)
    apart = jnp.stack(phases).reshape(*factors, *phases[0].shape)
    order = [axis for i in range(rank) for axis in (rank + 1 + i, i)]
    y = apart.transpose(rank, *order, 2 * rank + 1)
    whole = y.reshape(x.shape[0], *(m * f for m, f in zip(most, factors, strict=True)), y.shape[-1])
    return whole[(slice(None), *map(slice, positions))]


def is_deep(geometry: Geometry) -> bool:
    """Return whether a window has three axes, and along the first few enough entries to write."""
    return len(geometry.size) == 3 and geometry.size[0] <= TERMS


def depth_as_channels(x: Array, geometry: Geometry) -> tuple[Array, Geometry]:
    """Return x (B, D, H, W, C) as images (B P, H, W, K C), and the geometry over H and W.

    P positions of the window along D, each with the K entries of it that it sees.
    """
    low, high = geometry.padding[0]
    stride, dilation = geometry.stride[0], geometry.dilation[0]
    ends = [(0, 0, 0)] * x.ndim
    ends[1] = (low, high, geometry.input_dilation[0] - 1)
    padded = jax.lax.pad(x, x.dtype.type(0), ends)
    reach = (geometry.positions(x.shape[1:-1])[0] - 1) * stride + 1
    starts = range(0, geometry.size[0] * dilation, dilation)
    each = [jax.lax.slice_in_dim(padded, k, k + reach, stride, axis=1) for k in starts]
    seen = jnp.concatenate(each, -1)
    over_two = Geometry(
        geometry.size[1:], geometry.stride[1:], geometry.padding[1:], geometry.dilation[1:],
        geometry.input_dilation[1:],
    )  # fmt: skip
    return seen.reshape(-1, *seen.shape[2:]), over_two


def _by_depth(x: Array, weight: Array, geometry: Geometry) -> Array:
    """Convolve over three axes as over two, what the window sees along the first being channels."""
    _, height, width, _, outputs = weight.shape
    flat, over_two = depth_as_channels(x, geometry)
    kernel = jnp.moveaxis(weight, 0, 2).reshape(height, width, -1, outputs)
    y = _way_on_cpu(flat, kernel, over_two)(flat, kernel, over_two)
    return y.reshape(x.shape[0], geometry.positions(x.shape[1:-1])[0], *y.shape[1:])


def _gap(width: int, geometry: Geometry) -> int:
    """Return the zeros after each of several examples in a row: no window sees two examples."""
    gap = max(0, *geometry.padding[-1])
    return gap + -(width + gap) % geometry.stride[-1]


def _rows_pay(x: Array, weight: Array, geometry: Geometry) -> bool:
    """Return whether a convolution is shared among threads as one image of long rows only."""
    terms, width = math.prod(geometry.size) * weight.shape[-2], x.shape[-2]
    batch: Unchecked = x.shape[0]
    # A symbolic one, as in `jax.export`, may be small.
    short = isinstance(batch, int) and width < _LONG <= batch * width
    return (
        _YNNPACK
        and len(geometry.size) == 2
        and max(geometry.stride) > 1 == max(geometry.input_dilation)
        and short
        and terms in _SUMMED
        and weight.shape[-1] >= _FEW
    )


def _in_rows(x: Array, weight: Array, geometry: Geometry) -> Array:
    """Convolve all examples side by side in one image.

    Its copies of x and y become part of the layers before and after.
    """
    batch, height, width, channels = x.shape
    positions = geometry.positions((height, width))
    gap, stride = _gap(width, geometry), geometry.stride[-1]
    low = geometry.padding[-1][0]
    # So much after the last example that each has as many positions in the row, some of the gap.
    along = (low, geometry.span[-1] - stride - low)
    row = geometry._replace(padding=(*geometry.padding[:-1], along))
    apart = jnp.pad(x, ((0, 0), (0, 0), (0, gap), (0, 0))).swapaxes(0, 1)
    y = plain.convolve(apart.reshape(1, height, -1, channels), weight, row)
    every = y.reshape(positions[0], batch, (width + gap) // stride, -1)
    return every[:, :, : positions[1]].swapaxes(0, 1)


def bundles_of(groups: int, widest: int, wide: int) -> int:
    """Return in how many bundles of groups to take them, few channels or one group in each.

    Of `wide` channels at most, a group having `widest` going in or coming out.
    """
    together = max(
        n for n in range(1, groups + 1) if n == 1 or (groups % n == 0 and n * widest <= wide)
    )
    return groups // together


def in_bundles(one: Callable[..., Array], bundles: int, *arrays: Array) -> Array:
    """Return `one` of every bundle of the arrays' last axes, side by side."""
    if bundles <= _WRITTEN_OUT:
        each = zip(*(jnp.split(a, bundles, -1) for a in arrays), strict=True)
        return jnp.concatenate([one(*bundle) for bundle in each], -1)

    def bundled(a: Array) -> Array:
        return jnp.moveaxis(a.reshape(*a.shape[:-1], bundles, a.shape[-1] // bundles), -2, 0)

    y = jax.lax.map(lambda bundle: one(*bundle), tuple(map(bundled, arrays)))
    last = jnp.moveaxis(y, 0, -2)
    return last.reshape(*last.shape[:-2], last.shape[-2] * last.shape[-1])


def _in_groups(x: Array, weight: Array, geometry: Geometry) -> Array:
    """Convolve bundle by bundle; where x is not finite, group by group, lest one reach others."""
    *_, within, outputs = weight.shape
    groups = x.shape[-1] // within
    bundles = bundles_of(groups, max(within, outputs // groups), WIDE)

    def in_so_many(bundles: int) -> Callable[[Array, Array], Array]:
        return lambda x, weight: _in_bundles_of_groups(x, weight, geometry, bundles)

    if bundles == groups:
        return in_so_many(groups)(x, weight)
    finite = (x * 0).sum() == 0
    y: Array = jax.lax.cond(finite, in_so_many(bundles), in_so_many(groups), x, weight)
    return y


def _in_bundles_of_groups(x: Array, weight: Array, geometry: Geometry, bundles: int) -> Array:
    """Convolve every bundle for one group, the weight between different groups being 0."""
    one = _by_depth if is_deep(geometry) else padded
    *kernel, within, outputs = weight.shape
    together = x.shape[-1] // within // bundles
    split = weight.reshape(*kernel, within, bundles, together, -1)
    own = jnp.eye(together, dtype=bool).reshape((1,) * len(kernel) + (together, 1, 1, together, 1))
    # Not a product, by which what is not finite would reach other groups.
    wide = jnp.where(own, jnp.expand_dims(split, -5), 0)
    wide = wide.reshape(*kernel, together * within, outputs)
    return in_bundles(lambda x, weight: one(x, weight, geometry), bundles, x, wide)
