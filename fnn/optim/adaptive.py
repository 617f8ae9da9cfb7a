"""Rules that give every parameter a step of its own, by the size of its past gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.layer import Array, PyTree
from fnn.optim.hyper import (
    Hyper,
    at_step,
    cast,
    check_number,
    check_positive,
    check_share,
    first_step,
    next_step,
)
from fnn.optim.rule import UpdateRule, each
from fnn.optim.running import decayed, running, running_square, wide, zeros
from fnn.origin import constructor


class SquareState(NamedTuple):
    """The step count, ``()`` without a schedule, and a sum or mean of squares of past gradients."""

    step: PyTree
    square: PyTree


@constructor
def adagrad(learning_rate: Hyper, epsilon: float = 1e-8, start: float = 0.0) -> UpdateRule:
    """Step by the gradient over the root of the sum of its squares so far.

    ``s_t = s_{t-1} + g_t^2`` from ``s_0 = start``, update ``-learning_rate g_t / (sqrt(s_t) +
    epsilon)``, the sum kept in float32 or better.

    Raises `fnn.InputError` for a negative learning rate or start, or an epsilon that is not
    positive. Source: Duchi, Hazan and Singer 2011, JMLR 12, figure 1 with a diagonal matrix.

    >>> import jax.numpy as jnp
    >>> rule = adagrad(0.5)
    >>> params = jnp.array([1.0, 1.0])
    >>> rule.update(jnp.array([2.0, -0.5]), rule.init(params), params)[0].round(4)
    Array([-0.5,  0.5], dtype=float32)
    """
    check_number("optim.adagrad", "learning_rate", learning_rate)
    check_number("optim.adagrad", "start", start)
    check_positive("optim.adagrad", epsilon=epsilon)

    def init(params: PyTree, /) -> SquareState:
        full = jax.tree.map(lambda p: jnp.full(p.shape, start, wide(p)), params)
        return SquareState(first_step(learning_rate), full)

    def update(grads: PyTree, state: SquareState, params: PyTree, /) -> tuple[PyTree, SquareState]:
        del params
        rate = at_step(learning_rate, state.step)
        square = each(lambda s, g: s + jnp.square(g.astype(s.dtype)), state.square, grads)
        updates = each(lambda g, s: _over_root(rate, g, s, epsilon), grads, square)
        return updates, SquareState(next_step(state.step), square)

    return UpdateRule(init, update)


@constructor
def rmsprop(learning_rate: Hyper, decay: float = 0.9, epsilon: float = 1e-8) -> UpdateRule:
    """Step by the gradient over the root of the running mean of its square.

    ``v_t = decay v_{t-1} + (1 - decay) g_t^2``, update ``-learning_rate g_t / (sqrt(v_t) +
    epsilon)``, the mean kept in float32 or better.

    Raises `fnn.InputError` for a negative learning rate, a decay outside [0, 1) or an epsilon that
    is not positive. Source: Hinton 2012, Neural Networks for Machine Learning, lecture 6e, slide
    29; the epsilon is ours.

    >>> import jax.numpy as jnp
    >>> rule = rmsprop(0.25, decay=0.75)
    >>> params = jnp.array([1.0, 1.0])
    >>> rule.update(jnp.array([2.0, -0.5]), rule.init(params), params)[0].round(4)
    Array([-0.5,  0.5], dtype=float32)
    """
    check_number("optim.rmsprop", "learning_rate", learning_rate)
    check_share("optim.rmsprop", "decay", decay)
    check_positive("optim.rmsprop", epsilon=epsilon)

    def init(params: PyTree, /) -> SquareState:
        return SquareState(first_step(learning_rate), zeros(params))

    def update(grads: PyTree, state: SquareState, params: PyTree, /) -> tuple[PyTree, SquareState]:
        del params
        rate = at_step(learning_rate, state.step)
        square = each(lambda v, g: running_square(decay, v, g), state.square, grads)
        updates = each(lambda g, s: _over_root(rate, g, s, epsilon), grads, square)
        return updates, SquareState(next_step(state.step), square)

    return UpdateRule(init, update)


class AdadeltaState(NamedTuple):
    """The step count, ``()`` without a schedule, and running mean squares of gradients and updates.

    Both are trees like params.
    """

    step: PyTree
    square: PyTree
    moved: PyTree


@constructor
def adadelta(learning_rate: Hyper = 1.0, decay: float = 0.95, epsilon: float = 1e-6) -> UpdateRule:
    """Step by the gradient in the units of the parameter, which past updates give.

    ``v_t = decay v_{t-1} + (1 - decay) g_t^2``, ``d_t = g_t sqrt(w_{t-1} + epsilon) / sqrt(v_t +
    epsilon)``, ``w_t = decay w_{t-1} + (1 - decay) d_t^2``, update ``-learning_rate d_t``, the
    means kept in float32 or better. The paper has no learning rate: 1.

    Raises `fnn.InputError` for a negative learning rate, a decay outside [0, 1) or an epsilon that
    is not positive. Source: Zeiler 2012, arXiv:1212.5701, algorithm 1.

    >>> import jax.numpy as jnp
    >>> rule = adadelta(decay=0.75, epsilon=0.01)
    >>> params = jnp.array([1.0])
    >>> updates, state = rule.update(jnp.array([2.0]), rule.init(params), params)
    >>> round(float(updates[0]), 3)
    -0.199
    """
    check_number("optim.adadelta", "learning_rate", learning_rate)
    check_share("optim.adadelta", "decay", decay)
    check_positive("optim.adadelta", epsilon=epsilon)

    def init(params: PyTree, /) -> AdadeltaState:
        return AdadeltaState(first_step(learning_rate), zeros(params), zeros(params))

    def update(
        grads: PyTree, state: AdadeltaState, params: PyTree, /
    ) -> tuple[PyTree, AdadeltaState]:
        del params
        rate = at_step(learning_rate, state.step)
        square = each(lambda v, g: running_square(decay, v, g), state.square, grads)

        def way(v: Array, w: Array, g: Array) -> Array:
            small = cast(epsilon, v)
            return jnp.sqrt(w + small) / jnp.sqrt(v + small) * g.astype(v.dtype)

        ways = each(way, square, state.moved, grads)
        moved = each(lambda w, d: running_square(decay, w, d), state.moved, ways)
        updates = each(lambda g, d: -cast(rate, d) * d, grads, ways)
        return updates, AdadeltaState(next_step(state.step), square, moved)

    return UpdateRule(init, update)


class LionState(NamedTuple):
    """The step count, ``()`` without a schedule, and the running mean of the gradient."""

    step: PyTree
    mean: PyTree


@constructor
def lion(
    learning_rate: Hyper, beta1: float = 0.9, beta2: float = 0.99, decay: Hyper = 0.0
) -> UpdateRule:
    """Step by the sign of the momentum: every parameter moves by the learning rate.

    ``c_t = beta1 m_{t-1} + (1 - beta1) g_t``, update ``-learning_rate (sign(c_t) + decay p)``,
    ``m_t = beta2 m_{t-1} + (1 - beta2) g_t``; sign(0) = 0. The mean is kept in float32 or better.

    Raises `fnn.InputError` for a negative learning rate or decay, or a beta outside [0, 1). Source:
    Chen et al. 2023, arXiv:2302.06675, algorithm 2.

    >>> import jax.numpy as jnp
    >>> rule = lion(0.1)
    >>> params = jnp.array([1.0, 1.0])
    >>> rule.update(jnp.array([2.0, -0.5]), rule.init(params), params)[0]
    Array([-0.1,  0.1], dtype=float32)
    """
    check_number("optim.lion", "learning_rate", learning_rate)
    check_number("optim.lion", "decay", decay)
    check_share("optim.lion", "beta1", beta1)
    check_share("optim.lion", "beta2", beta2)

    def init(params: PyTree, /) -> LionState:
        return LionState(first_step(learning_rate, decay), zeros(params))

    def update(grads: PyTree, state: LionState, params: PyTree, /) -> tuple[PyTree, LionState]:
        rate, pull = at_step(learning_rate, state.step), at_step(decay, state.step)

        def way(g: Array, m: Array, p: Array) -> Array:
            sign = jnp.sign(running(beta1, m, g))
            return -cast(rate, m) * decayed(sign, pull, p)

        updates = each(way, grads, state.mean, params)
        mean = each(lambda m, g: running(beta2, m, g), state.mean, grads)
        return updates, LionState(next_step(state.step), mean)

    return UpdateRule(init, update)


def _over_root(rate: Any, grad: Array, square: Array, epsilon: Any) -> Array:
    root = jnp.sqrt(square) + cast(epsilon, square)
    return -cast(rate, square) * grad.astype(square.dtype) / root
