"""Max and average pooling: the largest element or the mean of every window, channel by channel."""

from __future__ import annotations

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError
from fnn._core.precision import downcast, upcast
from fnn._core.tree import shape_witness
from fnn._core.types import Array, Input, Params, Unchecked
from fnn.layer import Layer, stateless
from fnn.layers._window import (
    Geometry,
    Padding,
    Sizes,
    Window,
    reduce_windows,
    span_of,
    unpadded,
)
from fnn.layers.pool._argmax import Found, at_argmax, scatter_to_argmax, window_argmax
from fnn.layers.pool._window_sum import dilate, unit, window_total


@constructor
def max_pool(
    window: int | Sizes,
    *,
    stride: int | Sizes | None = None,
    padding: Padding = "SAME",
    ceil_mode: bool = False,
) -> Layer:
    """Max pooling: the largest element of every window.

    Of several equal ones the first in row-major order is it and takes the whole gradient; so does
    autodiff of `jax.lax.reduce_window`, while that of `jnp.max` shares among them. As in PyTorch a
    NaN is larger than all numbers, the last NaN being it, and padding is never it: where a window
    sees nothing but -inf, the first element in x is. That holds of `jax.grad` too, where autodiff
    of `reduce_window` loses the gradient of such a window to the padding, and sends that of a NaN
    elsewhere.

    Forward:   y[b, p, c] = max_k x[b, p stride + k - before, c], k running over the window, and x
        being -inf outside of its axes
    Backward:  dx[b, q, c] = sum dy[b, p, c] over the p whose window is largest at q

    Args:
        window: the size of the window, an int or one for each spatial axis.
        stride: the steps between windows, an int or one for each spatial axis; None for that of
            `window`: windows side by side.
        padding: what is beyond x: "SAME" for y of ``ceil(size / stride)``, padded as in `fnn.conv`,
            "VALID" for nothing, an int for as many on all sides, or pairs ``((before, after),
            ...)`` for each spatial axis; less than the window, so that none has padding alone.
        ceil_mode: whether a last window may begin in x or in the padding before it and end beyond,
            as in PyTorch; not with "SAME", which leaves nothing out.
    Shapes:    x (B, *spatial, C), y (B, *positions, C), any number of spatial axes
    Saves:     where y is in its window: one byte an element of y for windows of fewer than 256
        elements that lie side by side or have 16 at most, and of others one for each axis, before
        the axes in front of it are pooled
    Raises:    InputError for options that are no integers of 1 or more or that disagree in their
        axes, an unknown padding or one as large as the window, `ceil_mode` with "SAME", a window
        larger than the padded x, an x of other axes or of integers.
    Source:    Riesenhuber and Poggio 1999, doi:10.1038/14819.

    >>> import jax.numpy as jnp
    >>> layer = max_pool(2)
    >>> y, state, residuals = layer.forward((), (), jnp.array([[[7.0], [9.0], [4.0], [4.0]]]))
    >>> y[0, :, 0]
    Array([9., 4.], dtype=float32)
    >>> layer.backward((), residuals, jnp.array([[[1.0], [2.0]]]))[1][0, :, 0]
    Array([0., 1., 2., 0.], dtype=float32)

    """
    options = _window(window, stride, padding, ceil_mode)

    def reference(params: Params, x: Input) -> Array:
        del params
        return at_argmax(x, _geometry(options, x))

    def forward(params: Params, x: Input) -> tuple[Array, Found]:
        del params
        y, found = window_argmax(x, _geometry(options, x))
        return y, (found, shape_witness(x))

    def backward(params: Params, residuals: Found, dy: Array) -> tuple[Params, Array]:
        del params
        found, witness = residuals
        x = jax.ShapeDtypeStruct(witness.shape[1:], witness.dtype)
        return (), scatter_to_argmax(found, dy, _geometry(options, x), x.shape[1:-1])

    return stateless(lambda key, x: (), forward, backward, reference=reference)


@constructor
def average_pool(
    window: int | Sizes,
    *,
    stride: int | Sizes | None = None,
    padding: Padding = "SAME",
    ceil_mode: bool = False,
    count_padding: bool = False,
) -> Layer:
    """Average pooling: the mean of every window.

    The sum is taken in float32 or wider, and does not overflow where the mean does not.

    Forward:   y[b, p, c] = sum_k x[b, p stride + k - before, c] / M[p], k running over the window,
        x being 0 outside of its axes, and M[p] the elements of the window that count
    Backward:  dx[b, q, c] = sum dy[b, p, c] / M[p] over the p whose window has q

    Args:
        window: the size of the window, an int or one for each spatial axis.
        stride: the steps between windows, an int or one for each spatial axis; None for that of
            `window`: windows side by side.
        padding: zeros around x: "SAME" for y of ``ceil(size / stride)``, padded as in `fnn.conv`,
            "VALID" for none, an int for as many on all sides, or pairs ``((before, after), ...)``
            for each spatial axis; less than the window, so that none has padding alone.
        ceil_mode: whether a last window may begin in x or in the padding before it and end beyond,
            as in PyTorch; not with "SAME", which leaves nothing out.
        count_padding: whether M[p] counts padding too, as PyTorch does by default
            (``count_include_pad``), or what lies in x alone, as TensorFlow does. What `ceil_mode`
            sees beyond the padding never counts.
    Shapes:    x (B, *spatial, C), y (B, *positions, C), any number of spatial axes
    Saves:     the shape of x
    Raises:    InputError as `max_pool` does.
    Source:    LeCun et al. 1998, doi:10.1109/5.726791, section II.B.

    >>> import jax.numpy as jnp
    >>> average_pool(2).apply((), (), jnp.array([[[7.0], [9.0], [4.0], [4.0]]]))[0][0, :, 0]
    Array([8., 4.], dtype=float32)

    """
    options = _window(window, stride, padding, ceil_mode)
    check.flag(count_padding, "count_padding")

    def reference(params: Params, x: Input) -> Array:
        del params
        geometry, wide = _geometry(options, x), upcast(x)
        scale = unit(math.prod(geometry.size))
        total = reduce_windows(wide * scale, geometry, 0.0, jax.lax.add)
        return downcast(total / _counts(options, wide, count_padding, scale), x)

    def forward(params: Params, x: Input) -> tuple[Array, Array]:
        del params
        geometry, wide = _geometry(options, x), upcast(x)
        scale = unit(math.prod(geometry.size))
        y = window_total(wide, geometry, scale) / _counts(options, wide, count_padding, scale)
        return downcast(y, x), shape_witness(x)

    def backward(params: Params, witness: Array, dy: Array) -> tuple[Params, Array]:
        del params
        x = jax.ShapeDtypeStruct(witness.shape[1:], upcast(dy).dtype)
        geometry = _geometry(options, x)
        back = upcast(dy) / _counts(options, x, count_padding)
        sizes = geometry.padded(x.shape[1:-1])
        for axis, (k, s, _) in _axes(geometry, x.shape[1:-1]):
            back = dilate(back, axis, k, s, sizes[axis - 1])
        return (), downcast(unpadded(back, geometry), dy)

    return stateless(lambda key, x: (), forward, backward, reference=reference)


def _window(
    window: int | Sizes, stride: int | Sizes | None, padding: Padding, ceil_mode: Unchecked
) -> Window:
    """Return the options of a pool, once they are known to be right whatever x is."""
    check.flag(ceil_mode, "ceil_mode")
    options = Window(
        window, window if stride is None else stride, padding, ceil_mode=bool(ceil_mode)
    )
    options.check("window")
    if ceil_mode and padding == "SAME":
        raise InputError(
            "ceil_mode=False where padding is 'SAME'",
            "True",
            "leave it out, as SAME sees all of x, or pass padding='VALID' or 0 for PyTorch's pool",
        )
    return options


def _geometry(options: Window, x: Input) -> Geometry:
    """Return the geometry of a pool on x."""
    geometry = options.over(x)
    sides = zip(geometry.size, geometry.padding, strict=True)
    if any(max(pair) >= k for k, pair in sides):
        raise InputError(
            f"padding of less than the window {geometry.size}",
            str(geometry.padding),
            "take a larger window: one in the padding alone has nothing to pool",
        )
    return geometry


def _axes(geometry: Geometry, spatial: Sizes) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Return the spatial axes of x, each with the window, stride and positions along it."""
    positions = geometry.positions(spatial)
    return enumerate(zip(geometry.size, geometry.stride, positions, strict=True), 1)


def _counts(options: Window, x: Input, padding_too: bool, scale: float = 1) -> Array:
    """Return M (*positions, 1) times `scale`, in the dtype of x: each axis by itself."""
    geometry = options.over(x)
    spatial = x.shape[1:-1]
    given = options.pads(spatial, span_of(geometry.size, geometry.dilation), geometry.stride)
    total = np.ones(())
    for (axis, (k, s, m)), (low, high) in zip(_axes(geometry, spatial), given, strict=True):
        n = spatial[axis - 1]
        start = np.arange(m) * s - low
        first, end = (start, n + high) if padding_too else (np.maximum(start, 0), n)
        total = total[..., None] * (np.minimum(start + k, end) - first)
    return jnp.asarray(scale * total[None, ..., None], x.dtype)
