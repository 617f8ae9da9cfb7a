"""Batch normalization: the one norm that looks across the batch, and remembers what it saw."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.precision import downcast, upcast, wide_dtype
from fnn._core.types import (
    Array,
    Cotangent,
    Input,
    Key,
    Number,
    Output,
    Params,
    Residuals,
    State,
    Unchecked,
)
from fnn.layer import Layer, stateful
from fnn.layers.norm.layer_norm import (
    affine,
    check_channels,
    check_options,
    init_affine,
    inverse_root,
    over,
)

MOMENTUM = 0.9


@constructor
def batch_norm(
    *,
    momentum: Number | None = None,
    epsilon: float = 1e-5,
    scale: bool = True,
    shift: bool = True,
    track_running_stats: bool = True,
    axis_name: str | tuple[str, ...] | None = None,
) -> Layer:
    """Batch normalization: every channel normalized over all other axes, then scaled and shifted.

    The state, mean and var (C,), starts at 0 and 1 and moves in training as ``momentum old +
    (1 - momentum) new``, var being the one below (divided by M, not by M - 1 as in PyTorch). It and
    all statistics are float32 for bfloat16 and float16. With M = 1 training gives y = shift and
    dx = 0; an empty batch leaves the state as it is. `fnn.update_batch_norm` estimates the state
    anew, for averaged weights. A deviation beyond 1e19, whose variance is beyond float32, gives a
    var of inf and n = 0.

    A batch that XLA spreads over devices is one batch. Under `jax.shard_map` and `jax.vmap` it is
    what one of them sees, unless `axis_name` puts the shares together; their sizes are equal.

    Forward:   over the M elements of a channel, mean = sum(x) / M, var = sum((x - mean)^2) / M;
        n = (x - mean) / sqrt(var + epsilon), y = scale n + shift; out of training mean and var are
        the running ones
    Backward:  dscale = sum(dy n), dshift = sum(dy),
        dx = scale / sqrt(var + epsilon) (dy - dshift / M - n dscale / M): one formula in closed
        form, in place of the three paths through x, mean and var; out of training
        dx = scale / sqrt(var + epsilon) dy

    Args:
        momentum: the share of the old running statistics that is kept, in [0, 1], 0.9 by default;
            PyTorch's is 1 minus this.
        epsilon: added to the variance, 0 or more.
        scale: whether there is a scale to learn, (C,), starting at 1.
        shift: whether there is a shift to learn, (C,), starting at 0.
        track_running_stats: whether there are running statistics; without them those of the batch
            are taken out of training too, and there is no state.
        axis_name: the axis of `jax.shard_map` or `jax.vmap`, or several, over which the M elements
            of a channel lie; the gradients of scale and shift stay those of the own share.
    Shapes:    x, y (B, ..., C) with any axes between, as images (B, H, W, C) have
    Saves:     x, and mean and 1 / sqrt(var + epsilon), (C,)
    Raises:    InputError for another number of channels, for x of fewer than 2 axes or of integers,
        for a momentum outside [0, 1] or without running statistics, for an epsilon below 0, and
        where there is no axis of the name.
    Source:    Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1 and section 3.

    >>> import jax, jax.numpy as jnp
    >>> layer = batch_norm()
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((2, 1)))
    >>> y, state = layer.apply(params, state, jnp.array([[3.0], [5.0]]), train=True)
    >>> y.round(3), state["mean"].round(3)
    (Array([[-1.],
           [ 1.]], dtype=float32), Array([0.4], dtype=float32))
    """
    check_options(epsilon, scale, shift)
    check.flag(track_running_stats, "track_running_stats")
    if momentum is None:
        momentum = MOMENTUM
    elif not track_running_stats:
        raise InputError(
            "no momentum without running statistics", str(momentum), "leave one of the two out"
        )
    check.number(momentum, "momentum", least=0, most=1, remedy="pass the share to keep")
    _check_axis_name(axis_name)
    norm = _BatchNorm(momentum, epsilon, scale, shift, track_running_stats, axis_name)
    # Out of training the statistics are those of the state.
    return stateful(norm.init, norm.forward, norm.backward, positionwise=bool(track_running_stats))


def _check_axis_name(axis_name: Unchecked) -> None:
    """Raise `InputError` unless this is the name of an axis, several of them or None."""
    names = axis_name if isinstance(axis_name, tuple) and axis_name else (axis_name,)
    if axis_name is not None and not all(isinstance(name, str) and name for name in names):
        raise InputError(
            "axis_name of an axis, or a tuple of such names",
            describe(axis_name),
            "pass the name that jax.shard_map or jax.vmap gives it, such as 'data'",
        )


class _Batch(NamedTuple):
    """Residuals where mean and deviation are those of x, and depend on it."""

    x: Array
    mean: Array
    inverse_deviation: Array


class _Running(NamedTuple):
    """Residuals where mean and deviation are constants."""

    x: Array
    mean: Array
    inverse_deviation: Array


class _BatchNorm(NamedTuple):
    """The functions of a batch norm."""

    momentum: Number
    epsilon: float
    scale: bool
    shift: bool
    tracked: bool
    axis_name: str | tuple[str, ...] | None

    def init(self, key: Array, x: Input, /) -> tuple[Params, State]:
        del key
        check.floating(x)
        check.shape(x, "B ... C", remedy="give x a batch axis, and keep the channels last")
        params = init_affine(x, self.scale, self.shift)
        if not self.tracked:
            return params, ()
        channels, dtype = x.shape[-1], wide_dtype(x.dtype)
        return params, {"mean": jnp.zeros(channels, dtype), "var": jnp.ones(channels, dtype)}

    def forward(
        self, params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        del key
        check.flag(train, "train")
        check.floating(x)
        channels = (leaf.shape[0] for leaf in jax.tree.leaves((state, params))[:1])
        check_channels(x, "B ... C", *channels)
        wide, of_batch = upcast(x), train or not self.tracked
        mean, var = (
            self.moments(wide) if of_batch else (upcast(state["mean"]), upcast(state["var"]))
        )
        if train and self.tracked and x.size:
            state = {name: self.kept(state[name], new) for name, new in _named(mean, var)}
        inverse_deviation = inverse_root(var, self.epsilon)
        n = (wide + over(-mean, wide)) * over(inverse_deviation, wide)
        residuals = (_Batch if of_batch else _Running)(x, mean, inverse_deviation)
        return downcast(affine(params, n), x), state, residuals

    def moments(self, x: Array) -> tuple[Array, Array]:
        """Return mean and variance of every channel, over all shares of a batch.

        Of no elements they are those that a state starts with.
        """
        if x.size == 0:
            return jnp.zeros(x.shape[-1], x.dtype), jnp.ones(x.shape[-1], x.dtype)
        leading = tuple(range(x.ndim - 1))
        mean = self.shared(x.mean(leading))
        # Not the difference that the output takes: XLA for CPUs would write what both take.
        return mean, self.shared(jnp.square(over(mean, x) - x).mean(leading))

    def shared(self, own: Array) -> Array:
        """Return the mean of what every share has."""
        if self.axis_name is None:
            return own
        try:
            found: Array = jax.lax.pmean(own, self.axis_name)
        except NameError as error:
            raise InputError(
                f"an axis {self.axis_name!r} around batch_norm",
                "none of this name",
                "call it in jax.shard_map or jax.vmap with that axis, or leave axis_name out: one "
                "device and automatic sharding need none",
            ) from error
        return found

    def kept(self, old: Array, new: Array) -> Array:
        """Return the running statistics after a batch."""
        wide = upcast(old)
        share = jnp.asarray(self.momentum, wide.dtype)
        # A share of 0 keeps nothing of an old NaN either.
        kept = jnp.where(share == 0, 0, share * wide)
        return (kept + (1 - share) * new).astype(old.dtype)

    def backward(
        self, params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        x, mean, inverse_deviation = residuals
        wide, leading = upcast(dy), tuple(range(dy.ndim - 1))
        # All that is one number per channel stays out of the passes over dy and x. The sum takes a
        # difference of its own, as the variance does: the barrier makes another mean of it.
        centered = upcast(x) - over(jax.lax.optimization_barrier(mean), wide)
        dshift = wide.sum(leading)
        dscale = (wide * centered).sum(leading) * inverse_deviation
        gain = inverse_deviation
        if self.scale:
            gain = gain * params["scale"].astype(gain.dtype)
        if isinstance(residuals, _Batch):
            m = max(math.prod(dy.shape[:-1]), 1)
            shifts, scales = self.shared(dshift / m), self.shared(dscale / m)
            dx = over(gain, wide) * (wide - over(shifts, wide))
            dx -= (upcast(x) + over(-mean, wide)) * over(gain * inverse_deviation * scales, wide)
        else:
            dx = over(gain, wide) * wide
        sums = {"scale": dscale, "shift": dshift}
        return {name: sums[name].astype(params[name].dtype) for name in params}, downcast(dx, dy)


def _named(mean: Array, var: Array) -> tuple[tuple[str, Array], ...]:
    """Return statistics by the names that they have in the state."""
    return ("mean", mean), ("var", var)
