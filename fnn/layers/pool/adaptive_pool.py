"""Pools to a given size: all of space in one, or in windows as equal as can be.

x (B, *space, C) with any number of axes of space. All raise `fnn.InputError` for an x without axes
of space or of integers.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.description import constructor
from fnn._core.precision import downcast, upcast
from fnn._core.tree import shape_witness
from fnn._core.types import PyTree
from fnn.layer import Layer, stateless
from fnn.layers._window import (
    Geometry,
    Sizes,
    check_sizes,
    check_space,
    count,
    on_axes,
    side_by_side,
)
from fnn.layers.pool._argmax import first_largest, to_the_first
from fnn.layers.pool._window_sum import dilate, window_sum


@constructor
def global_max_pool() -> Layer:
    """Global max pooling: the largest element of each channel.

    Forward ``y[b, c] = max_p x[b, p, c]``; backward ``dx[b, p, c] = dy[b, c]`` where p is the first
    place of the largest number, else 0. A NaN is larger than all numbers. x (B, *space, C),
    y (B, C). Saved: that place.

    >>> import jax.numpy as jnp
    >>> global_max_pool().apply((), (), jnp.array([[[7.0], [9.0], [4.0]]]))[0]
    Array([[9.]], dtype=float32)
    """

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        del params
        check_space(x, None)
        row = x.reshape(x.shape[0], -1, x.shape[-1])
        y, index = first_largest(row, side_by_side(row.shape[1:-1]))
        return y[:, 0], (index, shape_witness(x))

    def backward(params: PyTree, residuals: PyTree, dy: Any) -> tuple[PyTree, Any]:
        del params
        index, witness = residuals
        shape = witness.shape[1:]
        places = (count(shape[1:-1]),)
        dx = to_the_first(index, dy[:, None], side_by_side(places), places)
        return (), dx.reshape(shape)

    return stateless(lambda key, x: (), forward, backward)


@constructor
def global_average_pool() -> Layer:
    """Global average pooling: the mean of each channel.

    Forward ``y[b, c] = sum_p x[b, p, c] / M``; backward ``dx[b, p, c] = dy[b, c] / M``, M being the
    number of places. x (B, *space, C), y (B, C). Saved: the shape of x. Source: Lin, Chen and Yan
    2013, arXiv:1312.4400, section 3.2.

    >>> import jax.numpy as jnp
    >>> global_average_pool().apply((), (), jnp.array([[[7.0], [9.0], [5.0]]]))[0]
    Array([[7.]], dtype=float32)
    """

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        del params
        check_space(x, None)
        return x.mean(tuple(range(1, x.ndim - 1))), shape_witness(x)

    def backward(params: PyTree, witness: PyTree, dy: Any) -> tuple[PyTree, Any]:
        del params
        shape = witness.shape[1:]
        each = (dy / count(shape[1:-1])).reshape(shape[0], *(1,) * (len(shape) - 2), shape[-1])
        return (), jnp.broadcast_to(each, shape)

    return stateless(lambda key, x: (), forward, backward)


@constructor
def adaptive_average_pool(size: int | Sizes) -> Layer:
    """Adaptive average pooling: the means of `size` windows, whatever the size of x.

    Along each axis of space of n numbers, with m = `size`, window p is from ``floor(p n / m)`` up
    to ``ceil((p + 1) n / m)``, its end left out, as in PyTorch: they overlap where m does not
    divide n. Forward ``y[p] = sum_q x[q] / M[p]`` over the M[p] numbers of window p, one
    axis after the other; backward ``dx[q] = sum_p dy[p] / M[p]`` over the windows that have q.

    x (B, *space, C), y (B, *size, C); an int holds for all axes. Saved: the shape of x.

    Raises `fnn.InputError` for a `size` that is no integer of 1 or more or is for other axes.

    >>> import jax.numpy as jnp
    >>> adaptive_average_pool(2).apply((), (), jnp.array([[[7.0], [9.0], [4.0]]]))[0][0, :, 0]
    Array([8. , 6.5], dtype=float32)
    """
    check_sizes("size", size)

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        del params
        axes, y = _axes(size, x), upcast(x)
        for axis, m in axes:
            n = x.shape[axis]
            if n % m:
                y = _times(y, _shares(n, m), axis)
            else:
                y = window_sum(y, axis, n // m, n // m, m) / (n // m)
        return downcast(y, x), shape_witness(x)

    def backward(params: PyTree, witness: PyTree, dy: Any) -> tuple[PyTree, Any]:
        del params
        dx = upcast(dy)
        for axis, m in _axes(size, dy):
            n = witness.shape[1 + axis]
            if n % m:
                dx = _times(dx, _shares(n, m).T, axis)
            else:
                dx = dilate(dx / (n // m), axis, n // m, n // m, n)
        return (), downcast(dx, dy)

    return stateless(lambda key, x: (), forward, backward)


@constructor
def adaptive_max_pool(size: int | Sizes) -> Layer:
    """Adaptive max pooling: the largest elements of `size` windows, whatever the size of x.

    The windows are those of `adaptive_average_pool`. Forward ``y[b, p, c] = max x[b, q, c]`` over
    the q of window p; backward ``dx[b, q, c] = sum dy[b, p, c]`` over the p whose window has its
    first largest number at q, in row-major order. x (B, *space, C), y (B, *size, C). Saved: the
    place of that number in its window, one byte for each number of y where that suffices.

    Raises `fnn.InputError` as `adaptive_average_pool` does.

    >>> import jax.numpy as jnp
    >>> adaptive_max_pool(2).apply((), (), jnp.array([[[7.0], [9.0], [4.0]]]))[0][0, :, 0]
    Array([9., 9.], dtype=float32)
    """
    check_sizes("size", size)

    def windows(x: Any) -> Geometry:
        """Return the geometry of the windows, each as long as the longest, one after the other."""
        axes = _axes(size, x)
        return side_by_side(tuple(_seen(x.shape[axis], m).shape[1] for axis, m in axes))

    def seen(x: Any) -> Any:
        for axis, m in _axes(size, x):
            if x.shape[axis] % m:
                x = x.take(_seen(x.shape[axis], m).ravel(), axis)
        return x

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        del params
        y, index = first_largest(seen(x), windows(x))
        return y, (index, shape_witness(x))

    def backward(params: PyTree, residuals: PyTree, dy: Any) -> tuple[PyTree, Any]:
        del params
        index, witness = residuals
        x = jax.ShapeDtypeStruct(witness.shape[1:], witness.dtype)
        geometry = windows(x)
        sizes = zip(dy.shape[1:-1], geometry.size, strict=True)
        dx = to_the_first(index, dy, geometry, tuple(m * k for m, k in sizes))
        for axis, m in _axes(size, x):
            if x.shape[axis] % m:
                rows = jnp.moveaxis(dx, axis, 0)
                zeros = jnp.zeros((x.shape[axis], *rows.shape[1:]), dx.dtype)
                added = zeros.at[_seen(x.shape[axis], m).ravel()].add(rows)
                dx = jnp.moveaxis(added, 0, axis)
        return (), dx

    return stateless(lambda key, x: (), forward, backward)


def _axes(size: int | Sizes, x: Any) -> list[tuple[int, int]]:
    """Return the axes of x in space, each with the number of windows along it."""
    check_space(x, len(size) if isinstance(size, tuple) else None)
    return list(enumerate(on_axes(size, len(x.shape) - 2), 1))


def _bounds(n: int, m: int) -> tuple[Any, Any]:
    """Return the starts and the ends (m,) of the windows."""
    p = np.arange(m)
    return p * n // m, -(-(p + 1) * n // m)


def _shares(n: int, m: int) -> Any:
    """Return (n, m): the share that a number has in each average."""
    start, end = _bounds(n, m)
    q = np.arange(n)[:, None]
    return ((start <= q) & (q < end)) / (end - start)


def _seen(n: int, m: int) -> Any:
    """Return (m, longest): what each window sees, its last number again where it is shorter."""
    start, end = _bounds(n, m)
    return np.minimum(start[:, None] + np.arange((end - start).max()), end[:, None] - 1)


def _times(x: Any, matrix: Any, axis: int) -> Any:
    """Return the product of a matrix and an axis of x, which goes in by the first of its axes."""
    product = jnp.tensordot(
        x, jnp.asarray(matrix, x.dtype), ((axis,), (0,)), precision=jax.lax.Precision.HIGHEST
    )
    return jnp.moveaxis(product, -1, axis)
