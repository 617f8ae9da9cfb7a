"""Optimizers for large batches: every parameter array moves by a share of its own norm."""

from __future__ import annotations

from typing import NamedTuple

from fnn._core.description import constructor
from fnn._core.types import Array, Coefficient, Number, PyTree
from fnn.optim._hyperparameters import (
    Hyperparameter,
    cast_like,
    check_fraction,
    check_number,
    first_step,
    next_step,
    resolve,
)
from fnn.optim._moving_average import decayed, safe_divide, unbiased, unbiased_root, zeros
from fnn.optim.optimizer import Optimizer, tree_map_like
from fnn.optim.optimizers.adam import Direction, by_moments, check_moments
from fnn.optim.transforms.clip import global_norm


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

    ``l = trust |p| / (|g_t| + weight_decay |p|)``, ``v_t = momentum v_{t-1} + learning_rate l (g_t
    + decay p)``, update ``-v_t``, with the norms of one array and l = 1 where one of them is 0, as
    of biases at the start. The velocity is kept in float32 or better. Biases and norms are better
    left to another optimizer, by `by_path`.

    Raises `fnn.InputError` for a negative learning rate, decay or trust, or a momentum outside
    [0, 1). Source: You, Gitman and Ginsburg 2017, arXiv:1708.03888, algorithm 1.

    >>> import jax.numpy as jnp
    >>> optimizer = lars(0.5, trust=0.1)
    >>> params = jnp.array([3.0, 4.0])
    >>> optimizer.update(jnp.array([0.0, 8.0]), optimizer.init(params), params)[0].round(4)
    Array([-0.  , -0.25], dtype=float32)
    """
    check_number("learning_rate", learning_rate)
    check_fraction("momentum", momentum)
    check_number("weight_decay", weight_decay)
    check_number("trust", trust)

    def init(params: PyTree, /) -> LarsState:
        return LarsState(first_step(learning_rate, weight_decay, trust), zeros(params))

    def update(grads: PyTree, state: LarsState, params: PyTree, /) -> tuple[PyTree, LarsState]:
        rate, pull, share = (resolve(h, state.step) for h in (learning_rate, weight_decay, trust))

        def velocity_of(v: Array, g: Array, p: Array) -> Array:
            g, p = g.astype(v.dtype), p.astype(v.dtype)
            size, slope = global_norm(p), global_norm(g)
            length = slope + cast_like(pull, v) * size
            scale = safe_divide(cast_like(share, v) * size, length, (size > 0) & (slope > 0))
            return cast_like(momentum, v) * v + cast_like(rate, v) * scale * decayed(g, pull, p)

        velocity = tree_map_like(velocity_of, state.velocity, grads, params)
        updates = tree_map_like(lambda g, v: -v, grads, velocity)
        return updates, LarsState(next_step(state.step), velocity)

    return Optimizer(init, update)


@constructor
def lamb(
    learning_rate: Hyperparameter,
    beta1: Number = 0.9,
    beta2: Number = 0.999,
    epsilon: Number = 1e-6,
    weight_decay: Coefficient = 0.0,
) -> Optimizer:
    """LAMB: the direction of `adamw`, each array scaled by its own norm.

    ``r = m^ / (sqrt(v^) + epsilon) + weight_decay p`` with the means of `adam`, update
    ``-learning_rate |p| / |r| r``, with the norms of one array and a ratio of 1 where one of them
    is 0.

    Raises `fnn.InputError` as `adam` does, and for a negative decay. Source: You et al. 2019,
    arXiv:1904.00962, algorithm 2, phi the identity.

    >>> import jax.numpy as jnp
    >>> optimizer = lamb(0.5)
    >>> params = jnp.array([3.0, 4.0])
    >>> optimizer.update(jnp.array([0.0, 8.0]), optimizer.init(params), params)[0].round(4)
    Array([-0. , -2.5], dtype=float32)
    """
    check_moments(learning_rate, beta1, beta2, epsilon)
    check_number("weight_decay", weight_decay)

    def at(step: Array) -> Direction:
        mean, root = unbiased(beta1, step), unbiased_root(beta2, step, epsilon)
        pull = resolve(weight_decay, step - 1)

        def direction(g: Array, m: Array, v: Array, p: Array) -> Array:
            del g
            p = p.astype(m.dtype)
            r = decayed(mean(m) / root(v), pull, p)
            size, length = global_norm(p), global_norm(r)
            return safe_divide(size, length, (size > 0) & (length > 0)) * r

        return direction

    return by_moments(learning_rate, beta1, beta2, at)
