"""The sums that every convolution is made of, each as one call of XLA's convolution.

With k running over the positions in the kernel, p over those of y, and i and o over the channels
of one group::

    convolve         y[b, p, o] = sum_{k, i} x[b, p stride + k dilation - low, i] weight[k, i, o]
    weight_gradient  dweight[k, i, o] = sum_{b, p} x[b, p stride + k dilation - low, i] dy[b, p, o]
    flip_kernel      dx[b, q, i] = sum_{k, o} dy[b, p, o] weight[k, i, o], over the k and p with
                     p stride + k dilation - low = q: `convolve` of dy with another kernel

x (B, *spatial, I), y and dy (B, *positions, O), weight (*kernel, I / groups, O).

XLA for CPUs is fast where axes lie in that order, and puts others into it, but not inside of a
loop: there the derivatives that JAX has of a convolution take up to a hundred times as long.
`differentiable` is `convolve` whose derivatives in reverse come in that order.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.lax import ConvDimensionNumbers

from fnn._core.mesh import layouts
from fnn._core.types import Array
from fnn.layers._window import Geometry, Sizes


def convolve(x: Array, weight: Array, geometry: Geometry) -> Array:
    """Return y of x and weight."""
    rank = len(geometry.size)
    images = (0, rank + 1, *range(1, rank + 1))
    numbers = ConvDimensionNumbers(images, (rank + 1, rank, *range(rank)), images)
    return _in_order(x, weight, geometry, numbers, x.shape[-1] // weight.shape[-2])


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def differentiable(x: Array, weight: Array, geometry: Geometry) -> Array:
    """Return y of x and weight, by a formula for autodiff."""
    return convolve(x, weight, geometry)


@differentiable.defjvp
def _differentiable_jvp(
    geometry: Geometry, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (x, weight), (dx, dweight) = primals, tangents
    y = differentiable(x, weight, geometry)
    if x.shape[-1] != weight.shape[-2] or layouts(x, weight) is not None:
        # Groups are slow in every order, and a layout that types tell has to be that of `convolve`.
        dy = convolve(dx, weight, geometry) + convolve(x, dweight, geometry)
    else:
        dy = _along_x(dx, weight, geometry) + _along_weight(x, dweight, geometry)
    return y, dy


def _along_x(dx: Array, weight: Array, geometry: Geometry) -> Array:
    """Return `convolve`, its weight in such an order that what is linear in dx is fast reversed."""
    rank = len(geometry.size)
    images = (0, rank + 1, *range(1, rank + 1))
    kernel = (rank, rank + 1, *range(rank))
    numbers = ConvDimensionNumbers(images, kernel, images)
    return _in_order(dx, weight.swapaxes(-1, -2), geometry, numbers)


def _along_weight(x: Array, dweight: Array, geometry: Geometry) -> Array:
    """Return `convolve`, in such an order that what is linear in dweight is fast reversed."""
    rank = len(geometry.size)
    spatial = tuple(range(1, rank + 1))
    numbers = ConvDimensionNumbers(
        (rank + 1, 0, *spatial), (rank + 1, 0, *spatial), (rank, rank + 1, *range(rank))
    )
    dy = _in_order(x.swapaxes(0, -1), jnp.moveaxis(dweight, -2, 0), geometry, numbers)
    return jnp.moveaxis(dy, -2, 0)


def _in_order(
    x: Array, weight: Array, geometry: Geometry, numbers: ConvDimensionNumbers, groups: int = 1
) -> Array:
    """Return y of arrays whose axes are in some order."""
    return jax.lax.conv_general_dilated(
        x,
        weight,
        geometry.stride,
        geometry.padding,
        lhs_dilation=geometry.input_dilation,
        rhs_dilation=geometry.dilation,
        dimension_numbers=numbers,
        feature_group_count=groups,
    )


def weight_gradient(x: Array, dy: Array, geometry: Geometry, groups: int) -> Array:
    """Return dweight: the examples are what is summed over, as channels are in `convolve`."""
    rank = len(geometry.size)
    spatial = tuple(range(1, rank + 1))
    back = exchanged(x.shape[1:-1], dy.shape[1:-1], geometry)
    return jax.lax.conv_general_dilated(
        x,
        dy,
        back.stride,
        back.padding,
        rhs_dilation=back.dilation,
        dimension_numbers=ConvDimensionNumbers(
            (rank + 1, 0, *spatial), (rank + 1, 0, *spatial), (rank, rank + 1, *range(rank))
        ),
        batch_group_count=groups,
    )


def exchanged(spatial: Sizes, positions: Sizes, geometry: Geometry) -> Geometry:
    """Return the geometry with which dy is the kernel: stride and dilation change roles."""
    axes = zip(spatial, geometry.span, positions, geometry.stride, geometry.padding, strict=True)
    # What a stride left out at the end of x is cut off, lest the result be longer.
    padding = tuple((low, span + (m - 1) * s - n - low) for n, span, m, s, (low, _) in axes)
    return Geometry(positions, geometry.dilation, padding, geometry.stride, geometry.input_dilation)


def flip_kernel(
    weight: Array, geometry: Geometry, spatial: Sizes, positions: Sizes, groups: int
) -> tuple[Array, Geometry]:
    """Return the kernel and geometry with which `convolve` of dy is dx.

    A position of x meets those of the kernel in reverse order, dy is dilated by the stride, and the
    channels of each group change roles: (*kernel, I / groups, O) becomes (*kernel, O / groups, I).
    """
    kernel = geometry.size
    grouped = weight.reshape(*weight.shape[:-1], groups, -1).swapaxes(-3, -1)
    weight = jnp.flip(grouped, tuple(range(len(kernel)))).reshape(*kernel, grouped.shape[-3], -1)
    axes = zip(spatial, geometry.span, positions, geometry.stride, geometry.padding, strict=True)
    # From the first position of x to its last, whether or not a window ends there.
    padding = tuple((span - 1 - low, n - 1 - (m - 1) * s + low) for n, span, m, s, (low, _) in axes)
    unit = (1,) * len(kernel)
    return weight, Geometry(kernel, unit, padding, geometry.dilation, geometry.stride)
