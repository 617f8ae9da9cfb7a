"""Convolutions: every place of y is a weighted sum of a window of x, the same at every place.

In all formulas b is the example, p a place of y with one index for each axis of space, k a place of
the kernel, i a channel going in and o one coming out. x is (B, W, C), (B, H, W, C) or
(B, D, H, W, C). What is an int holds for all axes of space; a tuple has one for each.

Padding is zeros. "VALID" is none; an int is as many before and after on every axis; pairs
``((before, after), ...)`` are one an axis. "SAME" is such that the size of y is
``ceil(size / stride)``, as XLA has it: ``total = max((ceil(size / stride) - 1) stride + span -
size, 0)`` with ``span = (kernel - 1) dilation + 1``, ``total // 2`` of it before and the rest
after. With a stride of 2 on an even size a kernel of 3 is padded by (0, 1), where PyTorch's
``padding=1`` is (1, 1). A span that is even and a stride of more than 1 together are refused:
frameworks differ there.

The sums are written out in `fnn.layers.convolve`, how they are computed in
`fnn.layers.convolve_fast` and `fnn.layers.convolve_weight`; `apply` is
`jax.lax.conv_general_dilated`.
"""

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
from fnn.layers._window import Geometry, Padding, Sizes, Window, on_axes
from fnn.layers.conv import _fast as fast, _reference as plain
from fnn.layers.conv._weight_gradient import weight_gradient

# What XLA has convolutions for on every platform.
MOST_AXES = 3


@constructor
def conv(
    channels: int,
    kernel: int | Sizes,
    *,
    stride: int | Sizes = 1,
    padding: Padding = "SAME",
    dilation: int | Sizes = 1,
    groups: int = 1,
    bias: bool = True,
    initializer: jax.nn.initializers.Initializer = lecun_normal,
) -> Layer:
    """Convolution over one, two or three axes: `channels` filters, each seeing a window of x.

    Forward ``y[b, p, o] = sum_{k, i} x[b, p stride + k dilation - before, i] weight[k, i, o] +
    bias[o]``, i running over the channels of the group of o, x being 0 outside of its axes.
    Backward ``dweight[k, i, o] = sum_{b, p} x[b, p stride + k dilation - before, i] dy[b, p, o]``,
    ``dbias[o] = sum_{b, p} dy[b, p, o]``, and ``dx[b, q, i] = sum_{k, p, o} dy[b, p, o]
    weight[k, i, o]`` over all k and p with ``p stride + k dilation - before = q``.

    x (B, *space, I), weight (*kernel, I / groups, O) drawn by `initializer`, bias (O,) starting at
    zero, y (B, *places, O), O being `channels`. The first O / groups filters see the first
    I / groups channels, and so on. Saved: x.

    Raises `fnn.InputError` for options that are no integers of 1 or more or that disagree in their
    axes, an unknown padding, "SAME" with an even span and a stride, groups that do not divide the
    channels, a window larger than the padded x, an x of other axes or channels or of integers.
    Source: LeCun et al. 1989, doi:10.1162/neco.1989.1.4.541.

    >>> import jax, jax.numpy as jnp
    >>> layer = conv(1, 2, padding="VALID", bias=False)
    >>> params = {"weight": jnp.array([[[-1.0]], [[1.0]]])}
    >>> y, state, residuals = layer.forward(params, (), jnp.array([[[3.0], [4.0], [9.0]]]))
    >>> y[0, :, 0]
    Array([1., 5.], dtype=float32)
    >>> layer.backward(params, residuals, jnp.array([[[1.0], [0.0]]]))[1][0, :, 0]
    Array([-1.,  1.,  0.], dtype=float32)
    """
    window = Window(kernel, stride, padding, dilation)
    check_options(window, "channels", channels, groups)

    def init(key: Array, x: Any) -> PyTree:
        geometry = window.over(x, MOST_AXES)
        check_groups(x, groups)
        shape = (*geometry.size, x.shape[-1] // groups, channels)
        weight = initializer(key, shape, x.dtype)
        return {"weight": weight} | ({"bias": jnp.zeros(channels, x.dtype)} if bias else {})

    def check_input(params: PyTree, x: Any) -> Geometry:
        geometry = window.over(x, MOST_AXES)
        check_channels(x, groups * params["weight"].shape[-2])
        return geometry

    def apply(params: PyTree, x: Any) -> Any:
        return with_bias(plain.convolve(x, params["weight"], check_input(params, x)), params)

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        return with_bias(fast.convolve(x, params["weight"], check_input(params, x)), params), x

    def backward(params: PyTree, x: PyTree, dy: Any) -> tuple[PyTree, Any]:
        geometry, weight = window.over(x, MOST_AXES), params["weight"]
        dparams = {"weight": weight_gradient(x, dy, geometry, groups)}
        dx = fast.input_gradient(dy, weight, geometry, x.shape[1:-1], groups)
        return dparams | bias_gradient(params, dy), dx

    return stateless(init, forward, backward, reference=apply)


@constructor
def depthwise_conv(
    kernel: int | Sizes,
    *,
    multiplier: int = 1,
    stride: int | Sizes = 1,
    padding: Padding = "SAME",
    dilation: int | Sizes = 1,
    bias: bool = True,
    initializer: jax.nn.initializers.Initializer = lecun_normal,
) -> Layer:
    """Depthwise convolution: every channel by itself, with `multiplier` filters for each.

    Forward ``y[b, p, i M + m] = sum_k x[b, p stride + k dilation - before, i] weight[k, 0, i M + m]
    + bias[i M + m]``, M being `multiplier`: `conv` with as many groups as x has channels, whose
    backward this is too. Follow it by ``fnn.conv(O, 1)`` for a separable convolution.

    x (B, *space, I), weight (*kernel, 1, I M), bias (I M,), y (B, *places, I M). Saved: x.

    Raises `fnn.InputError` for a `multiplier` below 1, and as `conv` does. Source: Sifre 2014,
    Rigid-motion scattering for image classification (thesis, Palaiseau), section 6.2.

    >>> import jax, jax.numpy as jnp
    >>> layer = depthwise_conv(3, multiplier=2)
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 5, 5, 4)))
    >>> params["weight"].shape
    (3, 3, 1, 8)
    """
    window = Window(kernel, stride, padding, dilation)
    check_options(window, "multiplier", multiplier, 1)

    def of(inputs: int) -> Layer:
        return conv(
            inputs * multiplier,
            kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=inputs,
            bias=bias,
            initializer=initializer,
        )

    def init(key: Array, x: Any) -> PyTree:
        window.over(x, MOST_AXES)
        return of(x.shape[-1]).init(key, x)[0]

    def inside(params: PyTree, x: Any) -> Layer:
        window.over(x, MOST_AXES)
        inputs = params["weight"].shape[-1] // multiplier
        check_channels(x, inputs)
        return of(inputs)

    def apply(params: PyTree, x: Any) -> Any:
        return inside(params, x).apply(params, (), x)[0]

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        y, _, residuals = inside(params, x).forward(params, (), x)
        return y, residuals

    def backward(params: PyTree, x: PyTree, dy: Any) -> tuple[PyTree, Any]:
        return of(x.shape[-1]).backward(params, x, dy)

    return stateless(init, forward, backward, reference=apply)


def check_options(window: Window, name: str, channels: Any, groups: Any) -> None:
    """Raise `InputError` for options of a convolution that are wrong whatever x is."""
    rank = window.check()
    if rank is not None and rank > MOST_AXES:
        raise InputError(f"1 to {MOST_AXES} axes of space", str(rank), "pass a shorter tuple")
    for option, value in ((name, channels), ("groups", groups)):
        if not check.is_count(value, 1):
            raise InputError(f"{option} of 1 or more", describe(value), "pass a positive int")
    if channels % groups:
        raise InputError(
            f"channels in {groups} equal groups",
            f"{channels} channels",
            "pass a number of groups that divides those going in and those coming out",
        )
    size, stride, dilation = (
        on_axes(option, rank or 1) for option in (window.size, window.stride, window.dilation)
    )
    span = Geometry(size, stride, (), dilation, ()).span
    if window.padding == "SAME" and any(
        k % 2 == 0 and s > 1 for k, s in zip(span, stride, strict=True)
    ):
        raise InputError(
            "an odd span (kernel - 1) dilation + 1 where padding is 'SAME' and stride above 1",
            f"spans {span} with strides {stride}",
            "frameworks pad these on different sides: give pairs, as in padding=((0, 1), (0, 1))",
        )


def check_groups(x: Any, groups: int) -> None:
    """Raise `InputError` unless groups divide the channels of x."""
    if x.shape[-1] % groups:
        raise InputError(
            f"channels in {groups} equal groups",
            f"x of {x.shape[-1]} channels",
            "pass a number of groups that divides those going in and those coming out",
        )


def check_channels(x: Any, channels: int) -> None:
    """Raise `InputError` unless x has the channels that the layer was initialized for."""
    if x.shape[-1] != channels:
        raise InputError(
            f"x of {channels} channels",
            str(tuple(x.shape)),
            "keep the channels last, and initialize the layer for as many",
        )


def with_bias(y: Any, params: PyTree) -> Any:
    """Add the bias to every place of y, if there is one."""
    if "bias" not in params:
        return y
    return y + params["bias"].reshape((1,) * (y.ndim - 1) + (-1,))


def bias_gradient(params: PyTree, dy: Any) -> dict[str, Any]:
    """Return dbias, if there is a bias."""
    return {"bias": dy.sum(tuple(range(dy.ndim - 1)))} if "bias" in params else {}
