"""Descent that needs no schedule: it averages its path, and takes gradients near the average."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn._core.description import constructor
from fnn._core.types import Array, Coefficient, Number, PyTree
from fnn.optim._hyperparameters import (
    Hyperparameter,
    cast_like,
    check_fraction,
    check_number,
    check_positive,
    first_step,
    next_step,
    resolve,
)
from fnn.optim._moving_average import copies, decayed, running_square, unbiased_root, zeros
from fnn.optim.optimizer import Optimizer, tree_map_like
from fnn.optim.optimizers.adam import check_moments


class ScheduleFreeState(NamedTuple):
    """Where the descent is, and how much the average weighs.

    `step` the step count (``()`` where nothing asks for it), `base` z, `square` the running mean
    square of the gradient (``()`` in `schedule_free_sgd`), `weight` the sum of the squared learning
    rates, `beta` the share of the average in the parameters.
    """

    step: PyTree
    base: PyTree
    square: PyTree
    weight: Array
    beta: Array

    def eval_params(self, params: PyTree) -> PyTree:
        """Return the average, ``x = (y - (1 - beta) z) / beta``."""
        share = self.beta

        def average(z: Any, y: Array) -> Array:
            if z is None:  # an optimizer for a part of the parameters has no others
                return y
            return ((y.astype(z.dtype) - cast_like(1 - share, z) * z) / cast_like(share, z)).astype(
                y.dtype
            )

        return jax.tree.map(average, self.base, params, is_leaf=lambda node: node is None)


@constructor
def schedule_free_sgd(
    learning_rate: Hyperparameter, beta: Number = 0.9, weight_decay: Coefficient = 0.0
) -> Optimizer:
    """Schedule-free SGD: gradients taken between z and the average x of all z.

    The parameters are ``y_t = (1 - beta) z_t + beta x_t``, g_t is the gradient there, and::

        z_{t+1} = z_t - learning_rate (g_t + decay y_t)
        x_{t+1} = (1 - c) x_t + c z_{t+1},   c = learning_rate_t^2 / sum_{i <= t} learning_rate_i^2

    No schedule that falls is needed; `schedule.warm_up` helps. x is never stored, since y and z
    give it: `fnn.optim.eval_params` returns it, and it is what to evaluate. z is kept in float32 or
    better.

    Raises `fnn.InputError` for a negative learning rate or decay, or a beta outside (0, 1). Source:
    Defazio et al. 2024, arXiv:2405.15682, eqs. 3 to 5, with the weights of algorithm 1.

    >>> import jax.numpy as jnp
    >>> optimizer = schedule_free_sgd(0.5)
    >>> params = jnp.array([4.0])
    >>> state = optimizer.init(params)
    >>> for _ in range(2):
    ...     updates, state = optimizer.update(jnp.array([2.0]), state, params)
    ...     params = params + updates
    >>> state.base, state.eval_params(params).round(4)
    (Array([2.], dtype=float32), Array([2.5], dtype=float32))
    """
    check_number("learning_rate", learning_rate)
    _check_beta(beta)
    check_number("weight_decay", weight_decay)

    def init(params: PyTree, /) -> ScheduleFreeState:
        return _start(first_step(learning_rate, weight_decay), params, (), beta)

    def update(
        grads: PyTree, state: ScheduleFreeState, params: PyTree, /
    ) -> tuple[PyTree, ScheduleFreeState]:
        pull = resolve(weight_decay, state.step)

        def way(z: Array, g: Array, y: Array) -> Array:
            return decayed(g.astype(z.dtype), pull, y)

        ways = tree_map_like(way, state.base, grads, params)
        return _follow(ways, learning_rate, beta, state, params)

    return Optimizer(init, update)


@constructor
def schedule_free_adamw(
    learning_rate: Hyperparameter,
    beta1: Number = 0.9,
    beta2: Number = 0.999,
    epsilon: Number = 1e-8,
    weight_decay: Coefficient = 0.0,
) -> Optimizer:
    """Schedule-free AdamW: `schedule_free_sgd` over the root of the mean square gradient.

    ``v_t = beta2 v_{t-1} + (1 - beta2) g_t^2``, ``v^ = v_t / (1 - beta2^t)``, t from 1, and
    ``z_{t+1} = z_t - learning_rate (g_t / (sqrt(v^) + epsilon) + weight_decay y_t)``; beta1 is the
    beta of `schedule_free_sgd`, and there is no other momentum. The mean is kept in float32 or
    better.

    Raises `fnn.InputError` as `adam` does, for a negative decay and for a beta1 of 0. Source:
    Defazio et al. 2024, arXiv:2405.15682, algorithm 1, the start from zero undone as in `adam`.

    >>> import jax.numpy as jnp
    >>> optimizer = schedule_free_adamw(0.5)
    >>> params = jnp.array([4.0])
    >>> state = optimizer.init(params)
    >>> optimizer.update(jnp.array([2.0]), state, params)[0].round(4)
    Array([-0.5], dtype=float32)
    """
    check_moments(learning_rate, beta1, beta2, epsilon)
    _check_beta(beta1, "beta1")
    check_number("weight_decay", weight_decay)

    def init(params: PyTree, /) -> ScheduleFreeState:
        return _start(jnp.int32(0), params, zeros(params), beta1)

    def update(
        grads: PyTree, state: ScheduleFreeState, params: PyTree, /
    ) -> tuple[PyTree, ScheduleFreeState]:
        pull = resolve(weight_decay, state.step)
        square = tree_map_like(lambda v, g: running_square(beta2, v, g), state.square, grads)
        root = unbiased_root(beta2, state.step + 1, epsilon)

        def way(z: Array, g: Array, v: Array, y: Array) -> Array:
            return decayed(g.astype(z.dtype) / root(v), pull, y)

        ways = tree_map_like(way, state.base, grads, square, params)
        return _follow(ways, learning_rate, beta1, state._replace(square=square), params)

    return Optimizer(init, update)


def _start(step: PyTree, params: PyTree, square: PyTree, beta: Any) -> ScheduleFreeState:
    number = jnp.result_type(float)
    weight, share = jnp.zeros((), number), jnp.array(beta, number)
    return ScheduleFreeState(step, copies(params), square, weight, share)


def _follow(
    ways: PyTree, learning_rate: Hyperparameter, beta: Any, state: ScheduleFreeState, params: PyTree
) -> tuple[PyTree, ScheduleFreeState]:
    """Move z along the ways; y follows by ``c (z - y) + (1 - beta (1 - c)) (z' - z)``."""
    rate = cast_like(resolve(learning_rate, state.step), state.weight)
    weight = state.weight + rate**2
    # A learning rate of 0 at the start has moved nothing: there is nothing to average.
    c = jnp.where(weight > 0, rate**2 / jnp.where(weight > 0, weight, 1), 0)
    follow = 1 - cast_like(beta, c) * (1 - c)

    def towards(y: Array, z: Array, moved: Array) -> Array:
        part = cast_like(c, z) * (z - y.astype(z.dtype))
        return (part + cast_like(follow, z) * (moved - z)).astype(y.dtype)

    base = tree_map_like(lambda z, d: z - cast_like(rate, z) * d, state.base, ways)
    updates = tree_map_like(towards, params, state.base, base)
    return updates, state._replace(step=next_step(state.step), base=base, weight=weight)


def _check_beta(beta: Any, name: str = "beta") -> None:
    check_fraction(name, beta)
    check_positive(**{name: beta})
