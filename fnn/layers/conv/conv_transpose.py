"""The transpose of a convolution, for what makes images larger."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import Array, PyTree
from fnn.layer import Layer, stateless
from fnn.layers._initializers import lecun_normal
from fnn.layers._window import Geometry, Padding, Sizes, Window, check_space, on_axes
from fnn.layers.conv import _fast as fast, _reference as plain
from fnn.layers.conv._weight_gradient import weight_gradient
from fnn.layers.conv.conv import (
    MOST_AXES,
    bias_gradient,
    check_channels,
    check_groups,
    check_options,
    with_bias,
)


@constructor
def conv_transpose(
    channels: int,
    kernel: int | Sizes,
    *,
    stride: int | Sizes = 1,
    padding: Padding = "SAME",
    output_padding: int | Sizes = 0,
    dilation: int | Sizes = 1,
    groups: int = 1,
    bias: bool = True,
    initializer: jax.nn.initializers.Initializer = lecun_normal,
) -> Layer:
    """Transposed convolution: every element of x adds a window of elements to y.

    Forward ``y[b, q, o] = sum_{k, p, i} x[b, p, i] weight[k, o, i] + bias[o]`` over all k and p
    with ``p stride + k dilation - before = q``: the dx of a `conv` from O channels to I with this
    weight, as linear a map and transposed. Backward ``dx[b, p, i] = sum_{k, o}
    dy[b, p stride + k dilation - before, o] weight[k, o, i]``, which is that `conv`,
    ``dweight[k, o, i] = sum_{b, p} dy[b, p stride + k dilation - before, o] x[b, p, i]``, and
    ``dbias[o] = sum_{b, q} dy[b, q, o]``.

    x (B, *space, I), weight (*kernel, O / groups, I), bias (O,), y (B, *places, O), O being
    `channels`. Saved: x. y has ``(size - 1) stride + span - before - after + output_padding``
    places on an axis, with ``span = (kernel - 1) dilation + 1``; `output_padding` is how many the
    `conv` would leave out at the end. With "SAME" it has ``size stride``, and the padding is that
    of a `conv` of "SAME" on so many. The weight is drawn by `initializer` as that of a `conv` from
    I channels to O, then transposed.

    Raises `fnn.InputError` for an `output_padding` that is negative, as large as the stride or
    given with "SAME", for more padding than y has places, and as `conv` does. Source: Zeiler et al.
    2010, doi:10.1109/CVPR.2010.5539957, section 3; Dumoulin and Visin 2016, arXiv:1603.07285,
    chapter 4.

    >>> import jax, jax.numpy as jnp
    >>> layer = conv_transpose(1, 3, stride=2, padding="VALID", bias=False)
    >>> params = {"weight": jnp.array([[[1.0]], [[10.0]], [[100.0]]])}
    >>> layer.apply(params, (), jnp.array([[[1.0], [2.0]]]))[0][0, :, 0]
    Array([  1.,  10., 102.,  20., 200.], dtype=float32)
    """
    window = Window(kernel, stride, padding, dilation)
    check_options(window, "channels", channels, groups)
    _check_output_padding(window, output_padding)

    def init(key: Array, x: Any) -> PyTree:
        geometry, _ = _transposed(window, output_padding, x)
        check_groups(x, groups)
        inputs = x.shape[-1]
        drawn = initializer(key, (*geometry.size, inputs // groups, channels), x.dtype)
        grouped = drawn.reshape(*drawn.shape[:-1], groups, -1).swapaxes(-3, -1)
        weight = grouped.reshape(*geometry.size, channels // groups, inputs)
        return {"weight": weight} | ({"bias": jnp.zeros(channels, x.dtype)} if bias else {})

    def spread(params: PyTree, x: Any) -> tuple[Any, Geometry]:
        geometry, space = _transposed(window, output_padding, x)
        check_channels(x, params["weight"].shape[-1])
        return plain.flip_kernel(params["weight"], geometry, space, x.shape[1:-1], groups)

    def apply(params: PyTree, x: Any) -> Any:
        return with_bias(plain.convolve(x, *spread(params, x)), params)

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        return with_bias(fast.convolve(x, *spread(params, x)), params), x

    def backward(params: PyTree, x: PyTree, dy: Any) -> tuple[PyTree, Any]:
        geometry, _ = _transposed(window, output_padding, x)
        dparams = {"weight": weight_gradient(dy, x, geometry, groups)}
        dx = fast.convolve(dy, params["weight"], geometry)
        return dparams | bias_gradient(params, dy), dx

    return stateless(init, forward, backward, reference=apply)


def _check_output_padding(window: Window, output_padding: Any) -> None:
    given = output_padding if isinstance(output_padding, tuple) else (output_padding,)
    ranks = {len(o) for o in (*window, output_padding) if isinstance(o, tuple)}
    rank = next(iter(ranks), 1)
    agree = len(ranks) <= 1 and all(check.is_count(each, 0) for each in given)
    if not agree or not all(
        each < s
        for each, s in zip(on_axes(output_padding, rank), on_axes(window.stride, rank), strict=True)
    ):
        raise InputError(
            "output_padding of 0 or more and less than the stride, an int or one for each axis",
            f"{describe(output_padding)} with stride {window.stride}",
            "pass how many places a convolution of that stride leaves out at the end",
        )
    if window.padding == "SAME" and any(given):
        raise InputError(
            "no output_padding where padding is 'SAME'",
            describe(output_padding),
            "leave it out: the size of y is that of x times the stride",
        )


def _transposed(
    window: Window, output_padding: int | Sizes, x: Any
) -> tuple[Geometry, tuple[int, ...]]:
    """Return the geometry of the convolution that takes y to x, and the space of y."""
    check_space(x, window.check(), MOST_AXES)
    rank = len(x.shape) - 2
    size, stride, dilation, extra = (
        on_axes(option, rank)
        for option in (window.size, window.stride, window.dilation, output_padding)
    )
    unit = (1,) * rank
    span = Geometry(size, stride, (), dilation, ()).span
    same = tuple(n * s for n, s in zip(x.shape[1:-1], stride, strict=True))
    pads = window.pads(same, span, stride)
    space = tuple(
        (n - 1) * s + k - low - high + more
        for n, s, k, (low, high), more in zip(x.shape[1:-1], stride, span, pads, extra, strict=True)
    )
    if window.padding == "SAME":
        space = same
    if min(space) < 1:
        raise InputError(
            "a y of 1 place or more on every axis",
            str(space),
            "take less padding, or a larger kernel",
        )
    return Geometry(size, stride, pads, dilation, unit), space
