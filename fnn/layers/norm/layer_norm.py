"""Normalization of each example by itself: the same in training and out of it.

In every formula n is the normalized x, and the sums in mean and var run over the M numbers that are
normalized together. One backward serves all: with ``g = scale dy``,
``dx = (g - sum(g) / M - n sum(g n) / M) / sqrt(var + epsilon)``, in closed form in place of the
three paths through x, mean and var; and ``dscale = sum(dy n)``, ``dshift = sum(dy)``, over all axes
but the last. Saved: x, mean and 1 / sqrt(var + epsilon). n is recomputed: x was
there already, and n would have to be written. Statistics of bfloat16 and float16 are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.precision import downcast, upcast
from fnn._core.types import Array, PyTree
from fnn.layer import Layer, stateless


@constructor
def layer_norm(epsilon: float = 1e-5, *, scale: bool = True, shift: bool = True) -> Layer:
    """Layer normalization: the channels of every example and position normalized.

    Forward, over the C channels: ``mean = sum(x) / C``, ``var = sum((x - mean)^2) / C``,
    ``n = (x - mean) / sqrt(var + epsilon)``, ``y = scale n + shift``. Backward with
    ``g = scale dy`` is ``dx = (g - sum(g) / C - n sum(g n) / C) / sqrt(var + epsilon)``,
    ``dscale = sum(dy n)`` and ``dshift = sum(dy)``, over all axes but the last.

    x, y (..., C) with any leading axes; scale and shift (C,), starting at 1 and 0, each left out
    when `scale` or `shift` is False. Saved: x, and mean and 1 / sqrt(var + epsilon) (..., 1).
    With C = 1 y = shift and dx = 0.

    Raises `fnn.InputError` for another number of channels, an x without axes or of integers, and
    an epsilon below 0. Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450, eq. 4.

    >>> import jax, jax.numpy as jnp
    >>> layer = layer_norm()
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 2)))
    >>> layer.apply(params, state, jnp.array([[3.0, 5.0]]))[0].round(3)
    Array([[-1.,  1.]], dtype=float32)
    """
    return _norm(_Options(epsilon, scale, shift), _unchanged, _over_channels)


@constructor
def rms_norm(epsilon: float = 1e-6, *, scale: bool = True) -> Layer:
    """RMS normalization: the channels divided by their root mean square.

    Forward, over the C channels: ``n = x / sqrt(sum(x^2) / C + epsilon)``, ``y = scale n``.
    Backward with ``g = scale dy`` is ``dx = (g - n sum(g n) / C) / sqrt(sum(x^2) / C + epsilon)``
    and ``dscale = sum(dy n)``, over all axes but the last. There is no mean to subtract, and none
    in the gradient.

    x, y (..., C) with any leading axes; scale (C,), starting at 1, left out when `scale` is False.
    Saved: x, and 1 / sqrt(sum(x^2) / C + epsilon) (..., 1).

    Raises `fnn.InputError` as `layer_norm` does. Source: Zhang and Sennrich 2019, arXiv:1910.07467,
    eq. 4.

    >>> import jax, jax.numpy as jnp
    >>> layer = rms_norm()
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 4)))
    >>> layer.apply(params, state, jnp.array([[3.0, 5.0, 3.0, 5.0]]))[0].round(1)
    Array([[0.7, 1.2, 0.7, 1.2]], dtype=float32)
    """
    options = _Options(epsilon, scale, False, centered=False)
    return _norm(options, _unchanged, _over_channels)


@constructor
def group_norm(
    groups: int, epsilon: float = 1e-5, *, scale: bool = True, shift: bool = True
) -> Layer:
    """Group normalization: every example normalized in groups of channels, then scaled and shifted.

    Forward, with mean and var over the M numbers of one of the `groups`, which are C / groups
    channels next to each other at all places between the first and the last axis of one example:
    ``n = (x - mean) / sqrt(var + epsilon)``, ``y = scale n + shift``. Backward with
    ``g = scale dy`` is ``dx = (g - sum(g) / M - n sum(g n) / M) / sqrt(var + epsilon)``,
    ``dscale = sum(dy n)`` and ``dshift = sum(dy)``, over all axes but the last.

    x, y (B, ..., C) with any axes between; scale and shift (C,), starting at 1 and 0, each left out
    when `scale` or `shift` is False. Saved: x, and mean and 1 / sqrt(var + epsilon) of
    the group of every channel (B, 1, ..., C).

    Raises `fnn.InputError` for `groups` below 1 or that do not divide C, an x of fewer than 2 axes,
    and as `layer_norm` does. Source: Wu and He 2018, arXiv:1803.08494, eqs. 1 to 7.

    >>> import jax, jax.numpy as jnp
    >>> layer = group_norm(2)
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 4)))
    >>> layer.apply(params, state, jnp.array([[3.0, 5.0, 70.0, 10.0]]))[0].round(3)
    Array([[-1.,  1.,  1., -1.]], dtype=float32)
    """
    if not check.is_count(groups, 1):
        raise InputError("1 group or more", describe(groups), "pass a positive int")

    def among(means: Any) -> Any:
        channels = means.shape[-1]
        if channels % groups:
            raise InputError(
                f"channels in {groups} equal groups",
                f"{channels} channels",
                "pass a number of groups that divides that of the channels",
            )
        grouped = means.reshape(*means.shape[:-1], groups, channels // groups)
        mean = grouped.mean(-1, keepdims=True)
        return jnp.broadcast_to(mean, grouped.shape).reshape(means.shape)

    return _norm(_Options(epsilon, scale, shift, axes=2), _over_places, among)


@constructor
def instance_norm(epsilon: float = 1e-5, *, scale: bool = True, shift: bool = True) -> Layer:
    """Instance normalization: every channel of every example normalized over its spatial axes.

    Forward, with mean and var over the M places between the first and the last axis:
    ``n = (x - mean) / sqrt(var + epsilon)``, ``y = scale n + shift``. Backward with
    ``g = scale dy`` is ``dx = (g - sum(g) / M - n sum(g n) / M) / sqrt(var + epsilon)``,
    ``dscale = sum(dy n)`` and ``dshift = sum(dy)``, over all axes but the last.

    x, y (B, ..., C) with one axis or more between, as images (B, H, W, C) have; scale and shift
    (C,), starting at 1 and 0, each left out when `scale` or `shift` is False. Saved: x, and mean
    and 1 / sqrt(var + epsilon) (B, 1, ..., C). With M = 1 y = shift and dx = 0.

    Raises `fnn.InputError` for an x of fewer than 3 axes, and as `layer_norm` does. Source:
    Ulyanov, Vedaldi and Lempitsky 2016, arXiv:1607.08022, eq. 4.

    >>> import jax, jax.numpy as jnp
    >>> layer = instance_norm()
    >>> x = jnp.array([[[3.0, 70.0], [5.0, 10.0]]])
    >>> params, state = layer.init(jax.random.key(0), x)
    >>> layer.apply(params, state, x)[0].round(3)
    Array([[[-1.,  1.],
            [ 1., -1.]]], dtype=float32)
    """
    options = _Options(epsilon, scale, shift, axes=3)
    return _norm(options, _over_places, _unchanged)


class _Options(NamedTuple):
    """What the norms are told; `axes` is the least number of axes of x."""

    epsilon: float
    scale: bool
    shift: bool
    centered: bool = True
    axes: int = 1


class _Residuals(NamedTuple):
    x: Array
    mean: Array | None
    inverse_deviation: Array


def _unchanged(z: Any) -> Any:
    return z


def _over_channels(z: Any) -> Any:
    return z.mean(-1, keepdims=True)


def _over_places(z: Any) -> Any:
    return z.mean(tuple(range(1, z.ndim - 1)), keepdims=True)


def _norm(
    options: _Options,
    places: Callable[[Any], Any],
    among: Callable[[Any], Any],
) -> Layer:
    """Make a norm of the mean over what it normalizes together, taken in two steps.

    `places` is the mean over the places of each channel, `among` that among channels; each keeps
    the rank, and one of them may do nothing.
    """
    check_epsilon(options.epsilon)
    shape = {1: "(..., {})", 2: "(B, ..., {})", 3: "(B, ..., {}) with places between"}[options.axes]

    def check_input(x: Any, channels: Any = "C") -> None:
        check.floating(x)
        if len(x.shape) < options.axes or channels not in ("C", x.shape[-1]):
            raise InputError(
                f"x of shape {shape.format(channels)}",
                str(tuple(x.shape)),
                "keep the channels last, and initialize the layer for as many",
            )

    def init(key: Array, x: Any) -> PyTree:
        del key
        check_input(x)
        jax.eval_shape(among, x)
        return init_affine(x, options.scale, options.shift)

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        check_input(x, *(a.shape[0] for a in jax.tree.leaves(params)[:1]))
        z = upcast(x)
        middle = among(places(z)) if options.centered else None
        variance = among(places(jnp.square(z if middle is None else z - middle)))
        residuals = _Residuals(x, middle, jax.lax.rsqrt(variance + options.epsilon))
        return downcast(affine(params, normal(residuals)), x), residuals

    def backward(params: PyTree, residuals: PyTree, dy: Any) -> tuple[PyTree, Any]:
        def scaled(z: Any) -> Any:
            return z * over(params["scale"], z) if "scale" in params else z

        n, wide = normal(residuals), upcast(dy)
        g, means = scaled(wide), {"scale": places(wide * n), "shift": places(wide)}
        if places is _unchanged:
            along, middle = among(g * n), among(g)
        else:
            # The scale is the same at all places, so that the means over them serve dx as well as
            # the parameters: two sums over large arrays in place of four.
            along, middle = among(scaled(means["scale"])), among(scaled(means["shift"]))
        dn = g - n * along
        if options.centered:
            dn = dn - middle
        count = dy.size // max(1, means["shift"].size)
        dparams = {
            name: (count * means[name].sum(tuple(range(dy.ndim - 1)))).astype(params[name].dtype)
            for name in params
        }
        return dparams, downcast(dn * residuals.inverse_deviation, dy)

    def normal(residuals: _Residuals) -> Any:
        x, middle, inverse = residuals
        z = upcast(x)
        return (z if middle is None else z - middle) * inverse

    return stateless(init, forward, backward)


def check_epsilon(epsilon: float) -> None:
    """Raise `InputError` unless epsilon is 0 or more."""
    if not epsilon >= 0:
        raise InputError("an epsilon of 0 or more", describe(epsilon), "it is added to a variance")


def over(channels: Array, x: Any) -> Array:
    """Give a (C,) array the rank and dtype of x: (1, ..., 1, C)."""
    return channels.reshape((1,) * (x.ndim - 1) + (-1,)).astype(x.dtype)


def init_affine(x: Any, scale: bool, shift: bool) -> dict[str, Array]:
    """Return a scale of ones and a shift of zeros for the channels of x, as far as wanted."""
    ones = {"scale": jnp.ones(x.shape[-1], x.dtype)} if scale else {}
    return ones | ({"shift": jnp.zeros(x.shape[-1], x.dtype)} if shift else {})


def affine(params: PyTree, n: Any) -> Any:
    """Return ``scale n + shift``, as far as there are such parameters."""
    y = n * over(params["scale"], n) if "scale" in params else n
    return y + over(params["shift"], n) if "shift" in params else y
