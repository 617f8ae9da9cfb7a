"""Descent that needs no schedule: it averages its path, and takes gradients near the average."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.types import (
    Array,
    Coefficient,
    Grads,
    Number,
    Params,
    PyTree,
    Scalar,
    Unchecked,
    Updates,
)
from fnn.optim._hyperparameters import Hyperparameter, cast_like, first_step, next_step, resolve
from fnn.optim._moving_average import (
    copies,
    decayed,
    root_sum_square,
    running_root,
    unbiased_root,
    zeros,
)
from fnn.optim.optimizer import Optimizer, tree_map_like
from fnn.optim.optimizers.adam import check_moments


class ScheduleFreeState(NamedTuple):
    """Where the descent is, and how much the average weighs.

    `step` the step count (``()`` where nothing asks for it), `base` z, `root` the root mean square
    of the gradient (``()`` in `schedule_free_sgd`), `weight` the root of the sum of the squared
    learning rates, `beta` the share of the average in the parameters.
    """

    step: PyTree
    base: PyTree
    root: PyTree
    weight: Array
    beta: Array

    def eval_params(self, params: Params) -> Params:
        """Return the average, ``x = (y - (1 - beta) z) / beta``.

        Args:
            params: y, the parameters that training moves.
        """
        return jax.tree.map(
            lambda z, y: _average(z, y, self.beta),
            self.base,
            params,
            is_leaf=lambda node: node is None,
        )


def _average(z: Array | None, y: Array, share: Array) -> Array:
    """Return x of one array."""
    if z is None:  # an optimizer for a part of the parameters has no others
        return y
    average = (y.astype(z.dtype) - cast_like(1 - share, z) * z) / cast_like(share, z)
    return average.astype(y.dtype)


@constructor
def schedule_free_sgd(
    learning_rate: Hyperparameter, beta: Number = 0.9, weight_decay: Coefficient = 0.0
) -> Optimizer:
    """Schedule-free SGD: gradients taken between z and the average x of all z.

    No schedule that falls is needed; `schedule.warm_up` helps. x is never stored, since y and z
    give it: `fnn.optim.eval_params` returns it, and it is what to evaluate. z is kept in float32 or
    wider.

    Update:    the parameters are y_t = (1 - beta) z_t + beta x_t, g_t is the gradient there, and
        z_{t+1} = z_t - learning_rate (g_t + weight_decay y_t),
        x_{t+1} = (1 - c) x_t + c z_{t+1}, c = learning_rate_t^2 / sum_{i <= t} learning_rate_i^2

    Args:
        learning_rate: size of the step of z, 0 or more, or a schedule.
        beta: share of the average in the parameters, in (0, 1).
        weight_decay: multiple of the parameters, 0 or more, or a schedule.
    Raises:    InputError for a value out of range.
    Source:    Defazio et al. 2024, arXiv:2405.15682, eqs. 3 to 5, with the weights of algorithm 1.

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
    check.hyperparameter(learning_rate, "learning_rate", least=0)
    check.number(beta, "beta", above=0, below=1)
    check.hyperparameter(weight_decay, "weight_decay", least=0)

    def init(params: Params, /) -> ScheduleFreeState:
        return _start(first_step(learning_rate, weight_decay), params, (), beta)

    def update(
        grads: Grads, state: ScheduleFreeState, params: Params, /
    ) -> tuple[Updates, ScheduleFreeState]:
        pull = resolve(weight_decay, state.step)
        steps = tree_map_like(
            lambda z, g, y: decayed(g.astype(z.dtype), pull, y), state.base, grads, params
        )
        return _follow(steps, learning_rate, beta, state, params)

    return Optimizer(init, update)


@constructor
def schedule_free_adamw(
    learning_rate: Hyperparameter,
    beta1: Number = 0.9,
    beta2: Number = 0.999,
    weight_decay: Coefficient = 0.0,
    *,
    epsilon: Number = 1e-8,
) -> Optimizer:
    """Schedule-free AdamW: `schedule_free_sgd` over the root mean square of the gradient.

    The means are kept in float32 or wider. There is no momentum but that of `beta1`.

    Update:    v_t = beta2 v_{t-1} + (1 - beta2) g_t^2, v^ = v_t / (1 - beta2^t), t from 1, and
        z_{t+1} = z_t - learning_rate (g_t / (sqrt(v^) + epsilon) + weight_decay y_t), the rest as
        in `schedule_free_sgd`

    Args:
        learning_rate: size of the step of z, 0 or more, or a schedule.
        beta1: share of the average in the parameters, in (0, 1).
        beta2: share of the mean square that stays, in [0, 1).
        weight_decay: multiple of the parameters, 0 or more, or a schedule.
        epsilon: what keeps the quotient finite, above 0.
    Raises:    InputError for a value out of range.
    Source:    Defazio et al. 2024, arXiv:2405.15682, algorithm 1, the start from zero undone as in
        `adam`.

    >>> import jax.numpy as jnp
    >>> optimizer = schedule_free_adamw(0.5)
    >>> params = jnp.array([4.0])
    >>> state = optimizer.init(params)
    >>> optimizer.update(jnp.array([2.0]), state, params)[0].round(4)
    Array([-0.5], dtype=float32)

    """
    check.number(beta1, "beta1", above=0, below=1)
    check_moments(learning_rate, beta1, beta2, epsilon)
    check.hyperparameter(weight_decay, "weight_decay", least=0)

    def init(params: Params, /) -> ScheduleFreeState:
        return _start(jnp.int32(0), params, zeros(params), beta1)

    def update(
        grads: Grads, state: ScheduleFreeState, params: Params, /
    ) -> tuple[Updates, ScheduleFreeState]:
        pull = resolve(weight_decay, state.step)
        root = tree_map_like(lambda r, g: running_root(beta2, r, g), state.root, grads)
        size = unbiased_root(beta2, state.step + 1, epsilon)
        steps = tree_map_like(
            lambda z, g, r, y: decayed(g.astype(z.dtype) / size(r), pull, y),
            state.base,
            grads,
            root,
            params,
        )
        return _follow(steps, learning_rate, beta1, state._replace(root=root), params)

    return Optimizer(init, update)


def _start(step: PyTree, params: Params, root: PyTree, beta: Number) -> ScheduleFreeState:
    """Return the state in which y, z and x are the same."""
    number: Unchecked = jnp.result_type(float)
    weight, share = jnp.zeros((), number), jnp.array(beta, number)
    return ScheduleFreeState(step, copies(params), root, weight, share)


def _follow(
    steps: PyTree,
    learning_rate: Hyperparameter,
    beta: Number,
    state: ScheduleFreeState,
    params: Params,
) -> tuple[Updates, ScheduleFreeState]:
    """Move z along the steps; y follows by ``c (z - y) + (1 - beta (1 - c)) (z' - z)``."""
    rate = jnp.asarray(resolve(learning_rate, state.step)).astype(state.weight.dtype)
    weight = root_sum_square(state.weight, rate)
    # A learning rate of 0 at the start has moved nothing: there is nothing to average.
    c = jnp.where(weight > 0, jnp.square(rate / jnp.where(weight > 0, weight, 1)), 0)
    follow = 1 - cast_like(beta, c) * (1 - c)
    base = tree_map_like(lambda z, d: z - cast_like(rate, z) * d, state.base, steps)
    updates = tree_map_like(
        lambda y, z, moved: _towards(y, z, moved, c, follow), params, state.base, base
    )
    return updates, state._replace(step=next_step(state.step), base=base, weight=weight)


def _towards(y: Array, z: Array, moved: Array, c: Scalar, follow: Scalar) -> Array:
    """Return the update of y for one array, of which z has moved."""
    part = cast_like(c, z) * (z - y.astype(z.dtype))
    return part + cast_like(follow, z) * (moved - z)
