"""Optimizers for large batches: every parameter array moves by a share of its own norm."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.types import Array, Coefficient, Grads, Number, Params, PyTree, Scalar, Updates
from fnn.optim._hyperparameters import Hyperparameter, cast_like, first_step, next_step, resolve
from fnn.optim._moving_average import decayed, unbiased, unbiased_root, zeros
from fnn.optim._norms import as_norm, global_norm, norm_of, scaled_to
from fnn.optim.optimizer import Optimizer, tree_map_like
from fnn.optim.optimizers.adam import Direction, by_moments, check_moments


class LarsState(NamedTuple):
    """The step count, ``()`` without a schedule, and the velocity: a tree like params."""

    step: PyTree
    velocity: PyTree


@constructor
def lars(
    learning_rate: Hyperparameter,
    momentum: Number = 0.9,
    weight_decay: Coefficient = 0.0,
    trust: Hyperparameter = 0.001,
) -> Optimizer:
    """LARS: heavy-ball momentum, each array scaled by its own norm.

    The velocity is kept in float32 or wider. Biases and norms are better left to another optimizer,
    by `by_path`.

    Update:    l = trust |p| / (|g_t| + weight_decay |p|), v_t = momentum v_{t-1} + learning_rate l
        (g_t + weight_decay p), update -v_t, with the norms of one array and l = 1 where one of them
        is 0, as of biases at the start.

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        momentum: share of the velocity that stays, in [0, 1).
        weight_decay: multiple of the parameters, 0 or more, or a schedule.
        trust: how far an array moves as a share of its norm, 0 or more, or a schedule.
    Raises:    InputError for a value out of range.
    Source:    You, Gitman and Ginsburg 2017, arXiv:1708.03888, algorithm 1.

    >>> import jax.numpy as jnp
    >>> optimizer = lars(0.5, trust=0.1)
    >>> params = jnp.array([3.0, 4.0])
    >>> optimizer.update(jnp.array([0.0, 8.0]), optimizer.init(params), params)[0].round(4)
    Array([-0.  , -0.25], dtype=float32)

    """
    check.hyperparameter(learning_rate, "learning_rate", least=0)
    check.number(momentum, "momentum", least=0, below=1)
    check.hyperparameter(weight_decay, "weight_decay", least=0)
    check.hyperparameter(trust, "trust", least=0)

    def init(params: Params, /) -> LarsState:
        return LarsState(first_step(learning_rate, weight_decay, trust), zeros(params))

    def update(grads: Grads, state: LarsState, params: Params, /) -> tuple[Updates, LarsState]:
        rate, pull, share = (resolve(h, state.step) for h in (learning_rate, weight_decay, trust))
        velocity = tree_map_like(
            lambda v, g, p: (
                cast_like(momentum, v) * v
                + cast_like(rate, v)
                * _trusted(g.astype(v.dtype), p.astype(v.dtype), pull, cast_like(share, v))
            ),
            state.velocity,
            grads,
            params,
        )
        updates = tree_map_like(lambda g, v: -v, grads, velocity)
        return updates, LarsState(next_step(state.step), velocity)

    return Optimizer(init, update)


def _trusted(g: Array, p: Array, pull: Scalar, share: Scalar) -> Array:
    """Return ``l (g + pull p)``."""
    size, slope = global_norm(p), global_norm(g)
    length = as_norm(slope + cast_like(pull, g) * size)
    direction = decayed(g, pull, p)
    scaled = scaled_to(direction, length, share * size)
    return jnp.where((size > 0) & (slope > 0), scaled, direction)


@constructor
def lamb(
    learning_rate: Hyperparameter,
    beta1: Number = 0.9,
    beta2: Number = 0.999,
    weight_decay: Coefficient = 0.0,
    *,
    epsilon: Number = 1e-6,
) -> Optimizer:
    """LAMB: the direction of `adamw`, each array scaled by its own norm.

    Update:    r = m^ / (sqrt(v^) + epsilon) + weight_decay p with the means of `adam`, update
        -learning_rate |p| / |r| r, with the norms of one array and a ratio of 1 where one of them
        is 0.

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        beta1: share of the mean that stays, in [0, 1).
        beta2: share of the mean square that stays, in [0, 1).
        weight_decay: multiple of the parameters, 0 or more, or a schedule.
        epsilon: what keeps the quotient finite, above 0.
    Raises:    InputError for a value out of range.
    Source:    You et al. 2019, arXiv:1904.00962, algorithm 2, phi the identity.

    >>> import jax.numpy as jnp
    >>> optimizer = lamb(0.5)
    >>> params = jnp.array([3.0, 4.0])
    >>> optimizer.update(jnp.array([0.0, 8.0]), optimizer.init(params), params)[0].round(4)
    Array([-0. , -2.5], dtype=float32)

    """
    check_moments(learning_rate, beta1, beta2, epsilon)
    check.hyperparameter(weight_decay, "weight_decay", least=0)

    def at(step: Array) -> Direction:
        mean, root = unbiased(beta1, step), unbiased_root(beta2, step, epsilon)
        pull = resolve(weight_decay, step - 1)
        return lambda g, m, r, p: _rescaled(decayed(mean(m) / root(r), pull, p), p.astype(m.dtype))

    return by_moments(learning_rate, beta1, beta2, at)


def _rescaled(direction: Array, p: Array) -> Array:
    """Return the direction with the norm of the parameters."""
    size = global_norm(p)
    return jnp.where(size > 0, scaled_to(direction, norm_of(direction), size), direction)
