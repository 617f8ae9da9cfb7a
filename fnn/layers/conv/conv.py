"""Convolutions: every position of y is a weighted sum of a window of x, with the same weights.

In all formulas b is the example, p a position in y with one index for each spatial axis, k an
offset in the kernel, i a channel going in and o one coming out. x is (B, W, C), (B, H, W, C) or
(B, D, H, W, C). What is an int holds for all spatial axes; a tuple has one for each.

Padding is zeros, `before` of them and `after` on every axis. "VALID" is none; an int is as many on
both sides of every axis; pairs ``((before, after), ...)`` are one an axis. "SAME" is such that the
size of y is ``ceil(size / stride)``, by the convention of XLA (and TensorFlow)::

    span = (kernel - 1) dilation + 1
    total = max((ceil(size / stride) - 1) stride + span - size, 0)
    before, after = total // 2, total - total // 2

It depends on the size of x, and the odd one is after: with a stride of 2 on an even size a kernel
of 3 is padded by (0, 1), where PyTorch's ``padding=1`` is (1, 1), and with a stride of 1 a kernel
of 2 by (0, 1). Weights of PyTorch trained with a padding want the same pairs here.

The sums stand in `_reference`, which is what autodiff sees of a layer; how they are computed where
that is faster in `_fast` and `_weight_gradient`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError
from fnn._core.types import Array, Input, Params, Unchecked
from fnn.layer import Layer, stateless
from fnn.layers._initializers import check_initializer, draw, lecun_normal
from fnn.layers._window import Geometry, Padding, Sizes, Window
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
    """Convolution over one, two or three spatial axes.

    Forward:   y[b, p, o] = sum_{k, i} x[b, p stride + k dilation - before, i] weight[k, i, o]
        + bias[o], i running over the channels of the group of o, x being 0 outside of its axes
    Backward:  dweight[k, i, o] = sum_{b, p} x[b, p stride + k dilation - before, i] dy[b, p, o],
        dbias[o] = sum_{b, p} dy[b, p, o], and
        dx[b, q, i] = sum_{k, p, o} dy[b, p, o] weight[k, i, o] over all k and p with
        p stride + k dilation - before = q

    Args:
        channels: the number of filters O, the channels of y.
        kernel: the size of the window, an int or one for each spatial axis.
        stride: the steps between windows, an int or one for each spatial axis.
        padding: zeros around x: "SAME" for y of ``ceil(size / stride)``, by XLA's convention (the
            odd one after x, whatever kernel and stride), "VALID" for none, an int for as many on
            all sides, or pairs ``((before, after), ...)`` for each spatial axis.
        dilation: the steps between the elements of x that a window sees, an int or one for each
            spatial axis.
        groups: in how many groups channels are; the first O / groups filters see the first
            I / groups channels, and so on.
        bias: whether there is a bias.
        initializer: draws the weight, as those of `jax.nn.initializers` do; the bias starts at 0.
    Shapes:    x (B, *spatial, I), weight (*kernel, I / groups, O), bias (O,),
        y (B, *positions, O)
    Saves:     x
    Raises:    InputError for options that are no integers of 1 or more or that disagree in their
        axes, an unknown padding, groups that do not divide the channels, a window larger than the
        padded x, an x of other axes or channels, without channels or of integers.
    Source:    LeCun et al. 1989, doi:10.1162/neco.1989.1.4.541.

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
    check.count(channels, "channels")
    check_options(window, bias, initializer)
    check.count(groups, "groups")
    check_groups(channels, groups, f"{channels} channels")

    def init(key: Array, x: Input) -> Params:
        geometry = window.over(x, MOST_AXES)
        check_groups(x.shape[-1], groups, f"x of {x.shape[-1]} channels")
        shape = (*geometry.size, x.shape[-1] // groups, channels)
        return with_zero_bias(draw(initializer, key, shape, x.dtype), channels if bias else 0)

    def reference(params: Params, x: Input) -> Array:
        return _reference(params, x, window, groups)

    def forward(params: Params, x: Input) -> tuple[Array, Array]:
        return _forward(params, x, window, groups)

    def backward(params: Params, x: Array, dy: Array) -> tuple[Params, Array]:
        return _backward(params, x, dy, window, groups)

    return stateless(init, forward, backward, reference=reference)


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
    """Depthwise convolution: filters that each see one channel.

    It is `conv` with as many groups as x has channels. Followed by ``fnn.conv(O, 1)`` it is a
    separable convolution.

    Forward:   y[b, p, i M + m] = sum_k x[b, p stride + k dilation - before, i]
        weight[k, 0, i M + m] + bias[i M + m], M being `multiplier`
    Backward:  dweight[k, 0, i M + m] = sum_{b, p} x[b, p stride + k dilation - before, i]
        dy[b, p, i M + m], dbias[o] = sum_{b, p} dy[b, p, o], and
        dx[b, q, i] = sum_{k, p, m} dy[b, p, i M + m] weight[k, 0, i M + m] over all k and p with
        p stride + k dilation - before = q

    Args:
        kernel: the size of the window, an int or one for each spatial axis.
        multiplier: the number of filters for each channel.
        stride: the steps between windows, an int or one for each spatial axis.
        padding: zeros around x, as in `conv`: "SAME", "VALID", an int or pairs.
        dilation: the steps between the elements of x that a window sees, an int or one for each
            spatial axis.
        bias: whether there is a bias.
        initializer: draws the weight, as those of `jax.nn.initializers` do; the bias starts at 0.
    Shapes:    x (B, *spatial, I), weight (*kernel, 1, I M), bias (I M,), y (B, *positions, I M)
    Saves:     x
    Raises:    InputError for a `multiplier` below 1, and as `conv` does.
    Source:    Sifre 2014, Rigid-motion scattering for image classification (thesis, Palaiseau),
        section 6.2.

    >>> import jax, jax.numpy as jnp
    >>> layer = depthwise_conv(3, multiplier=2)
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 5, 5, 4)))
    >>> params["weight"].shape
    (3, 3, 1, 8)

    """
    window = Window(kernel, stride, padding, dilation)
    check.count(multiplier, "multiplier")
    check_options(window, bias, initializer)

    def init(key: Array, x: Input) -> Params:
        geometry = window.over(x, MOST_AXES)
        channels = x.shape[-1] * multiplier
        weight = draw(initializer, key, (*geometry.size, 1, channels), x.dtype)
        return with_zero_bias(weight, channels if bias else 0)

    def groups(params: Params) -> int:
        return int(params["weight"].shape[-1] // multiplier)

    def reference(params: Params, x: Input) -> Array:
        return _reference(params, x, window, groups(params))

    def forward(params: Params, x: Input) -> tuple[Array, Array]:
        return _forward(params, x, window, groups(params))

    def backward(params: Params, x: Array, dy: Array) -> tuple[Params, Array]:
        return _backward(params, x, dy, window, groups(params))

    return stateless(init, forward, backward, reference=reference)


def _reference(params: Params, x: Input, window: Window, groups: int) -> Array:
    """Return y, as one call of XLA's convolution."""
    return add_bias(
        plain.differentiable(x, params["weight"], _geometry(params, x, window, groups)), params
    )


def _forward(params: Params, x: Input, window: Window, groups: int) -> tuple[Array, Array]:
    """Return y and what to save."""
    return add_bias(
        fast.convolve(x, params["weight"], _geometry(params, x, window, groups)), params
    ), x


def _backward(
    params: Params, x: Array, dy: Array, window: Window, groups: int
) -> tuple[Params, Array]:
    """Return dparams and dx."""
    geometry = window.over(x, MOST_AXES)
    dparams = {"weight": weight_gradient(x, dy, geometry, groups)}
    dx = fast.input_gradient(dy, params["weight"], geometry, x.shape[1:-1], groups)
    return dparams | bias_gradient(params, dy), dx


def _geometry(params: Params, x: Input, window: Window, groups: int) -> Geometry:
    geometry = window.over(x, MOST_AXES)
    check_channels(x, groups * params["weight"].shape[-2])
    return geometry


def check_options(window: Window, bias: Unchecked, initializer: Unchecked) -> None:
    """Raise `InputError` for options of a convolution that are wrong whatever x is.

    Args:
        window: kernel, stride, padding and dilation.
        bias: whether there is a bias.
        initializer: draws the weight.
    """
    rank = window.check()
    if rank is not None and rank > MOST_AXES:
        raise InputError(f"1 to {MOST_AXES} spatial axes", str(rank), "pass a shorter tuple")
    check.flag(bias, "bias")
    check_initializer(initializer)


def check_groups(channels: int, groups: int, got: str) -> None:
    """Raise `InputError` unless groups divide channels, which `got` describes.

    Args:
        channels: how many channels go in or come out.
        groups: in how many groups.
        got: what the error calls the channels.
    """
    if channels % groups:
        raise InputError(
            f"channels in {groups} equal groups",
            got,
            "pass a number of groups that divides those going in and those coming out",
        )


def check_channels(x: Input, channels: int) -> None:
    """Raise `InputError` unless x has the channels that the layer was initialized for.

    Args:
        x: (B, *spatial, C).
        channels: C as the weight tells it.
    """
    check.shape(
        x,
        "B ... C",
        remedy="keep the channels last, and initialize the layer for as many",
        C=channels,
    )


def with_zero_bias(weight: Array, channels: int) -> Params:
    """Return parameters with a bias of zeros for so many channels, with none for 0.

    Args:
        weight: the weight, whose dtype the bias takes.
        channels: O, the length of the bias; 0 for none.
    """
    bias = {"bias": jnp.zeros(channels, weight.dtype)} if channels else {}
    return {"weight": weight} | bias


def add_bias(y: Array, params: Params) -> Array:
    """Add the bias to every position of y, if there is one.

    Args:
        y: (B, *positions, O).
        params: those of the layer, with a ``"bias"`` (O,) or without.
    """
    if "bias" not in params:
        return y
    return y + params["bias"].reshape((1,) * (y.ndim - 1) + (-1,))


def bias_gradient(params: Params, dy: Array) -> dict[str, Array]:
    """Return dbias, if there is a bias.

    Args:
        params: those of the layer.
        dy: (B, *positions, O).
    """
    return {"bias": dy.sum(tuple(range(dy.ndim - 1)))} if "bias" in params else {}
