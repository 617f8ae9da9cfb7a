"""The sums that every convolution is made of, each as one call of XLA's convolution.

With k running over the positions in the kernel, p over those of y, and i and o over the channels
of one group::

    convolve         y[b, p, o] = sum_{k, i} x[b, p stride + k dilation - low, i] weight[k, i, o]
    weight_gradient  dweight[k, i, o] = sum_{b, p} x[b, p stride + k dilation - low, i] dy[b, p, o]
    flip_kernel      dx[b, q, i] = sum_{k, o} dy[b, p, o] weight[k, i, o], over the k and p with
                     p stride + k dilation - low = q: `convolve` of dy with another kernel

x (B, *spatial, I), y and dy (B, *positions, O), weight (*kernel, I / groups, O).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.lax import ConvDimensionNumbers

from fnn._core.types import Array
from fnn.layers._window import Geometry, Sizes


def convolve(x: Array, weight: Array, geometry: Geometry) -> Array:
    """Return y of x and weight."""
    rank = len(geometry.size)
    images = (0, rank + 1, *range(1, rank + 1))
    return jax.lax.conv_general_dilated(
        x,
        weight,
        geometry.stride,
        geometry.padding,
        lhs_dilation=geometry.input_dilation,
        rhs_dilation=geometry.dilation,
        dimension_numbers=ConvDimensionNumbers(images, (rank + 1, rank, *range(rank)), images),
        feature_group_count=x.shape[-1] // weight.shape[-2],
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
