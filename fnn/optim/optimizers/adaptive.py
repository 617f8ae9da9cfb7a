"""Optimizers that give every parameter a step of its own, by the size of its past gradients."""

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
from fnn.optim._moving_average import decayed, running, running_square, wide, zeros
from fnn.optim.optimizer import Optimizer, tree_map_like


class SquareState(NamedTuple):
    """The step count, ``()`` without a schedule, and a sum or mean of squares of past gradients."""

    step: PyTree
    square: PyTree


@constructor
def adagrad(
    learning_rate: Hyperparameter, epsilon: Number = 1e-8, start: Number = 0.0
) -> Optimizer:
    """Adagrad: the gradient over the root of the sum of its squares so far.

    ``s_t = s_{t-1} + g_t^2`` from ``s_0 = start``, update ``-learning_rate g_t / (sqrt(s_t) +
    epsilon)``, the sum kept in float32 or better.

    Raises `fnn.InputError` for a negative learning rate or start, or an epsilon that is not
    positive. Source: Duchi, Hazan and Singer 2011, JMLR 12, figure 1 with a diagonal matrix.

    >>> import jax.numpy as jnp
    >>> optimizer = adagrad(0.5)
    >>> params = jnp.array([1.0, 1.0])
    >>> optimizer.update(jnp.array([2.0, -0.5]), optimizer.init(params), params)[0].round(4)
    Array([-0.5,  0.5], dtype=float32)
    """
    check_number("learning_rate", learning_rate)
    check_number("start", start)
    check_positive(epsilon=epsilon)

    def init(params: PyTree, /) -> SquareState:
        full = jax.tree.map(lambda p: jnp.full(p.shape, start, wide(p)), params)
        return SquareState(first_step(learning_rate), full)

    def update(grads: PyTree, state: SquareState, params: PyTree, /) -> tuple[PyTree, SquareState]:
        del params
        rate = resolve(learning_rate, state.step)
        square = tree_map_like(lambda s, g: s + jnp.square(g.astype(s.dtype)), state.square, grads)
        updates = tree_map_like(lambda g, s: _over_root(rate, g, s, epsilon), grads, square)
        return updates, SquareState(next_step(state.step), square)

    return Optimizer(init, update)


@constructor
def rmsprop(
    learning_rate: Hyperparameter, decay: Number = 0.9, epsilon: Number = 1e-8
) -> Optimizer:
    """RMSProp: the gradient over the root of the running mean of its square.

    ``v_t = decay v_{t-1} + (1 - decay) g_t^2``, update ``-learning_rate g_t / (sqrt(v_t) +
    epsilon)``, the mean kept in float32 or better.

    Raises `fnn.InputError` for a negative learning rate, a decay outside [0, 1) or an epsilon that
    is not positive. Source: Hinton 2012, Neural Networks for Machine Learning, lecture 6e, slide
    29; the epsilon is ours.

    >>> import jax.numpy as jnp
    >>> optimizer = rmsprop(0.25, decay=0.75)
    >>> params = jnp.array([1.0, 1.0])
    >>> optimizer.update(jnp.array([2.0, -0.5]), optimizer.init(params), params)[0].round(4)
    Array([-0.5,  0.5], dtype=float32)
    """
    check_number("learning_rate", learning_rate)
    check_fraction("decay", decay)
    check_positive(epsilon=epsilon)

    def init(params: PyTree, /) -> SquareState:
        return SquareState(first_step(learning_rate), zeros(params))

    def update(grads: PyTree, state: SquareState, params: PyTree, /) -> tuple[PyTree, SquareState]:
        del params
        rate = resolve(learning_rate, state.step)
        square = tree_map_like(lambda v, g: running_square(decay, v, g), state.square, grads)
        updates = tree_map_like(lambda g, s: _over_root(rate, g, s, epsilon), grads, square)
        return updates, SquareState(next_step(state.step), square)

    return Optimizer(init, update)


class AdadeltaState(NamedTuple):
    """The step count, ``()`` without a schedule, and running mean squares of gradients and updates.

    Both are trees like params.
    """

    step: PyTree
    square: PyTree
    moved: PyTree


@constructor
def adadelta(
    learning_rate: Hyperparameter = 1.0, decay: Number = 0.95, epsilon: Number = 1e-6
) -> Optimizer:
    """Adadelta: steps in the units of the parameter, which past updates give.

    ``v_t = decay v_{t-1} + (1 - decay) g_t^2``, ``d_t = g_t sqrt(w_{t-1} + epsilon) / sqrt(v_t +
    epsilon)``, ``w_t = decay w_{t-1} + (1 - decay) d_t^2``, update ``-learning_rate d_t``, the
    means kept in float32 or better. The paper has no learning rate: 1.

    Raises `fnn.InputError` for a negative learning rate, a decay outside [0, 1) or an epsilon that
    is not positive. Source: Zeiler 2012, arXiv:1212.5701, algorithm 1.

    >>> import jax.numpy as jnp
    >>> optimizer = adadelta(decay=0.75, epsilon=0.01)
    >>> params = jnp.array([1.0])
    >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(params), params)
    >>> round(float(updates[0]), 3)
    -0.199
    """
    check_number("learning_rate", learning_rate)
    check_fraction("decay", decay)
    check_positive(epsilon=epsilon)

    def init(params: PyTree, /) -> AdadeltaState:
        return AdadeltaState(first_step(learning_rate), zeros(params), zeros(params))

    def update(
        grads: PyTree, state: AdadeltaState, params: PyTree, /
    ) -> tuple[PyTree, AdadeltaState]:
        del params
        rate = resolve(learning_rate, state.step)
        square = tree_map_like(lambda v, g: running_square(decay, v, g), state.square, grads)

        def way(v: Array, w: Array, g: Array) -> Array:
            small = cast_like(epsilon, v)
            return jnp.sqrt(w + small) / jnp.sqrt(v + small) * g.astype(v.dtype)

        ways = tree_map_like(way, square, state.moved, grads)
        moved = tree_map_like(lambda w, d: running_square(decay, w, d), state.moved, ways)
        updates = tree_map_like(lambda g, d: -cast_like(rate, d) * d, grads, ways)
        return updates, AdadeltaState(next_step(state.step), square, moved)

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

    ``c_t = beta1 m_{t-1} + (1 - beta1) g_t``, update ``-learning_rate (sign(c_t) + weight_decay
    p)``, ``m_t = beta2 m_{t-1} + (1 - beta2) g_t``; sign(0) = 0. The mean is kept in float32 or
    better.

    Raises `fnn.InputError` for a negative learning rate or decay, or a beta outside [0, 1). Source:
    Chen et al. 2023, arXiv:2302.06675, algorithm 2.

    >>> import jax.numpy as jnp
    >>> optimizer = lion(0.1)
    >>> params = jnp.array([1.0, 1.0])
    >>> optimizer.update(jnp.array([2.0, -0.5]), optimizer.init(params), params)[0]
    Array([-0.1,  0.1], dtype=float32)
    """
    check_number("learning_rate", learning_rate)
    check_number("weight_decay", weight_decay)
    check_fraction("beta1", beta1)
    check_fraction("beta2", beta2)

    def init(params: PyTree, /) -> LionState:
        return LionState(first_step(learning_rate, weight_decay), zeros(params))

    def update(grads: PyTree, state: LionState, params: PyTree, /) -> tuple[PyTree, LionState]:
        rate, pull = resolve(learning_rate, state.step), resolve(weight_decay, state.step)

        def way(g: Array, m: Array, p: Array) -> Array:
            sign = jnp.sign(running(beta1, m, g))
            return -cast_like(rate, m) * decayed(sign, pull, p)

        updates = tree_map_like(way, grads, state.mean, params)
        mean = tree_map_like(lambda m, g: running(beta2, m, g), state.mean, grads)
        return updates, LionState(next_step(state.step), mean)

    return Optimizer(init, update)


def _over_root(rate: Any, grad: Array, square: Array, epsilon: Any) -> Array:
    root = jnp.sqrt(square) + cast_like(epsilon, square)
    return -cast_like(rate, square) * grad.astype(square.dtype) / root
