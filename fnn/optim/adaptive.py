"""Rules that give every parameter a step of its own, by the size of its past gradients."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.errors import InputError, describe
from fnn.layer import Array, PyTree
from fnn.optim.rule import Hyper, UpdateRule, at_step, cast, check_number, each
from fnn.origin import constructor


class AdamState(NamedTuple):
    """The step count, and running means of the gradient and of its square: trees like params."""

    step: Array
    mean: PyTree
    square: PyTree


@constructor
def adam(
    learning_rate: Hyper, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
) -> UpdateRule:
    """Step by the mean of past gradients over the root of their mean square.

    ``m_t = beta1 m_{t-1} + (1 - beta1) g_t``, ``v_t = beta2 v_{t-1} + (1 - beta2) g_t^2``, update
    ``-learning_rate m^ / (sqrt(v^) + epsilon)`` with ``m^ = m_t / (1 - beta1^t)`` and
    ``v^ = v_t / (1 - beta2^t)``, t from 1, which undo the start from zero. The means are kept in
    float32 or better: in half precision a share of 0.001 would be rounded away.

    Raises `fnn.InputError` for a negative learning rate, a beta outside [0, 1) or an epsilon that
    is not positive. Source: Kingma and Ba 2014, arXiv:1412.6980, algorithm 1.

    >>> import jax.numpy as jnp
    >>> rule = adam(0.5)
    >>> params = jnp.array([1.0, 1.0])
    >>> rule.update(jnp.array([2.0, -0.5]), rule.init(params), params)[0].round(4)
    Array([-0.5,  0.5], dtype=float32)
    """
    where = "optim.adam"
    check_number(where, "learning_rate", learning_rate)
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if isinstance(beta, int | float) and not 0 <= beta < 1:
            raise InputError(where, f"{name} in [0, 1)", describe(beta), "pass a share such as 0.9")
    if isinstance(epsilon, int | float) and not epsilon > 0:
        raise InputError(where, "an epsilon above 0", describe(epsilon), "pass one such as 1e-8")

    def init(params: PyTree, /) -> AdamState:
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, _wide(p)), params)
        return AdamState(jnp.int32(0), zeros, zeros)

    def update(grads: PyTree, state: AdamState, params: PyTree, /) -> tuple[PyTree, AdamState]:
        del params
        rate, step = at_step(learning_rate, state.step), state.step + 1

        def running(share: float, old: Array, new: Array) -> Array:
            share = cast(share, old)
            return share * old + (1 - share) * new.astype(old.dtype)

        mean = each(lambda m, g: running(beta1, m, g), state.mean, grads)
        square = each(
            lambda v, g: running(beta2, v, jnp.square(g.astype(v.dtype))), state.square, grads
        )

        def step_of(g: Array, m: Array, v: Array) -> Array:
            m, v = m / _grown(beta1, step, m), v / _grown(beta2, step, v)
            return (-cast(rate, m) * m / (jnp.sqrt(v) + cast(epsilon, v))).astype(g.dtype)

        return each(step_of, grads, mean, square), AdamState(step, mean, square)

    return UpdateRule(init, update)


def _grown(beta: Any, step: Array, leaf: Array) -> Array:
    """Return ``1 - beta^t`` in the dtype of a leaf, exact where beta is close to 1."""
    rate = math.log(beta) if isinstance(beta, float) and beta > 0 else jnp.log(cast(beta, leaf))
    return -jnp.expm1(step.astype(leaf.dtype) * rate)


def _wide(leaf: Any) -> Any:
    return jnp.float64 if leaf.dtype == jnp.float64 else jnp.float32
