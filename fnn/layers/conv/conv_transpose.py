"""Transposed convolution: upsampling with learned weights."""

from __future__ import annotations

import jax

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import Array, Input, Params, Unchecked
from fnn.layer import Layer, stateless
from fnn.layers._initializers import draw, lecun_normal
from fnn.layers._window import (
    Geometry,
    Padding,
    Sizes,
    Window,
    check_axes,
    check_spatial,
    per_axis,
    span_of,
)
from fnn.layers.conv import _fast as fast, _reference as plain
from fnn.layers.conv._weight_gradient import weight_gradient
from fnn.layers.conv.conv import (
    MOST_AXES,
    add_bias,
    bias_gradient,
    check_channels,
    check_groups,
    check_options,
    with_zero_bias,
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

    It is the dx of a `conv` from O channels to I with this weight, as linear a map and transposed;
    its dx is that `conv`. With ``span = (kernel - 1) dilation + 1``, y is
    ``(size - 1) stride + span - before - after + output_padding`` long on an axis, and
    ``size stride`` with "SAME", whose padding is that of a `conv` of "SAME" on so many.

    Forward:   y[b, q, o] = sum_{k, p, i} x[b, p, i] weight[k, o, i] + bias[o] over all k and p with
        p stride + k dilation - before = q
    Backward:  dx[b, p, i] = sum_{k, o} dy[b, p stride + k dilation - before, o] weight[k, o, i],
        dweight[k, o, i] = sum_{b, p} dy[b, p stride + k dilation - before, o] x[b, p, i], and
        dbias[o] = sum_{b, q} dy[b, q, o]

    Args:
        channels: the number of channels O of y.
        kernel: the size of the window, an int or one for each spatial axis.
        stride: the steps between windows in y, an int or one for each spatial axis.
        padding: what is cut off y, as the padding of the `conv` is: "SAME" for y of
            ``size stride``, "VALID" for nothing, an int for as many on all sides, or pairs
            ``((before, after), ...)`` for each spatial axis.
        output_padding: how many positions the `conv` would leave out at the end, below the stride,
            an int or one for each spatial axis; none with "SAME", which knows.
        dilation: the steps between the elements of a window, an int or one for each spatial axis.
        groups: in how many groups channels are; the first O / groups channels of y come from the
            first I / groups of x, and so on.
        bias: whether there is a bias.
        initializer: draws the weight as that of a `conv` from I channels to O, which is then
            transposed; the bias starts at 0.
    Shapes:    x (B, *spatial, I), weight (*kernel, O / groups, I), bias (O,), y (B, *positions, O)
    Saves:     x
    Raises:    InputError for an `output_padding` that is negative, as large as the stride or given
        with "SAME", for more padding than y has positions, and as `conv` does.
    Source:    Zeiler et al. 2010, doi:10.1109/CVPR.2010.5539957, section 3; Dumoulin and Visin
        2016, arXiv:1603.07285, chapter 4.

    >>> import jax, jax.numpy as jnp
    >>> layer = conv_transpose(1, 3, stride=2, padding="VALID", bias=False)
    >>> params = {"weight": jnp.array([[[1.0]], [[10.0]], [[100.0]]])}
    >>> layer.apply(params, (), jnp.array([[[1.0], [2.0]]]))[0][0, :, 0]
    Array([  1.,  10., 102.,  20., 200.], dtype=float32)

    """
    window = Window(kernel, stride, padding, dilation)
    check.count(channels, "channels")
    check_options(window, bias, initializer)
    check.count(groups, "groups")
    check_groups(channels, groups, f"{channels} channels")
    _check_output_padding(window, output_padding)

    def init(key: Array, x: Input) -> Params:
        geometry, _ = _transposed(window, output_padding, x)
        inputs = x.shape[-1]
        check_groups(inputs, groups, f"x of {inputs} channels")
        drawn = draw(initializer, key, (*geometry.size, inputs // groups, channels), x.dtype)
        grouped = drawn.reshape(*drawn.shape[:-1], groups, -1).swapaxes(-3, -1)
        weight = grouped.reshape(*geometry.size, channels // groups, inputs)
        return with_zero_bias(weight, channels if bias else 0)

    def flipped(params: Params, x: Input) -> tuple[Array, Geometry]:
        geometry, spatial = _transposed(window, output_padding, x)
        check_channels(x, params["weight"].shape[-1])
        return plain.flip_kernel(params["weight"], geometry, spatial, x.shape[1:-1], groups)

    def reference(params: Params, x: Input) -> Array:
        return add_bias(plain.differentiable(x, *flipped(params, x)), params)

    def forward(params: Params, x: Input) -> tuple[Array, Array]:
        return add_bias(fast.convolve(x, *flipped(params, x)), params), x

    def backward(params: Params, x: Array, dy: Array) -> tuple[Params, Array]:
        geometry, _ = _transposed(window, output_padding, x)
        dparams = {"weight": weight_gradient(dy, x, geometry, groups)}
        dx = fast.convolve(dy, params["weight"], geometry)
        return dparams | bias_gradient(params, dy), dx

    return stateless(init, forward, backward, reference=reference)


def _check_output_padding(window: Window, output_padding: Unchecked) -> None:
    given = output_padding if isinstance(output_padding, tuple) else (output_padding,)
    counts = bool(given) and all(check.is_count(each, 0) for each in given)
    rank = (_rank(window, output_padding) or 1) if counts else 0
    sides = zip(per_axis(output_padding, rank), per_axis(window.stride, rank), strict=True)
    if not counts or any(each >= s for each, s in sides):
        raise InputError(
            "output_padding of 0 or more and less than the stride, an int or one for each axis",
            f"{describe(output_padding)} with stride {window.stride}",
            "pass how many positions a convolution of that stride leaves out at the end",
        )
    if window.padding == "SAME" and any(given):
        raise InputError(
            "no output_padding where padding is 'SAME'",
            describe(output_padding),
            "leave it out: the size of y is that of x times the stride",
        )


def _rank(window: Window, output_padding: int | Sizes) -> int | None:
    """Return for how many spatial axes there are options; None where all are ints."""
    kernel, stride, padding, dilation, _ = window
    options = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    return check_axes(options | {"output_padding": output_padding})


def _transposed(
    window: Window, output_padding: int | Sizes, x: Input
) -> tuple[Geometry, tuple[int, ...]]:
    """Return the geometry of the convolution that takes y to x, and the spatial size of y."""
    check_spatial(x, _rank(window, output_padding), MOST_AXES)
    rank = len(x.shape) - 2
    size, stride, dilation, extra = (
        per_axis(option, rank)
        for option in (window.size, window.stride, window.dilation, output_padding)
    )
    span = span_of(size, dilation)
    same = tuple(n * s for n, s in zip(x.shape[1:-1], stride, strict=True))
    pads = window.pads(same, span, stride)
    spatial = tuple(
        (n - 1) * s + k - low - high + more
        for n, s, k, (low, high), more in zip(x.shape[1:-1], stride, span, pads, extra, strict=True)
    )
    if window.padding == "SAME":
        spatial = same
    if min(spatial) < 1:
        raise InputError(
            "a y of 1 position or more on every axis",
            str(spatial),
            "take less padding, or a larger kernel",
        )
    return Geometry(size, stride, pads, dilation, (1,) * rank), spatial
