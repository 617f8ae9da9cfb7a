"""Normalisation: give every channel mean zero and variance one."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.errors import InputError, describe
from fnn.layer import Array, Key, Layer, PyTree, check_floating, from_forward
from fnn.origin import constructor


class _Batch(NamedTuple):
    """Residuals of training: mean and deviation are those of x, and depend on it."""

    x: Array
    mean: Array
    inverse_deviation: Array


class _Running(NamedTuple):
    """Residuals out of training: mean and deviation are constants."""

    x: Array
    mean: Array
    inverse_deviation: Array


@constructor
def batch_norm(momentum: float = 0.9, epsilon: float = 1e-5) -> Layer:
    """Normalise every channel over all other axes, then scale and shift it.

    Forward, over the M numbers of a channel: ``mean = sum(x) / M``,
    ``var = sum((x - mean)^2) / M``, ``n = (x - mean) / sqrt(var + epsilon)``,
    ``y = scale n + shift``. Backward ``dscale = sum(dy n)``, ``dshift = sum(dy)``,
    ``dx = scale / sqrt(var + epsilon) (dy - dshift / M - n dscale / M)``: one formula in closed
    form, in place of the three paths through x, mean and var. Out of training mean and var are the
    running ones, and ``dx = scale / sqrt(var + epsilon) dy``.

    x, y (..., C) with any leading axes, scale and shift (C,), starting at 1 and 0; state mean and
    var (C,), starting at 0 and 1 and moving as ``momentum old + (1 - momentum) new`` in training,
    var being the one above (divided by M). Saved: x, and mean and 1 / sqrt(var + epsilon), (C,).
    With M = 1 training gives y = shift and dx = 0.

    Raises `fnn.InputError` for another number of channels, for a momentum outside [0, 1] or an
    epsilon below 0. Source: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1 and section 3.

    >>> import jax, jax.numpy as jnp
    >>> layer = batch_norm()
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((2, 1)))
    >>> y, state = layer.apply(params, state, jnp.array([[3.0], [5.0]]), train=True)
    >>> y.round(3), state["mean"].round(3)
    (Array([[-1.], [ 1.]], dtype=float32), Array([0.4], dtype=float32))
    """
    if not 0 <= momentum <= 1:
        raise InputError(
            "batch_norm", "a momentum in [0, 1]", describe(momentum), "pass the share to keep"
        )
    if not epsilon >= 0:
        raise InputError(
            "batch_norm", "an epsilon of 0 or more", describe(epsilon), "it is added to a variance"
        )

    def init(key: Array, x: Any, /) -> tuple[PyTree, PyTree]:
        del key
        check_floating("batch_norm", x)
        if len(x.shape) < 2:
            raise InputError(
                "batch_norm", "x of shape (B, ..., C)", str(tuple(x.shape)), "give x a batch axis"
            )
        channels = x.shape[-1]
        zeros, ones = jnp.zeros(channels, x.dtype), jnp.ones(channels, x.dtype)
        return {"scale": ones, "shift": zeros}, {"mean": zeros, "var": ones}

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        del key
        check_floating("batch_norm", x)
        channels = params["scale"].shape[0]
        if x.ndim < 2 or x.shape[-1] != channels:
            raise InputError(
                "batch_norm",
                f"x of shape (B, ..., {channels})",
                str(tuple(x.shape)),
                "keep the channels last, and initialise the layer for as many",
            )
        if train:
            leading = tuple(range(x.ndim - 1))
            mean = x.mean(leading)
            var = jnp.square(x - over(mean, x)).mean(leading)
            state = {
                "mean": momentum * state["mean"] + (1 - momentum) * mean,
                "var": momentum * state["var"] + (1 - momentum) * var,
            }
        else:
            mean, var = state["mean"], state["var"]
        residuals = (_Batch if train else _Running)(x, mean, jax.lax.rsqrt(var + epsilon))
        y = normal(residuals) * over(params["scale"], x) + over(params["shift"], x)
        return y, state, residuals

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        leading = tuple(range(dy.ndim - 1))
        n = normal(residuals)
        dscale, dshift = (dy * n).sum(leading), dy.sum(leading)
        gain = params["scale"] * residuals.inverse_deviation
        if isinstance(residuals, _Batch):
            m = dy.size // dy.shape[-1]
            dx = over(gain, dy) * (dy - over(dshift / m, dy) - n * over(dscale / m, dy))
        else:
            dx = over(gain, dy) * dy
        return {"scale": dscale, "shift": dshift}, dx

    def normal(residuals: _Batch | _Running) -> Any:
        x, mean, inverse_deviation = residuals
        return (x - over(mean, x)) * over(inverse_deviation, x)

    def over(channels: Array, x: Any) -> Array:
        """Give a (C,) array the rank of x: (1, ..., 1, C)."""
        return channels.reshape((1,) * (x.ndim - 1) + (-1,))

    return from_forward(init, forward, backward)
