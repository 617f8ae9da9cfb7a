"""The gradient of a convolution's weight, in the formulation measured best for platform and shape.

GPU and TPU get that of `_reference`. XLA for CPU puts that into its own order of
axes outside of loops only: inside one, as a training run is, it takes a hundred times as long. So
on CPU a few examples after the other, that no copy of x or dy is ever whole:

- as one matrix product, which both cores of the machine measured share where XLA's convolution kept
  to one (28x28, 32 to 64 channels, batch 128: 16 ms, where the plain one took 48 and one in the
  order of axes that it likes 28, and a seventh of the memory); or as one for each of some parts of
  the sum, which is shared more evenly (32x32, 32 to 32 channels, batch 64: 11 ms, from 15);
- over one spatial axis, with few channels, few bytes or large examples: as a convolution in the
  order of axes that XLA likes;
- over three spatial axes: as over two, what the window sees along the first being channels, or, of
  few bytes, as one product too (16 to 16 channels, 16x16x16, batch 4: 1.0 ms, from 1.8);
- over 3 x 3 with 64 to 256 channels: in the tiles of `_winograd` (128 channels, 8x8, batch 64: 2.7
  ms, from 4.0);
- of a kernel of size 1: as one product, of what a stride leaves of x;
- of windows side by side, as of patches: as one product too (transposed 2x2, stride 2, 5 to 32
  channels, 37x53, batch 1: 0.35 ms, from 3.1);
- of a window of fewer numbers than channels coming out, 32 or more: as a product of what it sees;
- one channel in a group: products of x, shifted, and dy, summed (depthwise 3x3, 128 channels,
  28x28, batch 32, on one core: 8 ms, where products of all channels with all took 60).
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

from fnn._core.mesh import parts_of, scan
from fnn._core.types import Array, Unchecked
from fnn.layers._window import Geometry, pad, window_slices
from fnn.layers.conv import _reference as plain, _winograd as winograd
from fnn.layers.conv._fast import (
    TERMS,
    WIDE,
    bundles_of,
    columns,
    columns_pay,
    depth_as_channels,
    in_bundles,
    is_deep,
    on_cpu,
    padded,
)
from fnn.layers.dense import outer_sum

OfExamples: TypeAlias = Callable[[Array, Array, Geometry], Array]

# Bytes of the examples that are taken at a time: they stay in a core's cache.
_BYTES = 2 * 2**20
# Parts of a sum over examples, for as many threads, and the entries of what is so summed.
_THREADS, _ENTRIES = 8, range(2**12, 3 * 2**14 + 1)
# Products of groups of one channel that are written out one by one.
_PRODUCTS = 72
# Bytes from which a product is faster than a convolution.
_SOME = 2**18


def weight_gradient(x: Array, dy: Array, geometry: Geometry, groups: int) -> Array:
    """Return dweight of x and dy."""
    return on_cpu(
        lambda x, dy: _weight_gradient_in_groups(x, dy, geometry, groups),
        lambda x, dy: plain.weight_gradient(x, dy, geometry, groups),
        x,
        dy,
    )


def _weight_gradient_in_groups(x: Array, dy: Array, geometry: Geometry, groups: int) -> Array:
    """Take every bundle for one group, and of its gradient what lies within the groups."""
    if groups == 1:
        return _weight_gradient(x, dy, geometry)
    within, outputs = x.shape[-1] // groups, dy.shape[-1]
    if within == 1 and math.prod(geometry.size) <= TERMS:
        return _in_parts(_in_sums, x, dy, geometry)
    # Half of what `convolve` puts together: products of different groups cost more here.
    bundles = bundles_of(groups, max(within, outputs // groups), WIDE // 2)
    together = groups // bundles
    wide = in_bundles(lambda x, dy: _weight_gradient(x, dy, geometry), bundles, x, dy)
    split = wide.reshape(*geometry.size, together, within, bundles, together, -1)
    own = jnp.diagonal(split, axis1=-5, axis2=-2)
    return jnp.moveaxis(own, -1, -2).reshape(*geometry.size, within, outputs)


def _weight_gradient(x: Array, dy: Array, geometry: Geometry) -> Array:
    """Return dweight in one group."""
    if math.prod(geometry.size) == 1 or _are_side_by_side(geometry):
        return _in_columns(x, dy, geometry)
    if is_deep(geometry) and _deep_products_pay(x, dy, geometry):
        return _in_parts(_in_products, x, dy, geometry)
    if is_deep(geometry):
        flat, over_two = depth_as_channels(x, geometry)
        each = _weight_gradient(flat, dy.reshape(-1, *dy.shape[2:]), over_two)
        depths = each.reshape(*over_two.size, geometry.size[0], x.shape[-1], dy.shape[-1])
        return jnp.moveaxis(depths, 2, 0)
    return _in_parts(_in_order, x, dy, geometry)


def _are_side_by_side(geometry: Geometry) -> bool:
    """Return whether what the windows see is x in another order, in few enough terms."""
    ones = max(*geometry.dilation, *geometry.input_dilation) == 1
    return ones and geometry.size == geometry.stride and math.prod(geometry.size) <= TERMS


def _in_parts(one: OfExamples, x: Array, dy: Array, geometry: Geometry) -> Array:
    """Take a few examples at a time, in products where these pay in place of `_in_order`."""
    batch: Unchecked = x.shape[0]
    if not isinstance(batch, int):
        # A symbolic one, as in `jax.export`, has no known number of parts.
        return one(x, dy, geometry)
    example = (x.size * x.itemsize + dy.size * dy.itemsize) // max(1, batch)
    # Every device of a mesh goes through its own examples.
    devices = parts_of(batch)
    own = batch // devices
    most = max(1, min(own, _BYTES // max(1, example)))
    # Of a batch in equal parts every part is read in place; what is left over takes a copy.
    few = next((n for n in range(most, most // 2, -1) if own % n == 0), most)
    # The columns of a part that is larger take more than a plain copy.
    equal = example <= _BYTES and own % few == 0
    if one is _in_order and winograd.pays(x, dy, geometry, own):
        sums = _over_parts(winograd.tile_sums, x, dy, geometry, devices, few)
        return winograd.combined(sums)
    if one is _in_order and equal:
        one = _product_that_pays(x.shape[-1], dy.shape[-1], geometry, own * example)
    return _over_parts(one, x, dy, geometry, devices, few)


def _over_parts(
    one: OfExamples, x: Array, dy: Array, geometry: Geometry, devices: int, few: int
) -> Array:
    """Add up the gradients of so many examples of each device after the others."""
    own, trailing = x.shape[0] // devices, x.ndim - 2
    whole = own // few if few < own else 0
    cut = whole * few

    # The examples of a part side by side: an axis of one example would cost a copy of x. Sums are
    # three times as fast with each by itself.
    def parts(a: Array) -> Array:
        rows = (few, a.shape[1]) if one is _in_sums else (few * a.shape[1],)
        shape = (whole, *rows, *a.shape[2:])
        # An axis of one device would take a product twice as long.
        if devices == 1:
            return a[:cut].reshape(shape)
        each = a.reshape(devices, own, *a.shape[1:])[:, :cut]
        return each.reshape(devices, *shape).swapaxes(0, 1)

    def left_over(a: Array) -> Array:
        if devices == 1:
            return a[cut:]
        return a.reshape(devices, own, *a.shape[1:])[:, cut:].reshape(-1, *a.shape[1:])

    def step(total: Array, part: list[Array]) -> tuple[Array, None]:
        x, dy = (a.reshape(devices * few, -1, *a.shape[-trailing:]) for a in part)
        return total + one(x, dy, geometry), None

    size = winograd.TILE if one is winograd.tile_sums else geometry.size
    within = 1 if one is _in_sums else x.shape[-1]
    total = jnp.zeros((*size, within, dy.shape[-1]), x.dtype)
    if whole:
        total, _ = scan(step, total, [parts(x), parts(dy)])
    return total + one(left_over(x), left_over(dy), geometry) if cut < own else total


def _product_that_pays(inputs: int, outputs: int, geometry: Geometry, size: int) -> OfExamples:
    """Return the kind of product for so many bytes, or `_in_order` where none pays."""
    many = size > 2 * _BYTES
    if many and outputs >= WIDE and columns_pay(inputs, outputs, geometry):
        return _in_columns
    enough = many or (max(geometry.stride) == 1 and size >= _SOME)
    return _in_products if enough and _products_pay(inputs, geometry) else _in_order


def _deep_products_pay(x: Array, dy: Array, geometry: Geometry) -> bool:
    """Return whether products take three axes as they are: all of them at once, if few bytes."""
    batch: Unchecked = x.shape[0]
    if not isinstance(batch, int) or max(geometry.stride) > 1:
        return False
    few = x.size * x.itemsize + dy.size * dy.itemsize <= _BYTES * parts_of(batch)
    return few and _products_pay(x.shape[-1], geometry)


def _products_pay(channels: int, geometry: Geometry) -> bool:
    """Return whether what is multiplied is wide enough, in few enough terms.

    Over one axis the convolution is as fast, and needs no copies.
    """
    strided, offsets = max(geometry.stride) > 1, math.prod(geometry.size)
    terms = offsets if strided else offsets // geometry.size[-1]
    wide = channels * offsets >= 8 * WIDE if strided else channels * geometry.size[-1] >= WIDE
    return len(geometry.size) > 1 and wide and terms <= TERMS


def _in_products(x: Array, dy: Array, geometry: Geometry) -> Array:
    """Return dweight as one matrix product.

    x is shifted by the columns of the kernel, and dy, the other way, by its rows. With strides x is
    taken at every offset in the kernel.
    """
    if max(geometry.stride) > 1:
        return _in_columns(x, dy, geometry)
    *rows, last = geometry.size
    height = x.shape[1:-2]
    lows = [low for low, _ in geometry.padding]
    by = geometry.dilation
    columns = [
        _shifted(x, {x.ndim - 2: (lows[-1] - k * by[-1], dy.shape[-2])}) for k in range(last)
    ]
    lines = [
        _shifted(dy, {i + 1: (k * by[i] - lows[i], height[i]) for i, k in enumerate(offset)})
        for offset in itertools.product(*map(range, rows))
    ]
    product = _shared_sum(jnp.concatenate(columns, -1), jnp.concatenate(lines, -1))
    split = product.reshape(last, x.shape[-1], -1, dy.shape[-1]).transpose(2, 0, 1, 3)
    return split.reshape(*geometry.size, x.shape[-1], dy.shape[-1])


def _in_columns(x: Array, dy: Array, geometry: Geometry) -> Array:
    """Return dweight as a product of what the window sees and dy."""
    seen = columns(x, geometry, dy.shape[1:-1])
    return _shared_sum(seen, dy).reshape(*geometry.size, x.shape[-1], dy.shape[-1])


def _shared_sum(x: Array, dy: Array) -> Array:
    """Return `outer_sum` of x (B, ..., I) and dy (B, ..., O), in parts for several threads.

    XLA for CPU shares a product by its rows and columns, of which there are few, and not by terms.
    """
    batch: Unchecked = x.shape[0]
    # A symbolic one, as in `jax.export`, has no known divisors; devices have parts of their own.
    whole = isinstance(batch, int) and parts_of(batch) == 1
    few = x.shape[-1] * dy.shape[-1] in _ENTRIES
    parts = math.gcd(batch, _THREADS) if whole and few else 1
    if parts == 1:
        return outer_sum(x, dy)
    # Several products at once take both factors as they lie.
    rows = math.prod(x.shape[:-1]) // parts
    x, dy = (a.reshape(parts, rows, a.shape[-1]) for a in (x, dy))
    each = jax.lax.dot_general(x, dy, (((1,), (1,)), ((0,), (0,))))
    return functools.reduce(operator.add, each)


def _shifted(x: Array, shifts: dict[int, tuple[int, int]]) -> Array:
    """Return x shifted along some axes, into another size: zeros come in, ends are cut off."""
    pads = [(0, 0, 0)] * x.ndim
    for axis, (by, size) in shifts.items():
        pads[axis] = (by, size - x.shape[axis] - by, 0)
    return jax.lax.pad(x, x.dtype.type(0), pads)


def _in_sums(x: Array, dy: Array, geometry: Geometry) -> Array:
    """Return dweight of groups of one channel: what each entry of the kernel sees, times dy.

    Products of several examples are added before they are written: XLA for CPU writes what it takes
    to a sum over positions.
    """
    multiplier = dy.shape[-1] // x.shape[-1]
    x = jnp.repeat(x, multiplier, axis=-1) if multiplier > 1 else x
    batch: Unchecked = x.shape[0]
    offsets, last = math.prod(geometry.size), geometry.size[-1]
    # A symbolic one, as in `jax.export`, has no known divisors.
    several = math.gcd(batch, max(1, _PRODUCTS // offsets)) if isinstance(batch, int) else 1
    barrier = jax.lax.optimization_barrier
    parts = (jnp.split(a, several) for a in (barrier(pad(x, geometry)), dy))
    products = [
        [seen * dy for seen in window_slices(x, geometry, dy.shape[1:-1])]
        for x, dy in zip(*parts, strict=True)
    ]
    each = [functools.reduce(operator.add, terms) for terms in zip(*products, strict=True)]
    rows = [barrier(jnp.stack(each[k : k + last])) for k in range(0, offsets, last)]
    sums = jnp.stack([row.sum(tuple(range(1, row.ndim - 1))) for row in rows])
    return sums.reshape(*geometry.size, 1, dy.shape[-1])


def _in_order(x: Array, dy: Array, geometry: Geometry) -> Array:
    """Return dweight as a convolution whose examples are channels, and its channels examples."""
    rank = len(geometry.size)
    spatial = tuple(range(1, rank + 1))
    back = plain.exchanged(x.shape[1:-1], dy.shape[1:-1], geometry)
    swapped = padded(x.transpose(rank + 1, *spatial, 0), dy.transpose(*spatial, 0, rank + 1), back)
    return swapped.transpose(*spatial, 0, rank + 1)
