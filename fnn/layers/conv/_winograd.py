"""The gradient of the weight of a convolution over 3 x 3 in 16 products of tiles in place of 36.

Along one axis three sums over two positions, dw_k = d_k e_0 + d_k+1 e_1, take six products, or
these four::

    m_0 = (d_0 - d_2) e_0, m_1 = (d_1 + d_2) (e_0 + e_1), m_2 = (d_2 - d_1) (e_0 - e_1),
    m_3 = (d_3 - d_1) e_1
    dw_0 = m_0 + (m_1 + m_2) / 2, dw_1 = (m_1 - m_2) / 2, dw_2 = (m_1 + m_2) / 2 + m_3

In m the sums over all tiles are matrix products. Along two axes it is done twice. All factors are
1 and 1/2, so that it rounds like any other order of the sum; where x or dy is infinite, dweight is
NaN. Lavin and Gray 2016, arXiv:1509.09308.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fnn._core.types import Array
from fnn.layers._window import Geometry

# Positions that the four products along each of two axes are of.
TILE = (4, 4)
# Channels of x and dy, and positions, for which it is the faster way.
_CHANNELS, _FEW = range(64, 257), 1024
_ROWS = ((1.0, 0.5, 0.5, 0.0), (0.0, 0.5, -0.5, 0.0), (0.0, 0.5, 0.5, 1.0))


def pays(x: Array, dy: Array, geometry: Geometry, examples: int) -> bool:
    """Return whether a window is one of 3 x 3 that moves by 1 over many channels, none very many.

    Args:
        x: (B, *spatial, I).
        dy: (B, *positions, O).
        geometry: how the window moves.
        examples: how many of the batch one device has.
    """
    ones = max(*geometry.stride, *geometry.dilation, *geometry.input_dilation) == 1
    inputs, outputs = x.shape[-1], dy.shape[-1]
    return (
        ones
        and geometry.size == (3, 3)
        and inputs in _CHANNELS
        and outputs in _CHANNELS
        and examples * math.prod(dy.shape[1:-1]) >= _FEW
    )


def tile_sums(x: Array, dy: Array, geometry: Geometry) -> Array:
    """Return the sums of m over all tiles of x and dy: (4, 4, I, O), along both axes."""
    even = tuple(m + m % 2 for m in dy.shape[1:-1])
    lows = [low for low, _ in geometry.padding]
    seen = _placed(x, lows, tuple(m + 2 for m in even))
    d = _along_both(seen, _of_x).reshape(16, -1, x.shape[-1])
    e = _along_both(_placed(dy, [0, 0], even), _of_dy).reshape(16, -1, dy.shape[-1])
    sums = jax.lax.dot_general(d, e, (((1,), (1,)), ((0,), (0,))))
    return sums.reshape(*TILE, *sums.shape[1:])


def combined(sums: Array) -> Array:
    """Return dweight (3, 3, I, O) of the sums of m over all tiles."""
    rows = jnp.array(_ROWS, sums.dtype)
    return jnp.einsum("ka,lb,baio->klio", rows, rows, sums)


def _placed(x: Array, lows: list[int], space: tuple[int, ...]) -> Array:
    """Return x so far into a space of some size, zeros around it."""
    sides = zip(lows, space, x.shape[1:-1], strict=True)
    spatial = [(low, size - n - low, 0) for low, size, n in sides]
    return jax.lax.pad(x, x.dtype.type(0), ((0, 0, 0), *spatial, (0, 0, 0)))


def _along_both(x: Array, combine: Callable[[Array, int], list[Array]]) -> Array:
    """Return the four combinations along the second spatial axis of those along the first."""
    return jnp.stack(combine(jnp.stack(combine(x, 1)), 3))


def _of_x(x: Array, axis: int) -> list[Array]:
    """Return what tiles of four positions, two apart, are multiplied by."""
    reach = x.shape[axis] - 3
    d = [jax.lax.slice_in_dim(x, k, k + reach, 2, axis) for k in range(4)]
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[3] - d[1]]


def _of_dy(dy: Array, axis: int) -> list[Array]:
    """Return what pairs of positions are multiplied by."""
    e = [jax.lax.slice_in_dim(dy, k, None, 2, axis) for k in range(2)]
    return [e[0], e[0] + e[1], e[0] - e[1], e[1]]
