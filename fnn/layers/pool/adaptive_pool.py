"""Pools to a given size: all spatial axes in one, or in windows as equal as can be."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.description import constructor
from fnn._core.mesh import layouts
from fnn._core.precision import downcast, upcast
from fnn._core.tree import shape_witness
from fnn._core.types import Array, Input, Params
from fnn.layer import Layer, stateless
from fnn.layers._window import (
    Geometry,
    Sizes,
    check_sizes,
    check_spatial,
    per_axis,
    side_by_side,
)
from fnn.layers.pool._argmax import Found, at_argmax, scatter_to_argmax, window_argmax
from fnn.layers.pool._window_sum import dilate, unit, window_sum, window_total


@constructor
def global_max_pool() -> Layer:
    """Global max pooling: the largest element of each channel.

    Of several equal ones the first is it; a NaN is larger than all numbers, the last NaN being it.

    Forward:   y[b, c] = max_p x[b, p, c]
    Backward:  dx[b, p, c] = dy[b, c] where p is the position of the largest element, else 0
    Shapes:    x (B, *spatial, C), y (B, C), any number of spatial axes
    Saves:     that position
    Raises:    InputError for an x without spatial axes or of integers.

    >>> import jax.numpy as jnp
    >>> global_max_pool().apply((), (), jnp.array([[[7.0], [9.0], [4.0]]]))[0]
    Array([[9.]], dtype=float32)
    """

    def in_a_row(x: Input) -> Array:
        check_spatial(x, None)
        return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])

    def reference(params: Params, x: Input) -> Array:
        del params
        row = in_a_row(x)
        return at_argmax(row, side_by_side(row.shape[1:-1]))[:, 0]

    def forward(params: Params, x: Input) -> tuple[Array, Found]:
        del params
        row = in_a_row(x)
        y, found = window_argmax(row, side_by_side(row.shape[1:-1]))
        return y[:, 0], (found, shape_witness(x))

    def backward(params: Params, residuals: Found, dy: Array) -> tuple[Params, Array]:
        del params
        found, witness = residuals
        shape = witness.shape[1:]
        row = (math.prod(shape[1:-1]),)
        dx = scatter_to_argmax(found, dy[:, None], side_by_side(row), row)
        return (), dx.reshape(shape)

    return stateless(lambda key, x: (), forward, backward, reference=reference)


@constructor
def global_average_pool() -> Layer:
    """Global average pooling: the mean of each channel.

    The sum is taken in float32 or wider, and does not overflow where the mean does not.

    Forward:   y[b, c] = sum_p x[b, p, c] / M, M being the number of spatial positions
    Backward:  dx[b, p, c] = dy[b, c] / M
    Shapes:    x (B, *spatial, C), y (B, C), any number of spatial axes
    Saves:     the shape of x
    Raises:    InputError for an x without spatial axes or of integers.
    Source:    Lin, Chen and Yan 2013, arXiv:1312.4400, section 3.2.

    >>> import jax.numpy as jnp
    >>> global_average_pool().apply((), (), jnp.array([[[7.0], [9.0], [5.0]]]))[0]
    Array([[7.]], dtype=float32)
    """

    def forward(params: Params, x: Input) -> tuple[Array, Array]:
        del params
        check_spatial(x, None)
        terms = math.prod(x.shape[1:-1])
        total = _total(upcast(x), unit(terms))
        return downcast(total / (terms * unit(terms)), x), shape_witness(x)

    def backward(params: Params, witness: Array, dy: Array) -> tuple[Params, Array]:
        del params
        batch, *spatial, channels = witness.shape[1:]
        each = downcast(upcast(dy) / math.prod(spatial), dy)
        each = each.reshape(batch, *(1,) * len(spatial), channels)
        return (), jnp.broadcast_to(each, witness.shape[1:])

    return stateless(lambda key, x: (), forward, backward)


def _total(x: Array, scale: float) -> Array:
    """Return the sums ``scale x`` over all positions.

    On CPUs as a product: of a sum of what is multiplied before XLA reads x six times as long.
    """
    axes = tuple(range(1, x.ndim - 1))

    def product(x: Array) -> Array:
        weights = jnp.zeros_like(x[..., 0]) + scale
        return jax.lax.dot_general(weights, x, ((axes, axes), ((0,), (0,))), precision="highest")

    def plain(x: Array) -> Array:
        return (x * scale).sum(axes)

    # Where types tell layouts a sum knows where its result lies, and a product does not.
    if layouts(x) is not None:
        return plain(x)
    total: Array = jax.lax.platform_dependent(x, cpu=product, default=plain)
    return total


@constructor
def adaptive_average_pool(size: int | Sizes) -> Layer:
    """Adaptive average pooling: the means of `size` windows, whatever the size of x.

    Along each spatial axis of n elements, with m = `size`, window p is from ``floor(p n / m)`` up
    to ``ceil((p + 1) n / m)``, its end left out, as in PyTorch: they overlap where m does not
    divide n; then one axis is averaged after the other. The sums are taken in float32 or wider.

    Forward:   y[p] = sum_q x[q] / M[p] over the M[p] elements q of window p
    Backward:  dx[q] = sum_p dy[p] / M[p] over the windows p that have q

    Args:
        size: how many windows there are, an int or one for each spatial axis.
    Shapes:    x (B, *spatial, C), y (B, *size, C), any number of spatial axes
    Saves:     the shape of x
    Raises:    InputError for a `size` that is no integer of 1 or more or is for other axes, and
        for an x without spatial axes or of integers.

    >>> import jax.numpy as jnp
    >>> adaptive_average_pool(2).apply((), (), jnp.array([[[7.0], [9.0], [4.0]]]))[0][0, :, 0]
    Array([8. , 6.5], dtype=float32)

    """
    check_sizes("size", size)

    def forward(params: Params, x: Input) -> tuple[Array, Array]:
        del params
        axes, y = _axes(size, x), upcast(x)
        if not any(x.shape[axis] % m for axis, m in axes):
            geometry = side_by_side(tuple(x.shape[axis] // m for axis, m in axes))
            terms = math.prod(geometry.size)
            y = window_total(y, geometry, unit(terms)) / (terms * unit(terms))
            return downcast(y, x), shape_witness(x)
        for axis, m in axes:
            n = x.shape[axis]
            if n % m:
                start, end = _bounds(n, m)
                y = _sum_ranges(y, axis, start, end, 1 / (end - start)[:, None])
            else:
                k = n // m
                y = window_sum(y * unit(k), axis, k, k, m) / (k * unit(k))
        return downcast(y, x), shape_witness(x)

    def backward(params: Params, witness: Array, dy: Array) -> tuple[Params, Array]:
        del params
        dx = upcast(dy)
        for axis, m in _axes(size, dy):
            n = witness.shape[1 + axis]
            if n % m:
                start, end = _bounds(n, m)
                # The windows that have q are those of one range.
                first = np.searchsorted(end, np.arange(n), "right")
                after = np.searchsorted(start, np.arange(n), "right")
                dx = _sum_ranges(dx, axis, first, after, _ranges(first, after, 1 / (end - start)))
            else:
                dx = dilate(dx / (n // m), axis, n // m, n // m, n)
        return (), downcast(dx, dy)

    return stateless(lambda key, x: (), forward, backward)


@constructor
def adaptive_max_pool(size: int | Sizes) -> Layer:
    """Adaptive max pooling: the largest elements of `size` windows, whatever the size of x.

    The windows are those of `adaptive_average_pool`. Of several equal elements the first in
    row-major order is it; a NaN is larger than all numbers, the last NaN being it.

    Forward:   y[b, p, c] = max x[b, q, c] over the q of window p
    Backward:  dx[b, q, c] = sum dy[b, p, c] over the p whose window is largest at q

    Args:
        size: how many windows there are, an int or one for each spatial axis.
    Shapes:    x (B, *spatial, C), y (B, *size, C), any number of spatial axes
    Saves:     where y is in its window, one byte an element of y for windows of fewer than 256
    Raises:    InputError as `adaptive_average_pool` does.

    >>> import jax.numpy as jnp
    >>> adaptive_max_pool(2).apply((), (), jnp.array([[[7.0], [9.0], [4.0]]]))[0][0, :, 0]
    Array([9., 9.], dtype=float32)

    """
    check_sizes("size", size)

    def reference(params: Params, x: Input) -> Array:
        del params
        return at_argmax(_windows(x, size), _geometry(x, size))

    def forward(params: Params, x: Input) -> tuple[Array, Found]:
        del params
        y, found = window_argmax(_windows(x, size), _geometry(x, size))
        return y, (found, shape_witness(x))

    def backward(params: Params, residuals: Found, dy: Array) -> tuple[Params, Array]:
        del params
        found, witness = residuals
        x = jax.ShapeDtypeStruct(witness.shape[1:], witness.dtype)
        geometry = _geometry(x, size)
        sizes = zip(dy.shape[1:-1], geometry.size, strict=True)
        dx = scatter_to_argmax(found, upcast(dy), geometry, tuple(m * k for m, k in sizes))
        for axis, m in _axes(size, x):
            if x.shape[axis] % m:
                rows = jnp.moveaxis(dx, axis, 0)
                zeros = jnp.zeros((x.shape[axis], *rows.shape[1:]), dx.dtype)
                added = zeros.at[_seen(x.shape[axis], m).ravel()].add(rows)
                dx = jnp.moveaxis(added, 0, axis)
        return (), downcast(dx, dy)

    return stateless(lambda key, x: (), forward, backward, reference=reference)


def _axes(size: int | Sizes, x: Input) -> list[tuple[int, int]]:
    """Return the spatial axes of x, each with the number of windows along it."""
    check_spatial(x, len(size) if isinstance(size, tuple) else None)
    return list(enumerate(per_axis(size, len(x.shape) - 2), 1))


def _bounds(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the starts and the ends (m,) of the windows."""
    p = np.arange(m)
    return p * n // m, -(-(p + 1) * n // m)


def _seen(n: int, m: int) -> np.ndarray:
    """Return (m, longest): what each window sees, its last element again where it is shorter."""
    start, end = _bounds(n, m)
    return np.minimum(start[:, None] + np.arange((end - start).max()), end[:, None] - 1)


def _geometry(x: Input, size: int | Sizes) -> Geometry:
    """Return the geometry of windows each as long as the longest, one after the other."""
    axes = _axes(size, x)
    return side_by_side(tuple(_seen(x.shape[axis], m).shape[1] for axis, m in axes))


def _windows(x: Array, size: int | Sizes) -> Array:
    """Return those windows."""
    for axis, m in _axes(size, x):
        if x.shape[axis] % m:
            x = jnp.take(x, _seen(x.shape[axis], m).ravel(), axis, mode="clip")
    return x


def _ranges(start: np.ndarray, end: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return (m, longest): the values from a start to an end, and anything beyond."""
    offsets = start[:, None] + np.arange((end - start).max())
    return values[np.minimum(offsets, len(values) - 1)]


def _sum_ranges(
    x: Array, axis: int, start: np.ndarray, end: np.ndarray, weights: np.ndarray
) -> Array:
    """Return ``y[p] = sum_q x[q] weights[p, q - start[p]]``, q from start[p] up to end[p].

    What is beyond an end is left out rather than multiplied by 0, which it would survive as NaN.
    """
    offsets = np.arange((end - start).max())
    inside = offsets < (end - start)[:, None]
    seen = np.minimum(start[:, None] + offsets, x.shape[axis] - 1)
    terms = jnp.take(x, seen.ravel(), axis, mode="clip")
    terms = terms.reshape(*x.shape[:axis], *seen.shape, *x.shape[axis + 1 :])
    others = [i for i in range(terms.ndim) if i not in (axis, axis + 1)]
    shares = jnp.asarray(np.expand_dims(np.broadcast_to(weights, seen.shape), others), x.dtype)
    return jnp.where(np.expand_dims(inside, others), terms * shares, 0).sum(axis + 1)
