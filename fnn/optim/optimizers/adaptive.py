"""Optimizers that give every parameter a step of its own, by the size of its past gradients."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.types import Array, Coefficient, Grads, Number, Params, PyTree, Scalar, Updates
from fnn.optim._hyperparameters import (
    Hyperparameter,
    cast_like,
    check_epsilon,
    first_step,
    next_step,
    resolve,
)
from fnn.optim._moving_average import (
    decayed,
    root_sum_square,
    running,
    running_root,
    square_root,
    wide,
    zeros,
)
from fnn.optim.optimizer import Optimizer, tree_map_like


class RootState(NamedTuple):
    """The step count, ``()`` without a schedule, and the root of a sum or mean of squares."""

    step: PyTree
    root: PyTree


@constructor
def adagrad(
    learning_rate: Hyperparameter, start: Number = 0.0, *, epsilon: Number = 1e-8
) -> Optimizer:
    """Adagrad: the gradient over the root of the sum of its squares so far.

    The root of the sum is what is kept, in float32 or wider.

    Update:    s_t = s_{t-1} + g_t^2 from s_0 = start, update -learning_rate g_t / (sqrt(s_t) +
        epsilon)

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        start: sum of squares to start from, 0 or more.
        epsilon: what keeps the quotient finite, above 0.
    Raises:    InputError for a value out of range.
    Source:    Duchi, Hazan and Singer 2011, JMLR 12, figure 1 with a diagonal matrix.

    >>> import jax.numpy as jnp
    >>> optimizer = adagrad(0.5)
    >>> params = jnp.array([1.0, 1.0])
    >>> optimizer.update(jnp.array([2.0, -0.5]), optimizer.init(params), params)[0].round(4)
    Array([-0.5,  0.5], dtype=float32)

    """
    check.hyperparameter(learning_rate, "learning_rate", least=0)
    check.number(start, "start", least=0)
    check_epsilon(epsilon)

    def init(params: Params, /) -> RootState:
        root = square_root(start)
        full = jax.tree.map(lambda p: jnp.full(p.shape, root, wide(p)), params)
        return RootState(first_step(learning_rate), full)

    def update(grads: Grads, state: RootState, params: Params, /) -> tuple[Updates, RootState]:
        del params
        rate = resolve(learning_rate, state.step)
        root = tree_map_like(root_sum_square, state.root, grads)
        updates = tree_map_like(lambda g, r: _over_root(rate, g, r, epsilon), grads, root)
        return updates, RootState(next_step(state.step), root)

    return Optimizer(init, update)


@constructor
def rmsprop(
    learning_rate: Hyperparameter, decay: Number = 0.9, *, epsilon: Number = 1e-8
) -> Optimizer:
    """RMSprop: the gradient over its root mean square.

    The root is what is kept, in float32 or wider.

    Update:    v_t = decay v_{t-1} + (1 - decay) g_t^2, update -learning_rate g_t / (sqrt(v_t) +
        epsilon)

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        decay: share of the mean square that stays, in [0, 1).
        epsilon: what keeps the quotient finite, above 0.
    Raises:    InputError for a value out of range.
    Source:    Hinton 2012, Neural Networks for Machine Learning, lecture 6e, slide 29; the epsilon
        is ours.

    >>> import jax.numpy as jnp
    >>> optimizer = rmsprop(0.25, decay=0.75)
    >>> params = jnp.array([1.0, 1.0])
    >>> optimizer.update(jnp.array([2.0, -0.5]), optimizer.init(params), params)[0].round(4)
    Array([-0.5,  0.5], dtype=float32)

    """
    check.hyperparameter(learning_rate, "learning_rate", least=0)
    check.number(decay, "decay", least=0, below=1)
    check_epsilon(epsilon)

    def init(params: Params, /) -> RootState:
        return RootState(first_step(learning_rate), zeros(params))

    def update(grads: Grads, state: RootState, params: Params, /) -> tuple[Updates, RootState]:
        del params
        rate = resolve(learning_rate, state.step)
        root = tree_map_like(lambda r, g: running_root(decay, r, g), state.root, grads)
        updates = tree_map_like(lambda g, r: _over_root(rate, g, r, epsilon), grads, root)
        return updates, RootState(next_step(state.step), root)

    return Optimizer(init, update)


class AdadeltaState(NamedTuple):
    """The step count, ``()`` without a schedule, and root mean squares of gradients and updates.

    Both are trees like params.
    """

    step: PyTree
    root: PyTree
    moved: PyTree


@constructor
def adadelta(
    learning_rate: Hyperparameter = 1.0, decay: Number = 0.95, *, epsilon: Number = 1e-6
) -> Optimizer:
    """Adadelta: steps in the units of the parameter, which past updates give.

    The paper has no learning rate: 1. The roots of the means are kept, in float32 or wider.

    Update:    v_t = decay v_{t-1} + (1 - decay) g_t^2, d_t = g_t sqrt(w_{t-1} + epsilon) /
        sqrt(v_t + epsilon), w_t = decay w_{t-1} + (1 - decay) d_t^2, update -learning_rate d_t

    Args:
        learning_rate: multiple of the step, 0 or more, or a schedule.
        decay: share of the mean squares that stays, in [0, 1).
        epsilon: mean square to start from, above 0; the first steps are of its size.
    Raises:    InputError for a value out of range.
    Source:    Zeiler 2012, arXiv:1212.5701, algorithm 1.

    >>> import jax.numpy as jnp
    >>> optimizer = adadelta(decay=0.75, epsilon=0.01)
    >>> params = jnp.array([1.0])
    >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(params), params)
    >>> round(float(updates[0]), 3)
    -0.199

    """
    check.hyperparameter(learning_rate, "learning_rate", least=0)
    check.number(decay, "decay", least=0, below=1)
    check_epsilon(epsilon)

    def init(params: Params, /) -> AdadeltaState:
        return AdadeltaState(first_step(learning_rate), zeros(params), zeros(params))

    def update(
        grads: Grads, state: AdadeltaState, params: Params, /
    ) -> tuple[Updates, AdadeltaState]:
        del params
        rate, small = resolve(learning_rate, state.step), square_root(epsilon)
        root = tree_map_like(lambda r, g: running_root(decay, r, g), state.root, grads)
        steps = tree_map_like(
            lambda r, w, g: (
                root_sum_square(w, small) * (g.astype(r.dtype) / root_sum_square(r, small))
            ),
            root,
            state.moved,
            grads,
        )
        moved = tree_map_like(lambda w, d: running_root(decay, w, d), state.moved, steps)
        updates = tree_map_like(lambda g, d: -cast_like(rate, d) * d, grads, steps)
        return updates, AdadeltaState(next_step(state.step), root, moved)

    return Optimizer(init, update)


class LionState(NamedTuple):
    """The step count, ``()`` without a schedule, and the running mean of the gradient."""

    step: PyTree
    mean: PyTree


@constructor
def lion(
    learning_rate: Hyperparameter,
    beta1: Number = 0.9,
    beta2: Number = 0.99,
    weight_decay: Coefficient = 0.0,
) -> Optimizer:
    """Lion: the sign of the momentum; every parameter moves by the learning rate.

    The mean is kept in float32 or wider.

    Update:    c_t = beta1 m_{t-1} + (1 - beta1) g_t, update -learning_rate (sign(c_t) +
        weight_decay p), m_t = beta2 m_{t-1} + (1 - beta2) g_t; sign(0) = 0

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        beta1: share of the mean in the direction, in [0, 1).
        beta2: share of the mean that stays, in [0, 1).
        weight_decay: multiple of the parameters, 0 or more, or a schedule.
    Raises:    InputError for a value out of range.
    Source:    Chen et al. 2023, arXiv:2302.06675, algorithm 2.

    >>> import jax.numpy as jnp
    >>> optimizer = lion(0.1)
    >>> params = jnp.array([1.0, 1.0])
    >>> optimizer.update(jnp.array([2.0, -0.5]), optimizer.init(params), params)[0]
    Array([-0.1,  0.1], dtype=float32)

    """
    check.hyperparameter(learning_rate, "learning_rate", least=0)
    check.number(beta1, "beta1", least=0, below=1)
    check.number(beta2, "beta2", least=0, below=1)
    check.hyperparameter(weight_decay, "weight_decay", least=0)

    def init(params: Params, /) -> LionState:
        return LionState(first_step(learning_rate, weight_decay), zeros(params))

    def update(grads: Grads, state: LionState, params: Params, /) -> tuple[Updates, LionState]:
        rate, pull = resolve(learning_rate, state.step), resolve(weight_decay, state.step)
        updates = tree_map_like(
            lambda g, m, p: -cast_like(rate, m) * decayed(jnp.sign(running(beta1, m, g)), pull, p),
            grads,
            state.mean,
            params,
        )
        mean = tree_map_like(lambda m, g: running(beta2, m, g), state.mean, grads)
        return updates, LionState(next_step(state.step), mean)

    return Optimizer(init, update)


def _over_root(rate: Scalar, grad: Array, root: Array, epsilon: Number) -> Array:
    """Return ``-rate g / (root + epsilon)``."""
    return -cast_like(rate, root) * grad.astype(root.dtype) / (root + cast_like(epsilon, root))
