"""Sums over windows along one axis, and their transpose: what averages and enlarging share."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Up to so many terms are written out; more are left to a reduction.
UNROLLED = 16


def strided_slices(x: Any, axis: int, size: int, stride: int, places: int) -> list[Any]:
    """Return what each of `size` places of a window sees along an axis, `places` numbers each."""
    length = (places - 1) * stride + 1
    return [jax.lax.slice_in_dim(x, k, k + length, stride, axis) for k in range(size)]


def split_axis(x: Any, axis: int, size: int, places: int) -> Any:
    """Return x with an axis in two: windows side by side, and what lies in each."""
    cut = jax.lax.slice_in_dim(x, 0, places * size, axis=axis)
    return cut.reshape(*x.shape[:axis], places, size, *x.shape[axis + 1 :])


def window_sum(x: Any, axis: int, size: int, stride: int, places: int) -> Any:
    """Return ``y[p] = sum_k x[p stride + k]`` along an axis, p below `places`, k below `size`."""
    if size == stride and size > UNROLLED:
        return split_axis(x, axis, size, places).sum(axis + 1)
    return functools.reduce(operator.add, strided_slices(x, axis, size, stride, places))


def dilate(dy: Any, axis: int, size: int, stride: int, length: int) -> Any:
    """Return the transpose of `window_sum`: dx[q], q below `length`, sums the dy[p] that saw q."""
    if size == stride:
        wide = jnp.expand_dims(dy, axis + 1)
        shape = (*dy.shape[: axis + 1], size, *dy.shape[axis + 1 :])
        whole = jnp.broadcast_to(wide, shape).reshape(*dy.shape[:axis], -1, *dy.shape[axis + 1 :])
        return pad_end(whole, axis, length)
    return interleaved(lambda k: dy, axis, size, stride, length)


def interleaved(
    of_place: Callable[[int], Any], axis: int, size: int, stride: int, length: int
) -> Any:
    """Return ``sum_k z_k[p]`` at q = p stride + k along an axis, z_k being ``of_place(k)``.

    The numbers q of one remainder by the stride are shifted sums of whole z_k, without gaps.
    """
    steps = -(-length // stride)

    def shifted(k: int) -> Any:
        z = of_place(k)
        before = k // stride
        config = [(0, 0, 0)] * z.ndim
        config[axis] = (before, steps - z.shape[axis] - before, 0)
        return jax.lax.pad(z, z.dtype.type(0), config)

    phases = [
        functools.reduce(operator.add, map(shifted, range(r, size, stride)))
        for r in range(min(size, stride))
    ]
    # Between the windows, where the stride leaves gaps.
    phases += [jnp.zeros_like(phases[0])] * (stride - len(phases))
    if stride == 1:
        whole = phases[0]
    else:
        whole = jnp.stack(phases, axis + 1)
        whole = whole.reshape(*whole.shape[:axis], -1, *whole.shape[axis + 2 :])
    return pad_end(whole, axis, length)


def pad_end(x: Any, axis: int, length: int) -> Any:
    """Return x with an axis of that length: zeros added at its end, or numbers cut off."""
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (0, length - x.shape[axis], 0)
    return jax.lax.pad(x, x.dtype.type(0), config)
