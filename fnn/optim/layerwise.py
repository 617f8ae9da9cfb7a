"""Rules for large batches: every parameter array moves by a share of its own norm."""

from __future__ import annotations

from typing import NamedTuple

from fnn.layer import Array, PyTree
from fnn.optim.clip import global_norm
from fnn.optim.hyper import Hyper, at_step, cast, check_number, check_share, first_step, next_step
from fnn.optim.moments import Direction, by_moments, check_moments
from fnn.optim.rule import UpdateRule, each
from fnn.optim.running import decayed, quotient, unbiased, unbiased_root, zeros
from fnn.origin import constructor


class LarsState(NamedTuple):
    """The step count, ``()`` without a schedule, and the velocity: a tree like params."""

    step: PyTree
    velocity: PyTree


@constructor
def lars(
    learning_rate: Hyper, momentum: float = 0.9, decay: Hyper = 0.0, trust: Hyper = 0.001
) -> UpdateRule:
    """Descend with momentum, each array by a share of its norm.

    ``l = trust |p| / (|g_t| + decay |p|)``, ``v_t = momentum v_{t-1} + learning_rate l (g_t + decay
    p)``, update ``-v_t``, with the norms of one array and l = 1 where one of them is 0, as of
    biases at the start. The velocity is kept in float32 or better. Biases and norms are better left
    to another rule, by `by_path`.

    Raises `fnn.InputError` for a negative learning rate, decay or trust, or a momentum outside
    [0, 1). Source: You, Gitman and Ginsburg 2017, arXiv:1708.03888, algorithm 1.

    >>> import jax.numpy as jnp
    >>> rule = lars(0.5, trust=0.1)
    >>> params = jnp.array([3.0, 4.0])
    >>> rule.update(jnp.array([0.0, 8.0]), rule.init(params), params)[0].round(4)
    Array([-0.  , -0.25], dtype=float32)
    """
    check_number("optim.lars", "learning_rate", learning_rate)
    check_share("optim.lars", "momentum", momentum)
    check_number("optim.lars", "decay", decay)
    check_number("optim.lars", "trust", trust)

    def init(params: PyTree, /) -> LarsState:
        return LarsState(first_step(learning_rate, decay, trust), zeros(params))

    def update(grads: PyTree, state: LarsState, params: PyTree, /) -> tuple[PyTree, LarsState]:
        rate, pull, share = (at_step(h, state.step) for h in (learning_rate, decay, trust))

        def velocity_of(v: Array, g: Array, p: Array) -> Array:
            g, p = g.astype(v.dtype), p.astype(v.dtype)
            size, slope = global_norm(p), global_norm(g)
            length = slope + cast(pull, v) * size
            scale = quotient(cast(share, v) * size, length, (size > 0) & (slope > 0))
            return cast(momentum, v) * v + cast(rate, v) * scale * decayed(g, pull, p)

        velocity = each(velocity_of, state.velocity, grads, params)
        updates = each(lambda g, v: -v, grads, velocity)
        return updates, LarsState(next_step(state.step), velocity)

    return UpdateRule(init, update)


@constructor
def lamb(
    learning_rate: Hyper,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-6,
    decay: Hyper = 0.0,
) -> UpdateRule:
    """Step in the direction of `adamw`, each array by its own norm.

    ``r = m^ / (sqrt(v^) + epsilon) + decay p`` with the means of `adam`, update ``-learning_rate
    |p| / |r| r``, with the norms of one array and a ratio of 1 where one of them is 0.

    Raises `fnn.InputError` as `adam` does, and for a negative decay. Source: You et al. 2019,
    arXiv:1904.00962, algorithm 2, phi the identity.

    >>> import jax.numpy as jnp
    >>> rule = lamb(0.5)
    >>> params = jnp.array([3.0, 4.0])
    >>> rule.update(jnp.array([0.0, 8.0]), rule.init(params), params)[0].round(4)
    Array([-0. , -2.5], dtype=float32)
    """
    check_moments("optim.lamb", learning_rate, beta1, beta2, epsilon)
    check_number("optim.lamb", "decay", decay)

    def at(step: Array) -> Direction:
        mean, root = unbiased(beta1, step), unbiased_root(beta2, step, epsilon)
        pull = at_step(decay, step - 1)

        def direction(g: Array, m: Array, v: Array, p: Array) -> Array:
            del g
            p = p.astype(m.dtype)
            r = decayed(mean(m) / root(v), pull, p)
            size, length = global_norm(p), global_norm(r)
            return quotient(size, length, (size > 0) & (length > 0)) * r

        return direction

    return by_moments(learning_rate, beta1, beta2, at)
