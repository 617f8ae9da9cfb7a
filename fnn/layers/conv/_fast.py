"""The sums of `fnn.layers.convolve`, in the formulation measured best for platform and shape.

GPU and TPU have good convolutions, and get them. XLA's for CPU are good in one group and for
channels last; those in groups it computes number by number. So on CPU:

- one channel in a group, as in a depthwise convolution: shifted copies of x times the weights,
  number by number, which the compiler makes one pass of;
- more groups: a convolution for every few of them, with zeros between different groups;
- a kernel of one place: a matrix product;
- an x with zeros between its numbers, as in dx of a stride: a convolution for each phase, which
  meets no such zeros (dx of 5x5, stride 2, 32 to 64 channels, 28x28, batch 128: 8 ms, from 46);
- in JAX 0.10.2, 32 to about a hundred channels: examples side by side in long rows, zeros between
  them, because XLA shares a convolution among threads by the length of its rows (in a step of the
  network of benchmarks/network_step.py 10 ms, where the plain one took 17 on one of two cores;
  alone the copies cost a part of that). Fewer channels cost less than the copy; more are shared as
  they are;
- in JAX 0.10.2, no padding: some, since without any it took 67 ms.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn._core.precision import downcast, upcast
from fnn.layers._window import Geometry, Sizes, count, pad, side_by_side, window_slices
from fnn.layers.conv import _reference as plain

# More than this many terms written out one by one make a program long to compile.
TERMS = 64
# Channels up to which groups are put together.
WIDE = 32
# XLA for CPU of JAX 0.10.2, and of no other from 0.8.0 to 0.11.2: a convolution over two axes is
# shared among threads where rows are as long as this, or sums have more terms than these; one
# without padding takes up to five times as long as one with it. Fewer channels coming out than
# `_FEW` gain less than the copies cost.
_BY_ROWS = (0, 10, 2) <= jax.__version_info__ < (0, 11)
_LONG = 448
_SUMMED = range(256, 1025)
_FEW = 8


def convolve(x: Any, weight: Any, geometry: Geometry) -> Any:
    """Return y of x and weight."""
    way = _way_on_cpu(x, weight, geometry)
    if way is plain.convolve:
        return way(x, weight, geometry)
    ways = (functools.partial(each, geometry=geometry) for each in (way, plain.convolve))
    return on_cpu(*ways, x, weight)


def _way_on_cpu(x: Any, weight: Any, geometry: Geometry) -> Callable[..., Any]:
    """Return the formulation that pays on CPU."""
    within = weight.shape[-2]
    if within == 1 and count(geometry.size) <= TERMS:
        return _shifted
    if x.shape[-1] > within:
        return _in_groups
    if geometry == side_by_side((1,) * len(geometry.size)):
        return lambda x, weight, geometry: x @ weight.reshape(weight.shape[-2:])
    if _phases_pay(weight, geometry):
        return _by_phase
    if _rows_pay(x, weight, geometry):
        return _in_rows
    return padded if _pays_padded(weight, geometry) else plain.convolve


def input_gradient(dy: Any, weight: Any, geometry: Geometry, space: Sizes, groups: int) -> Any:
    """Return dx (B, *space, I) of dy and weight."""
    return convolve(dy, *plain.flip_kernel(weight, geometry, space, dy.shape[1:-1], groups))


def on_cpu(cpu: Callable[..., Any], default: Callable[..., Any], *arrays: Any) -> Any:
    """Call one function on CPU, in float32 or wider, and another elsewhere."""
    return jax.lax.platform_dependent(
        *arrays,
        cpu=lambda *arrays: downcast(cpu(*map(upcast, arrays)), arrays[0]),
        default=default,
    )


def _shifted(x: Any, weight: Any, geometry: Geometry) -> Any:
    """Sum the places that the window sees, each times its weights, for groups of one channel."""
    channels, outputs = x.shape[-1], weight.shape[-1]
    places = geometry.places(x.shape[1:-1])
    weights = weight.reshape(-1, *(1,) * (x.ndim - 1), channels, outputs // channels)
    terms = (
        seen[..., None] * one
        for seen, one in zip(
            window_slices(pad(x, geometry), geometry, places), weights, strict=True
        )
    )
    return functools.reduce(operator.add, terms).reshape(x.shape[0], *places, outputs)


def _pays_padded(weight: Any, geometry: Geometry) -> bool:
    """Return whether there is no padding and some would pay."""
    overlap = any(k > s for k, s in zip(geometry.span, geometry.stride, strict=True))
    bare = all(pads == (0, 0) for pads in geometry.padding) and len(geometry.size) == 2
    return _BY_ROWS and bare and overlap and weight.size > TERMS * weight.shape[-1]


def padded(x: Any, weight: Any, geometry: Geometry) -> Any:
    """Convolve with one more row of zeros where there is no padding, and leave out what sees it."""
    if not _pays_padded(weight, geometry):
        return plain.convolve(x, weight, geometry)
    places = geometry.places(x.shape[1:-1])
    more = geometry._replace(padding=((0, 1), *geometry.padding[1:]))
    return plain.convolve(x, weight, more)[:, : places[0]]


def _phases_pay(weight: Any, geometry: Geometry) -> bool:
    """Return whether x is spread, its channels many, and every place of the kernel on its own."""
    ones = max(*geometry.stride, *geometry.dilation) == 1
    return ones and max(geometry.spread) > 1 and weight.shape[-2] >= WIDE <= 4 * weight.shape[-1]


def _by_phase(x: Any, weight: Any, geometry: Geometry) -> Any:
    """Convolve without the zeros between the numbers of a spread x.

    Places of y that lie a spread apart see the same places of the kernel: those whose offset meets
    no zeros. Each such phase of y is a convolution with a part of the kernel.
    """
    rank, ones = len(geometry.size), (1,) * len(geometry.size)
    space, spread = x.shape[1:-1], geometry.spread
    places = geometry.places(space)
    most = [-(-m // f) for m, f in zip(places, spread, strict=True)]
    phases = []
    for phase in itertools.product(*map(range, spread)):
        axes = list(zip(phase, spread, geometry.padding, strict=True))
        first = [(low - at) % f for at, f, (low, _) in axes]
        part = weight[tuple(slice(k, None, f) for k, f in zip(first, spread, strict=True))]
        lows = [(low - at - k) // f for k, (at, f, (low, _)) in zip(first, axes, strict=True)]
        sizes = zip(lows, most, space, part.shape, strict=False)
        padding = tuple((low, m - n - low + k - 1) for low, m, n, k in sizes)
        seen = Geometry(part.shape[:rank], ones, padding, ones, ones)
        none = jnp.zeros((x.shape[0], *most, weight.shape[-1]), x.dtype)
        phases.append(_way_on_cpu(x, part, seen)(x, part, seen) if part.size else none)
    apart = jnp.stack(phases).reshape(*spread, *phases[0].shape)
    order = [axis for i in range(rank) for axis in (rank + 1 + i, i)]
    y = apart.transpose(rank, *order, 2 * rank + 1)
    whole = y.reshape(x.shape[0], *(m * f for m, f in zip(most, spread, strict=True)), y.shape[-1])
    return whole[(slice(None), *map(slice, places))]


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


def bundles_of(groups: int, widest: int) -> int:
    """Return in how many bundles of few groups to take them, `widest` channels in each group."""
    together = max(
        n for n in range(1, groups + 1) if n == 1 or (groups % n == 0 and n * widest <= WIDE)
    )
    return groups // together


def bundled(x: Any, bundles: int) -> Any:
    """Return x (..., C) as (bundles, ..., C / bundles)."""
    return jnp.moveaxis(x.reshape(*x.shape[:-1], bundles, -1), -2, 0)


def unbundled(z: Any) -> Any:
    """Return the transpose of `bundled`: (bundles, ..., C / bundles) as (..., C)."""
    last = jnp.moveaxis(z, 0, -2)
    return last.reshape(*last.shape[:-2], -1)


def _in_groups(x: Any, weight: Any, geometry: Geometry) -> Any:
    """Convolve bundle by bundle, the weight between different groups of a bundle being 0."""
    *kernel, within, outputs = weight.shape
    groups = x.shape[-1] // within
    bundles = bundles_of(groups, max(within, outputs // groups))
    together = groups // bundles
    split = weight.reshape(*kernel, within, bundles, together, -1)
    own = jnp.eye(together, dtype=weight.dtype).reshape(together, 1, 1, together, 1)
    spread = jnp.expand_dims(split, -5) * own.reshape((1,) * len(kernel) + own.shape)
    wide = spread.reshape(*kernel, together * within, outputs)
    return unbundled(
        jax.lax.map(
            lambda pair: padded(pair[0], pair[1], geometry),
            (bundled(x, bundles), bundled(wide, bundles)),
        )
    )
