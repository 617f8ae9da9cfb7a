"""The sums that every convolution is made of, each as one call of XLA's convolution.

With k running over the places of the kernel, p over those of y, and i and o over the channels of
one group::

    convolve         y[b, p, o] = sum_{k, i} x[b, p stride + k dilation - low, i] weight[k, i, o]
    weight_gradient  dweight[k, i, o] = sum_{b, p} x[b, p stride + k dilation - low, i] dy[b, p, o]
    turned           dx[b, q, i] = sum_{k, o} dy[b, p, o] weight[k, i, o], over the k and p with
                     p stride + k dilation - low = q: `convolve` of dy with another kernel

x (B, *space, I), y and dy (B, *places, O), weight (*kernel, I / groups, O).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import ConvDimensionNumbers

from fnn.layers._window import Geometry, Sizes


def convolve(x: Any, weight: Any, geometry: Geometry) -> Any:
    """Return y of x and weight."""
    rank = len(geometry.size)
    space = tuple(range(1, rank + 1))
    images = (0, rank + 1, *space)
    return jax.lax.conv_general_dilated(
        x,
        weight,
        geometry.stride,
        geometry.padding,
        lhs_dilation=geometry.spread,
        rhs_dilation=geometry.dilation,
        dimension_numbers=ConvDimensionNumbers(images, (rank + 1, rank, *range(rank)), images),
        feature_group_count=x.shape[-1] // weight.shape[-2],
    )


def weight_gradient(x: Any, dy: Any, geometry: Geometry, groups: int) -> Any:
    """Return dweight: the examples are what is summed over, as channels are in `convolve`."""
    rank = len(geometry.size)
    space = tuple(range(1, rank + 1))
    back = exchanged(x.shape[1:-1], dy.shape[1:-1], geometry)
    return jax.lax.conv_general_dilated(
        x,
        dy,
        back.stride,
        back.padding,
        rhs_dilation=back.dilation,
        dimension_numbers=ConvDimensionNumbers(
            (rank + 1, 0, *space), (rank + 1, 0, *space), (rank, rank + 1, *range(rank))
        ),
        batch_group_count=groups,
    )


def exchanged(space: Sizes, places: Sizes, geometry: Geometry) -> Geometry:
    """Return the geometry with which dy is the kernel: stride and dilation change roles."""
    axes = zip(space, geometry.span, places, geometry.stride, geometry.padding, strict=True)
    # What a stride left out at the end of x is cut off, lest the result have more places.
    padding = tuple((low, span + (m - 1) * s - n - low) for n, span, m, s, (low, _) in axes)
    return Geometry(places, geometry.dilation, padding, geometry.stride, geometry.spread)


def flip_kernel(
    weight: Any, geometry: Geometry, space: Sizes, places: Sizes, groups: int
) -> tuple[Any, Geometry]:
    """Return the kernel and geometry with which `convolve` of dy is dx.

    A place of x meets the places of the kernel in reverse order, dy is spread by the stride, and
    the channels of each group change roles: (*kernel, I / groups, O) becomes
    (*kernel, O / groups, I).
    """
    kernel = geometry.size
    grouped = weight.reshape(*weight.shape[:-1], groups, -1).swapaxes(-3, -1)
    weight = jnp.flip(grouped, tuple(range(len(kernel)))).reshape(*kernel, grouped.shape[-3], -1)
    axes = zip(space, geometry.span, places, geometry.stride, geometry.padding, strict=True)
    # From the first place of x to its last, whether or not a window ends there.
    padding = tuple((span - 1 - low, n - 1 - (m - 1) * s + low) for n, span, m, s, (low, _) in axes)
    unit = (1,) * len(kernel)
    return weight, Geometry(kernel, unit, padding, geometry.dilation, geometry.stride)
