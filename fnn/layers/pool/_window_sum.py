"""Sums over windows along one axis, and their transpose: what averages and upsampling share."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fnn._core.types import Array
from fnn.layers._window import Geometry, pad, window_slices

# Up to so many terms are written out; more are left to a reduction.
UNROLLED = 16


def strided_slices(x: Array, axis: int, size: int, stride: int, positions: int) -> list[Array]:
    """Return what each offset in a window sees along an axis, `positions` elements each."""
    length = (positions - 1) * stride + 1
    return [jax.lax.slice_in_dim(x, k, k + length, stride, axis) for k in range(size)]


def split_axis(x: Array, axis: int, size: int, positions: int) -> Array:
    """Return x with an axis in two: windows side by side, and what lies in each."""
    cut = jax.lax.slice_in_dim(x, 0, positions * size, axis=axis)
    return cut.reshape(*x.shape[:axis], positions, size, *x.shape[axis + 1 :])


def join_axis(x: Array, axis: int) -> Array:
    """Return x with an axis and the next in one, as they were before `split_axis`."""
    length = x.shape[axis] * x.shape[axis + 1]
    return x.reshape(*x.shape[:axis], length, *x.shape[axis + 2 :])


def window_sum(x: Array, axis: int, size: int, stride: int, positions: int) -> Array:
    """Return ``y[p] = sum_k x[p stride + k]`` along an axis, for `positions` p and `size` k."""
    if size == stride and size > UNROLLED:
        return split_axis(x, axis, size, positions).sum(axis + 1)
    return functools.reduce(operator.add, strided_slices(x, axis, size, stride, positions))


def window_total(x: Array, geometry: Geometry, scale: float) -> Array:
    """Return the sums ``scale x`` of all windows, x being 0 in the padding.

    Of a few terms each is scaled by itself: x scaled before would be written as a whole. Of more,
    one axis is summed after the other.
    """
    positions = geometry.positions(x.shape[1:-1])
    axes = zip(geometry.size, geometry.stride, positions, strict=True)
    padded = pad(x, geometry)
    if math.prod(geometry.size) <= UNROLLED:
        terms = (seen * scale for seen in window_slices(padded, geometry, positions))
        return functools.reduce(operator.add, terms)
    total = padded * scale
    for axis, (k, s, m) in enumerate(axes, 1):
        total = window_sum(total, axis, k, s, m)
    return total


def unit(terms: int) -> float:
    """Return the power of two that keeps a sum of so many terms from overflowing.

    Terms in this unit, divided by a count in this unit, are a mean with the same rounding as
    without: that of numbers as large as the dtype holds is no longer infinite.
    """
    return 2.0 ** -(terms - 1).bit_length()


def dilate(dy: Array, axis: int, size: int, stride: int, length: int) -> Array:
    """Return the transpose of `window_sum`: dx[q], q below `length`, sums the dy[p] that saw q."""
    if size == stride:
        wide = jnp.expand_dims(dy, axis + 1)
        shape = (*dy.shape[: axis + 1], size, *dy.shape[axis + 1 :])
        return pad_end(join_axis(jnp.broadcast_to(wide, shape), axis), axis, length)
    return interleave(lambda k: dy, axis, size, stride, length)


def interleave(
    at_offset: Callable[[int], Array],
    axis: int,
    size: int,
    stride: int,
    length: int,
    combine: Callable[[Array, Array], Array] = operator.add,
) -> Array:
    """Return ``sum_k z_k[p]`` at q = p stride + k along an axis, z_k being ``at_offset(k)``.

    The positions q of one remainder by the stride are shifted sums of whole z_k, without gaps.
    `combine` stands for the sum where that is another one.
    """
    steps = -(-length // stride)

    def shifted(k: int) -> Array:
        z = at_offset(k)
        before = k // stride
        config = [(0, 0, 0)] * z.ndim
        config[axis] = (before, steps - z.shape[axis] - before, 0)
        return jax.lax.pad(z, z.dtype.type(0), config)

    phases = [
        functools.reduce(combine, map(shifted, range(r, size, stride)))
        for r in range(min(size, stride))
    ]
    # Between the windows, where the stride leaves gaps.
    phases += [jnp.zeros_like(phases[0])] * (stride - len(phases))
    whole = phases[0] if stride == 1 else join_axis(jnp.stack(phases, axis + 1), axis)
    return pad_end(whole, axis, length)


def pad_end(x: Array, axis: int, length: int) -> Array:
    """Return x with an axis of that length: zeros added at its end, or elements cut off."""
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (0, length - x.shape[axis], 0)
    return jax.lax.pad(x, x.dtype.type(0), config)
