"""Normalization of each example by itself: the same in training and out of it.

In every formula n is the normalized x, and the sums in mean and var run over the M elements that
are normalized together. One backward serves all, in closed form in place of the three paths through
x, mean and var. n is recomputed from x, mean and 1 / sqrt(var + epsilon): x is live anyway, and
storing n would cost a write. Statistics of bfloat16 and float16 are float32. Squares are taken in a
unit so small that those of float32 numbers of 1e30 are finite, and no smaller than epsilon allows.

XLA for CPUs computes a sum with what is in front of it, but writes out what two take: a mean, at
the size of x, if two subtract it. So every sum here subtracts a mean of its own, of the other sign
or in another unit, which changes none of the differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError
from fnn._core.mesh import layouts
from fnn._core.precision import downcast, upcast
from fnn._core.sums import row_sum, sum_of_product
from fnn._core.types import Array, Cotangent, Input, Output, Params, Residuals, Unchecked
from fnn.layer import Layer, stateless

CHANNELS_LAST = "keep the channels last, and initialize the layer for as many"
# Elements in a row of positions that are laid side by side.
ROW = 1024


@constructor
def layer_norm(*, epsilon: float = 1e-5, scale: bool = True, shift: bool = True) -> Layer:
    """Layer normalization: the channels of every example and position normalized.

    With C = 1 y = shift and dx = 0. Statistics of bfloat16 and float16 are float32.

    Forward:   mean = sum(x) / C, var = sum((x - mean)^2) / C, both over the C channels,
        n = (x - mean) / sqrt(var + epsilon), y = scale n + shift
    Backward:  with g = scale dy, dx = (g - sum(g) / C - n sum(g n) / C) / sqrt(var + epsilon);
        dscale = sum(dy n), dshift = sum(dy), over all axes but the last

    Args:
        epsilon: added to the variance, 0 or more.
        scale: whether there is a scale to learn, (C,), starting at 1.
        shift: whether there is a shift to learn, (C,), starting at 0.
    Shapes:    x, y (..., C) with any leading axes
    Saves:     x, and mean and 1 / sqrt(var + epsilon) (..., 1)
    Raises:    InputError for another number of channels, for x without axes or of integers, and for
        an epsilon below 0.
    Source:    Ba, Kiros and Hinton 2016, arXiv:1607.06450, eq. 4.

    >>> import jax, jax.numpy as jnp
    >>> layer = layer_norm()
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 2)))
    >>> layer.apply(params, state, jnp.array([[3.0, 5.0]]))[0].round(3)
    Array([[-1.,  1.]], dtype=float32)
    """
    return _made(_Norm(epsilon, scale, shift, _unchanged, _over_channels))


@constructor
def rms_norm(*, epsilon: float = 1e-6, scale: bool = True) -> Layer:
    """RMS normalization: the channels divided by their root mean square.

    There is no mean to subtract, and none in the gradient. Statistics of bfloat16 and float16 are
    float32.

    Forward:   n = x / sqrt(sum(x^2) / C + epsilon), the sum over the C channels, y = scale n
    Backward:  with g = scale dy, dx = (g - n sum(g n) / C) / sqrt(sum(x^2) / C + epsilon);
        dscale = sum(dy n), over all axes but the last

    Args:
        epsilon: added to the mean square, 0 or more.
        scale: whether there is a scale to learn, (C,), starting at 1.
    Shapes:    x, y (..., C) with any leading axes
    Saves:     x, and 1 / sqrt(sum(x^2) / C + epsilon) (..., 1)
    Raises:    InputError for another number of channels, for x without axes or of integers, and for
        an epsilon below 0.
    Source:    Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.

    >>> import jax, jax.numpy as jnp
    >>> layer = rms_norm()
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 4)))
    >>> layer.apply(params, state, jnp.array([[3.0, 5.0, 3.0, 5.0]]))[0].round(1)
    Array([[0.7, 1.2, 0.7, 1.2]], dtype=float32)
    """
    return _made(_Norm(epsilon, scale, False, _unchanged, _over_channels, centered=False))


@constructor
def group_norm(
    groups: int, *, epsilon: float = 1e-5, scale: bool = True, shift: bool = True
) -> Layer:
    """Group normalization: every example normalized in groups of channels, then scaled and shifted.

    Statistics of bfloat16 and float16 are float32.

    Forward:   mean and var over the M elements of a group: C / groups channels next to each other
        at all positions of one example; n = (x - mean) / sqrt(var + epsilon), y = scale n + shift
    Backward:  with g = scale dy, dx = (g - sum(g) / M - n sum(g n) / M) / sqrt(var + epsilon);
        dscale = sum(dy n), dshift = sum(dy), over all axes but the last

    Args:
        groups: how many groups, a divisor of C.
        epsilon: added to the variance, 0 or more.
        scale: whether there is a scale to learn, (C,), starting at 1.
        shift: whether there is a shift to learn, (C,), starting at 0.
    Shapes:    x, y (B, ..., C) with any axes between
    Saves:     x, and mean and 1 / sqrt(var + epsilon) of the group of every channel (B, 1, ..., C)
    Raises:    InputError for `groups` below 1 or that do not divide C, for x of fewer than 2 axes
        or of integers, for another number of channels, and for an epsilon below 0.
    Source:    Wu and He 2018, arXiv:1803.08494, eqs. 1 to 7.

    >>> import jax, jax.numpy as jnp
    >>> layer = group_norm(2)
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 4)))
    >>> layer.apply(params, state, jnp.array([[3.0, 5.0, 70.0, 10.0]]))[0].round(3)
    Array([[-1.,  1.,  1., -1.]], dtype=float32)
    """
    check.count(groups, "groups")

    def among(means: Array) -> Array:
        channels = means.shape[-1]
        if channels % groups:
            raise InputError(
                f"channels in {groups} equal groups",
                f"{channels} channels",
                "pass a number of groups that divides that of the channels",
            )
        grouped = means.reshape(*means.shape[:-1], groups, channels // groups)
        mean = row_sum(grouped) / grouped.shape[-1]
        return jnp.broadcast_to(mean, grouped.shape).reshape(means.shape)

    return _made(_Norm(epsilon, scale, shift, _over_positions, among, axes="B ... C"))


@constructor
def instance_norm(*, epsilon: float = 1e-5, scale: bool = True, shift: bool = True) -> Layer:
    """Instance normalization: every channel of every example normalized over its spatial axes.

    With M = 1 y = shift and dx = 0. Statistics of bfloat16 and float16 are float32.

    Forward:   mean and var over the M positions between the first and the last axis;
        n = (x - mean) / sqrt(var + epsilon), y = scale n + shift
    Backward:  with g = scale dy, dx = (g - sum(g) / M - n sum(g n) / M) / sqrt(var + epsilon);
        dscale = sum(dy n), dshift = sum(dy), over all axes but the last

    Args:
        epsilon: added to the variance, 0 or more.
        scale: whether there is a scale to learn, (C,), starting at 1.
        shift: whether there is a shift to learn, (C,), starting at 0.
    Shapes:    x, y (B, ..., C) with one axis or more between, as images (B, H, W, C) have
    Saves:     x, and mean and 1 / sqrt(var + epsilon) (B, 1, ..., C)
    Raises:    InputError for x of fewer than 3 axes or of integers, for another number of channels,
        and for an epsilon below 0.
    Source:    Ulyanov, Vedaldi and Lempitsky 2016, arXiv:1607.08022, eq. 4.

    >>> import jax, jax.numpy as jnp
    >>> layer = instance_norm()
    >>> x = jnp.array([[[3.0, 70.0], [5.0, 10.0]]])
    >>> params, state = layer.init(jax.random.key(0), x)
    >>> layer.apply(params, state, x)[0].round(3)
    Array([[[-1.,  1.],
            [ 1., -1.]]], dtype=float32)
    """
    return _made(_Norm(epsilon, scale, shift, _over_positions, _unchanged, axes="B H ... C"))


class _Residuals(NamedTuple):
    """What a norm saves; the mean is None where none is subtracted."""

    x: Array
    mean: Array | None
    inverse_deviation: Array


def _unchanged(z: Array) -> Array:
    """Leave each by itself."""
    return z


def _over_channels(z: Array) -> Array:
    """Return the mean over the channels."""
    return z.mean(-1, keepdims=True)


def _over_positions(z: Array) -> Array:
    """Return the mean over the positions of each channel."""
    return z.mean(tuple(range(1, z.ndim - 1)), keepdims=True)


def _mean_of_product(middle: Array, z: Array, other: Array | None, unit: float) -> Array:
    """Return the mean over the positions of ``unit (middle - z)``, squared or times another array.

    XLA for CPUs subtracts a mean row by row, for which a row of a few channels is too short: as
    many positions as make a longer one are laid side by side. Forward and backward choose two
    lengths, so that neither has to write its rows for the other.

    Args:
        middle: (B, 1, ..., C).
        z: (B, ..., C).
        other: the same, or None for the square.
        unit: a power of 2.
    """
    batch, channels = z.shape[0], z.shape[-1]
    if layouts(z) is not None or not channels:
        off = (middle - z) * unit
        return _over_positions(jnp.square(off) if other is None else off * other)
    positions, longest = math.prod(z.shape[1:-1]), ROW if other is None else ROW // 2
    fitting = range(1, longest // channels + 1)
    count = max((k for k in fitting if positions % k == 0), default=1)
    shape = batch, positions // count, count * channels
    off = (jnp.tile(middle.reshape(batch, 1, channels), count) - z.reshape(shape)) * unit
    rows = sum_of_product(off, off if other is None else other.reshape(shape), 1) / shape[1]
    product: Array = rows.reshape(batch, count, channels).mean(1).reshape(middle.shape)
    return product


class _Norm(NamedTuple):
    """A norm of the mean over what it normalizes together, taken in two steps.

    `positions` is the mean over the positions of each channel, `among` that among channels; each
    keeps the rank, and one of them may do nothing. `axes` are those that x must have.
    """

    epsilon: float
    scale: bool
    shift: bool
    positions: Callable[[Array], Array]
    among: Callable[[Array], Array]
    centered: bool = True
    axes: str = "... C"

    def init(self, key: Array, x: Input) -> Params:
        del key
        self.check_input(x)
        jax.eval_shape(self.among, x)
        return init_affine(x, self.scale, self.shift)

    def check_input(self, x: Unchecked, *channels: int) -> None:
        """Raise unless x is an array that the norm takes."""
        check.floating(x)
        check_channels(x, self.axes, *channels)

    def forward(self, params: Params, x: Input) -> tuple[Output, Residuals]:
        self.check_input(x, *(a.shape[0] for a in jax.tree.leaves(params)[:1]))
        z = upcast(x)
        middle = self.mean(z) if self.centered else None
        inverse = self.inverse_deviation(z, middle)
        residuals = _Residuals(x, middle, inverse)
        return downcast(affine(params, _normal(residuals)), x), residuals

    def inverse_deviation(self, z: Array, middle: Array | None) -> Array:
        """Return ``1 / sqrt(mean((z - middle)^2) + epsilon)``, also where squares leave the dtype.

        Of a large mean square not only the root is taken in a smaller unit, but also what autodiff
        makes of it.
        """
        unit, most = _unit(self.epsilon, z.dtype), int(jnp.finfo(z.dtype).maxexp)
        if middle is None or self.positions is _unchanged:
            off = z if middle is None else middle - z
            # Behind a barrier, as XLA would multiply it by other constants of the derivative, to 0.
            square = self.mean(jnp.square(off * jax.lax.optimization_barrier(z.dtype.type(unit))))
        else:
            square = self.among(_mean_of_product(middle, z, None, unit))
        large, far = square > 2.0 ** (most // 2) * unit**2, unit * 2.0 ** -(most // 4)
        small = square * 2.0 ** -(most // 2) + float(self.epsilon * far**2)
        root = jax.lax.rsqrt(jnp.where(large, small, square * unit**-2 + float(self.epsilon)))
        # Not a choice of two products, which XLA would take anew for every element of x.
        return root / jnp.where(large, 1 / far, 1)

    def mean(self, z: Array) -> Array:
        """Return the mean over what is normalized together."""
        return self.among(self.positions(z))

    def backward(
        self, params: Params, residuals: Residuals, dy: Cotangent
    ) -> tuple[Params, Cotangent]:
        if dy.size == 0:
            # A mean over no elements is NaN.
            return jax.tree.map(jnp.zeros_like, params), dy
        n, wide = _normal(residuals), upcast(dy)
        if residuals.mean is None or self.positions is _unchanged:
            means, count = {"scale": wide * n, "shift": wide}, 1
            weight = _scaled(params, jnp.ones(dy.shape[-1], wide.dtype))
            weight /= weight.size
            along, middle = row_sum(means["scale"], weight), row_sum(wide, weight)
        else:
            # The scale is the same at all positions, so that the means over them serve dx as well
            # as the parameters: two sums over large arrays in place of four.
            products = _mean_of_product(residuals.mean, upcast(residuals.x), wide, 1.0)
            scales = -residuals.inverse_deviation * products
            means = {"scale": scales, "shift": self.positions(wide)}
            count = math.prod(dy.shape[1:-1])
            along = self.among(_scaled(params, means["scale"]))
            middle = self.among(_scaled(params, means["shift"]))
        dn = _scaled(params, wide) - n * along
        if self.centered:
            dn = dn - middle
        dparams = {
            name: (count * means[name].sum(tuple(range(dy.ndim - 1)))).astype(params[name].dtype)
            for name in params
        }
        return dparams, downcast(dn * residuals.inverse_deviation, dy)


def _made(norm: _Norm) -> Layer:
    """Check the options of a norm, and make the layer."""
    check_options(norm.epsilon, norm.scale, norm.shift)
    of_channels = norm.positions is _unchanged and norm.axes == "... C"
    return stateless(norm.init, norm.forward, norm.backward, positionwise=of_channels)


def _normal(residuals: _Residuals) -> Array:
    """Return the normalized x."""
    x, middle, inverse = residuals
    z = upcast(x)
    return (z if middle is None else z + -middle) * inverse


def _unit(epsilon: float, dtype: Unchecked) -> float:
    """Return the power of 2 in which squares that underflow are too small beside an epsilon."""
    if epsilon == 0:
        return 1.0
    info = jnp.finfo(dtype)
    least = (int(info.minexp) + int(info.nmant) + 2 - math.log2(epsilon)) / 2
    # Of a huge epsilon it is what has a square that can be divided by.
    return 2.0 ** min(math.ceil(max(least, 1 - int(info.maxexp) // 2)), 0)


def _scaled(params: Params, z: Array) -> Array:
    """Return ``scale z``, as far as there is a scale."""
    return z * over(params["scale"], z) if "scale" in params else z


def check_channels(x: Input, axes: str, *channels: int) -> None:
    """Raise `InputError` unless x has the axes, and as many channels as are named.

    Args:
        x: the input of a norm.
        axes: what `fnn._core.check.shape` takes, such as ``"B ... C"``.
        channels: how many channels there should be, or nothing for any number.
    """
    if channels:
        check.shape(x, axes, remedy=CHANNELS_LAST, C=channels[0])
    else:
        check.shape(x, axes, remedy=CHANNELS_LAST)


def check_options(epsilon: Unchecked, scale: Unchecked, shift: Unchecked) -> None:
    """Raise `InputError` unless epsilon is 0 or more, and the flags are flags.

    Args:
        epsilon: what is added to the variance, or to the mean square.
        scale: whether there is a scale.
        shift: whether there is a shift.
    """
    check.number(epsilon, "epsilon", least=0, remedy="pass a small number: a variance takes it")
    check.flag(scale, "scale")
    check.flag(shift, "shift")


def inverse_root(variance: Array, epsilon: float) -> Array:
    """Return ``1 / sqrt(variance + epsilon)``.

    Args:
        variance: (...), of floating numbers.
        epsilon: what is added, in the dtype of the variance.
    """
    return jax.lax.rsqrt(variance + jnp.asarray(epsilon, variance.dtype))


def over(channels: Array, x: Array) -> Array:
    """Give a (C,) array the rank and dtype of x: (1, ..., 1, C).

    Args:
        channels: (C,).
        x: (..., C), of which only rank and dtype are used.
    """
    return channels.reshape((1,) * (x.ndim - 1) + (-1,)).astype(x.dtype)


def init_affine(x: Input, scale: bool, shift: bool) -> dict[str, Array]:
    """Return a scale of ones and a shift of zeros for the channels of x, as far as wanted.

    Args:
        x: (..., C), whose dtype the parameters take.
        scale: whether there is a scale.
        shift: whether there is a shift.
    """
    ones = {"scale": jnp.ones(x.shape[-1], x.dtype)} if scale else {}
    return ones | ({"shift": jnp.zeros(x.shape[-1], x.dtype)} if shift else {})


def affine(params: Params, n: Array) -> Array:
    """Return ``scale n + shift``, as far as there are such parameters.

    Args:
        params: those of the layer: ``"scale"`` (C,), ``"shift"`` (C,), one of them, or none.
        n: (..., C), x normalized.
    """
    y = _scaled(params, n)
    return y + over(params["shift"], n) if "shift" in params else y
