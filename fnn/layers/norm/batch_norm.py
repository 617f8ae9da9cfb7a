"""Batch normalization: the one norm that looks across the batch, and remembers what it saw."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError
from fnn._core.precision import downcast, upcast
from fnn._core.types import Array, Key, Number, PyTree
from fnn.layer import Layer, stateful
from fnn.layers.norm.layer_norm import affine, check_epsilon, init_affine, over


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
def batch_norm(
    momentum: Number = 0.9, epsilon: float = 1e-5, *, scale: bool = True, shift: bool = True
) -> Layer:
    """Batch normalization: every channel normalized over all other axes, then scaled and shifted.

    Forward, over the M numbers of a channel: ``mean = sum(x) / M``,
    ``var = sum((x - mean)^2) / M``, ``n = (x - mean) / sqrt(var + epsilon)``,
    ``y = scale n + shift``. Backward ``dscale = sum(dy n)``, ``dshift = sum(dy)``,
    ``dx = scale / sqrt(var + epsilon) (dy - dshift / M - n dscale / M)``: one formula in closed
    form, in place of the three paths through x, mean and var. Out of training mean and var are the
    running ones, and ``dx = scale / sqrt(var + epsilon) dy``.

    x, y (B, ..., C) with any axes between, as images (B, H, W, C) have; scale and shift (C,),
    starting at 1 and 0, each left out when `scale` or `shift` is False; state mean and var (C,),
    starting at 0 and 1 and moving as ``momentum old + (1 - momentum) new`` in training, var being
    the one above (divided by M). Saved: x, and mean and 1 / sqrt(var + epsilon), (C,). With M = 1
    training gives y = shift and dx = 0. Statistics of bfloat16 and float16 are computed in float32,
    and kept in the dtype of x as state.

    Raises `fnn.InputError` for another number of channels, for a momentum outside [0, 1] or an
    epsilon below 0. Source: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1 and section 3.

    >>> import jax, jax.numpy as jnp
    >>> layer = batch_norm()
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((2, 1)))
    >>> y, state = layer.apply(params, state, jnp.array([[3.0], [5.0]]), train=True)
    >>> y.round(3), state["mean"].round(3)
    (Array([[-1.],
           [ 1.]], dtype=float32), Array([0.4], dtype=float32))
    """
    check.number(momentum, "momentum", least=0, most=1, remedy="pass the share to keep")
    check_epsilon(epsilon)

    def init(key: Array, x: Any, /) -> tuple[PyTree, PyTree]:
        del key
        check.floating(x)
        if len(x.shape) < 2:
            raise InputError("x of shape (B, ..., C)", str(tuple(x.shape)), "give x a batch axis")
        start = init_affine(x, True, True)
        state = {"mean": start["shift"], "var": start["scale"]}
        return init_affine(x, scale, shift), state

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        del key
        check.floating(x)
        channels = state["mean"].shape[0]
        if x.ndim < 2 or x.shape[-1] != channels:
            raise InputError(
                f"x of shape (B, ..., {channels})",
                str(tuple(x.shape)),
                "keep the channels last, and initialize the layer for as many",
            )
        wide, mean, var = map(upcast, (x, state["mean"], state["var"]))
        if train:
            leading = tuple(range(x.ndim - 1))
            mean = wide.mean(leading)
            var = jnp.square(wide - over(mean, wide)).mean(leading)
            state = {"mean": kept(state["mean"], mean), "var": kept(state["var"], var)}
        inverse_deviation = jax.lax.rsqrt(var + epsilon)
        n = (wide - over(mean, wide)) * over(inverse_deviation, wide)
        residuals = (_Batch if train else _Running)(x, mean, inverse_deviation)
        return downcast(affine(params, n), x), state, residuals

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        x, mean, inverse_deviation = residuals
        wide, leading = upcast(dy), tuple(range(dy.ndim - 1))
        # All that is one number per channel stays out of the passes over dy and x.
        centered = upcast(x) - over(mean, wide)
        dshift = wide.sum(leading)
        dscale = (wide * centered).sum(leading) * inverse_deviation
        gain = inverse_deviation
        if scale:
            gain = gain * params["scale"].astype(gain.dtype)
        if isinstance(residuals, _Batch):
            m = dy.size // dy.shape[-1]
            dx = over(gain, wide) * (wide - over(dshift / m, wide))
            dx -= centered * over(gain * inverse_deviation * dscale / m, wide)
        else:
            dx = over(gain, wide) * wide
        sums = {"scale": dscale, "shift": dshift}
        return {name: sums[name].astype(params[name].dtype) for name in params}, downcast(dx, dy)

    def kept(old: Any, new: Any) -> Any:
        wide = upcast(old)
        share = jnp.asarray(momentum, wide.dtype)
        return (share * wide + (1 - share) * new).astype(old.dtype)

    return stateful(init, forward, backward)
