"""Gradient descent, with and without momentum, and weight decay."""

from __future__ import annotations

from typing import NamedTuple

import jax

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError
from fnn._core.precision import upcast
from fnn._core.types import Array, Coefficient, Grads, Number, Params, PyTree, Scalar, Updates
from fnn.optim._hyperparameters import Hyperparameter, cast_like, first_step, next_step, resolve
from fnn.optim._moving_average import decayed, zeros
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

    It is called stochastic after the mini-batch in the gradient; on the whole data it is plain
    gradient descent. The velocity is kept in float32 or wider.

    Update:    v_t = momentum v_{t-1} + g_t, update -learning_rate v_t; with `nesterov`
        -learning_rate (g_t + momentum v_t). Without momentum that is -learning_rate g_t.

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        momentum: share of the velocity that stays, in [0, 1); a plain 0 keeps none.
        nesterov: whether the velocity is looked ahead; needs momentum.
    Raises:    InputError for a learning rate or a momentum out of range, and for nesterov without
        momentum.
    Source:    Polyak 1964; Sutskever et al. 2013, ICML, eqs. 1 to 4, with the learning rate outside
        v.

    >>> import jax.numpy as jnp
    >>> optimizer = sgd(0.1)
    >>> params = jnp.array([1.0])
    >>> optimizer.update(jnp.array([2.0]), optimizer.init(params), params)[0]
    Array([-0.2], dtype=float32)

    """
    check.hyperparameter(learning_rate, "learning_rate", least=0)
    check.number(momentum, "momentum", least=0, below=1)
    check.flag(nesterov, "nesterov")
    plain = check.is_zero(momentum)
    if nesterov and plain:
        raise InputError(
            "a momentum above 0 for nesterov", "0", "pass one such as 0.9, or leave nesterov out"
        )

    def init(params: Params, /) -> SgdState:
        return SgdState(first_step(learning_rate), () if plain else zeros(params))

    def update(grads: Grads, state: SgdState, params: Params, /) -> tuple[Updates, SgdState]:
        del params
        rate = resolve(learning_rate, state.step)
        velocity, direction = (), grads
        if not plain:
            velocity = direction = _pushed(momentum, state.velocity, grads)
            if nesterov:
                direction = _pushed(momentum, velocity, grads)
        updates = tree_map_like(lambda g, d: _descent(rate, d), grads, direction)
        return updates, SgdState(next_step(state.step), velocity)

    return Optimizer(init, update)


def _pushed(momentum: Scalar, velocity: PyTree, grads: Grads) -> PyTree:
    """Return ``g + momentum v``, in the dtype of the velocity."""
    return jax.tree.map(
        lambda v, g: g.astype(v.dtype) + cast_like(momentum, v) * v, velocity, grads
    )


def _descent(rate: Scalar, direction: Array) -> Array:
    """Return ``-rate d`` in float32 or wider: a small rate would be rounded in half precision."""
    wide = upcast(direction)
    return -cast_like(rate, wide) * wide


@constructor
def momentum(learning_rate: Hyperparameter, momentum: Number = 0.9) -> Optimizer:
    """Heavy-ball momentum; the same as ``sgd(learning_rate, momentum)``.

    Update:    v_t = momentum v_{t-1} + g_t, update -learning_rate v_t

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        momentum: share of the velocity that stays, in [0, 1).
    Raises:    InputError for a learning rate or a momentum out of range.
    Source:    Polyak 1964, USSR Comput. Math. 4(5), eq. 9, with the learning rate outside v.

    >>> momentum(0.1)
    momentum(0.1)

    """
    return sgd(learning_rate, momentum)


@constructor
def nesterov(learning_rate: Hyperparameter, momentum: Number = 0.9) -> Optimizer:
    """Nesterov momentum; the same as ``sgd(learning_rate, momentum, nesterov=True)``.

    Update:    v_t = momentum v_{t-1} + g_t, update -learning_rate (g_t + momentum v_t)

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        momentum: share of the velocity that stays, in (0, 1).
    Raises:    InputError for a learning rate or a momentum out of range.
    Source:    Nesterov 1983; Sutskever et al. 2013, ICML, eqs. 3 and 4, in the variable at which
        the gradient is taken.

    >>> nesterov(0.1)
    nesterov(0.1)

    """
    return sgd(learning_rate, momentum, nesterov=True)


@constructor
def weight_decay(weight_decay: Hyperparameter) -> Optimizer:
    """Weight decay: a multiple of every parameter added to its gradient.

    It is the gradient of ``weight_decay / 2 |p|^2``. Stands before the optimizer with the learning
    rate, so that the decay is scaled by it too.

    Update:    g + weight_decay p

    Args:
        weight_decay: the multiple, 0 or more, or a schedule.
    Raises:    InputError for a negative weight decay.
    Source:    Krogh and Hertz 1991, NIPS 4, eq. 3.

    >>> import jax.numpy as jnp
    >>> optimizer = weight_decay(0.1)
    >>> params = jnp.array([10.0])
    >>> optimizer.update(jnp.array([2.0]), optimizer.init(params), params)[0]
    Array([3.], dtype=float32)

    """
    check.hyperparameter(weight_decay, "weight_decay", least=0)
    return stateless_transform(_add_decay, weight_decay)


def _add_decay(grads: Grads, params: Params, decay: Scalar) -> Updates:
    """Return ``g + decay p``, summed in float32 or wider."""
    return tree_map_like(lambda g, p: decayed(upcast(g), decay, p), grads, params)
