"""Sums as XLA for CPUs computes them in the time that it takes to read what is summed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn._core.mesh import layouts, vary_over, varying_axes
from fnn._core.precision import downcast, wide_dtype
from fnn._core.types import Array

# Up to so many numbers in a row XLA for CPUs adds rows as fast as it reads them.
_LONG = 2**14


def row_sum(x: Array, weight: Array | None = None) -> Array:
    """Return the sum of x times a weight along the last axis, which stays with length 1.

    On CPUs it is a product with the weight. Of a sum XLA would make one pass with what is computed
    of it, before which it writes all that goes in, each with the shape of x: twice the time.

    Args:
        x: (..., C).
        weight: (C,), or None for ones.

    >>> row_sum(jnp.array([[1.0, 2.0]]))
    Array([[3.]], dtype=float32)
    """
    if weight is None:
        weight = jnp.ones(x.shape[-1], x.dtype)
    found: Array = jax.lax.platform_dependent(x, weight, cpu=_product, default=_sum)
    return found


def _product(x: Array, weight: Array) -> Array:
    return jnp.matmul(x, weight, precision="highest")[..., None]


def _sum(x: Array, weight: Array) -> Array:
    return sum_of_product(x, jnp.broadcast_to(weight, x.shape), -1)


def sum_of_product(a: Array, b: Array, axes: int | tuple[int, ...]) -> Array:
    """Return the sum of ``a b`` along some axes, which stay with length 1.

    Axes of length 1 are taken out of a and b before, and put back after: with one XLA for CPUs
    takes up to 40 times as long, and with none no longer (4096x1x512: 23 ms, from 0.6).

    Args:
        a: any array.
        b: of the same shape.
        axes: those to sum along.

    >>> sum_of_product(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0]]), -1)
    Array([[11.]], dtype=float32)
    """
    axes = (axes,) if isinstance(axes, int) else axes
    summed = {axis % a.ndim for axis in axes}
    ones = tuple(axis for axis, size in enumerate(a.shape) if size == 1)
    longer = [axis for axis in range(a.ndim) if axis not in ones]
    product = jnp.squeeze(a, ones) * jnp.squeeze(b, ones)
    along = tuple(i for i, axis in enumerate(longer) if axis in summed)
    return jnp.expand_dims(product.sum(along, keepdims=True), ones)


def leading_sum(x: Array, kept: int = 1) -> Array:
    """Return the sum along all axes but the last ones, which is added up in 32 bits or more.

    On CPUs it is a product with ones where what is kept is long: XLA takes 4 ns for each number of
    such rows (bias of 50,257 classes, 256 rows: 12 ms, from 86).

    Args:
        x: (..., C), or with more axes at the end.
        kept: how many axes are kept.

    >>> leading_sum(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
    Array([4., 6.], dtype=float32)
    """
    leading, size = tuple(range(x.ndim - kept)), math.prod(x.shape[x.ndim - kept :])

    def plain(x: Array) -> Array:
        return x.sum(leading)

    def product(x: Array) -> Array:
        ones = jnp.ones_like(x[(..., *[0] * kept)])
        contracted, wide = ((leading, leading), ((), ())), wide_dtype(x.dtype)
        total = jax.lax.dot_general(
            ones, x, contracted, precision="highest", preferred_element_type=wide
        )
        return downcast(total, x)

    # A symbolic size, as in `jax.export`, is known to be no longer than another only.
    if not leading or layouts(x) is not None or not (isinstance(size, int) and size > _LONG):
        return plain(x)
    found: Array = jax.lax.platform_dependent(x, cpu=product, default=plain)
    return found


def if_finite(quick: Callable[..., Any], sure: Callable[..., Any], *arrays: Array) -> Any:
    """Return what `quick` computes of arrays, on CPUs and where all of it is finite; else `sure`.

    For sums that leave out some of their terms: XLA for CPUs writes what is chosen before it is
    summed, and reads a sum of products where it stands.

    Args:
        quick: of arrays, to a tree of sums, one of them infinite or NaN where it does not hold.
        sure: the same, of all arrays.
        arrays: those both take.

    >>> if_finite(jnp.sum, jnp.nansum, jnp.array([1.0, jnp.nan]))
    Array(1., dtype=float32)
    """

    def cpu(*arrays: Array) -> Any:
        found = vary_over(quick(*arrays), varying_axes(arrays))
        finite = sum((leaf * 0).sum() for leaf in jax.tree.leaves(found)) == 0
        return jax.lax.cond(finite, lambda *arrays: found, sure, *arrays)

    return jax.lax.platform_dependent(*arrays, cpu=cpu, default=sure)
