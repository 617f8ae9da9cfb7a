"""Gradient descent, with and without momentum, and weight decay."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

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
from fnn.optim._moving_average import zeros
from fnn.optim.optimizer import Optimizer, stateless_transform, tree_map_like


class SgdState(NamedTuple):
    """The step count, ``()`` without a schedule, and the velocity, ``()`` without momentum."""

    step: PyTree
    velocity: PyTree


@constructor
def sgd(
    learning_rate: Hyperparameter, momentum: Coefficient = 0.0, nesterov: bool = False
) -> Optimizer:
    """Stochastic gradient descent, with heavy-ball or Nesterov momentum.

    ``v_t = momentum v_{t-1} + g_t``, update ``-learning_rate v_t``; with `nesterov`
    ``-learning_rate (g_t + momentum v_t)``. Without momentum that is ``-learning_rate g_t``. The
    optimizer is called stochastic after the mini-batch in the gradient; on the whole data it is
    plain gradient descent.

    Raises `fnn.InputError` for a negative learning rate or a momentum outside [0, 1). Source:
    Polyak 1964; Sutskever et al. 2013, ICML, eqs. 1 to 4, with the learning rate outside v.

    >>> import jax.numpy as jnp
    >>> optimizer = sgd(0.1)
    >>> params = jnp.array([1.0])
    >>> optimizer.update(jnp.array([2.0]), optimizer.init(params), params)[0]
    Array([-0.2], dtype=float32)
    """
    check_number("learning_rate", learning_rate)
    check_fraction("momentum", momentum)
    plain = isinstance(momentum, int | float) and momentum == 0

    def pushed(v: Array, g: Array) -> Array:
        return g.astype(v.dtype) + cast_like(momentum, v) * v

    def init(params: PyTree, /) -> SgdState:
        return SgdState(first_step(learning_rate), () if plain else zeros(params))

    def update(grads: PyTree, state: SgdState, params: PyTree, /) -> tuple[PyTree, SgdState]:
        del params
        rate = resolve(learning_rate, state.step)
        velocity, direction = (), grads
        if not plain:
            velocity = jax.tree.map(pushed, state.velocity, grads)
            ahead = jax.tree.map(pushed, velocity, grads) if nesterov else velocity
            direction = tree_map_like(lambda g, v: v, grads, ahead)
        updates = tree_map_like(lambda g: -cast_like(rate, g) * g, direction)
        return updates, SgdState(next_step(state.step), velocity)

    return Optimizer(init, update)


@constructor
def momentum(learning_rate: Hyperparameter, momentum: Number = 0.9) -> Optimizer:
    """Heavy-ball momentum; the same as ``sgd(learning_rate, momentum)``.

    ``v_t = momentum v_{t-1} + g_t``, update ``-learning_rate v_t``. Source: Polyak 1964, USSR
    Comput. Math. 4(5), eq. 9, with the learning rate outside v.

    Raises `fnn.InputError` as `sgd` does.

    >>> momentum(0.1)
    momentum(0.1)
    """
    return sgd(learning_rate, momentum)


@constructor
def nesterov(learning_rate: Hyperparameter, momentum: Number = 0.9) -> Optimizer:
    """Nesterov momentum; the same as ``sgd(learning_rate, momentum, nesterov=True)``.

    ``v_t = momentum v_{t-1} + g_t``, update ``-learning_rate (g_t + momentum v_t)``. Source:
    Nesterov 1983; Sutskever et al. 2013, ICML, eqs. 3 and 4, in the variable at which the gradient
    is taken.

    Raises `fnn.InputError` as `sgd` does.

    >>> nesterov(0.1)
    nesterov(0.1)
    """
    return sgd(learning_rate, momentum, nesterov=True)


@constructor
def weight_decay(weight_decay: Hyperparameter) -> Optimizer:
    """Weight decay: ``weight_decay p`` added to the gradient of every parameter p.

    It is the slope of ``weight_decay / 2 |p|^2``.

    Stands before the optimizer with the learning rate, so that the decay is scaled by it too.
    Source: Krogh and Hertz 1991, NIPS 4, eq. 3.

    Raises `fnn.InputError` for a negative rate.

    >>> import jax.numpy as jnp
    >>> optimizer = weight_decay(0.1)
    >>> params = jnp.array([10.0])
    >>> optimizer.update(jnp.array([2.0]), optimizer.init(params), params)[0]
    Array([3.], dtype=float32)
    """
    check_number("weight_decay", weight_decay)

    def change(grads: PyTree, params: PyTree, decay: Any) -> PyTree:
        return tree_map_like(lambda g, p: g + cast_like(decay, g) * p, grads, params)

    return stateless_transform(change, weight_decay)
