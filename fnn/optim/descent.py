"""Gradient descent, with and without momentum, and weight decay."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.layer import PyTree
from fnn.optim.hyper import Hyper, at_step, cast, check_number, check_share, first_step, next_step
from fnn.optim.rule import UpdateRule, each, memoryless
from fnn.origin import constructor


class SgdState(NamedTuple):
    """The step count, ``()`` without a schedule, and the velocity, ``()`` without momentum."""

    step: PyTree
    velocity: PyTree


@constructor
def sgd(learning_rate: Hyper, momentum: float = 0.0, nesterov: bool = False) -> UpdateRule:
    """Descend along the gradient, with momentum if asked.

    ``v_t = momentum v_{t-1} + g_t``, update ``-learning_rate v_t``; with `nesterov`
    ``-learning_rate (g_t + momentum v_t)``. Without momentum that is ``-learning_rate g_t``. The
    rule is called stochastic after the mini-batch in the gradient; on the whole data it is plain
    gradient descent.

    Raises `fnn.InputError` for a negative learning rate or a momentum outside [0, 1). Source:
    Polyak 1964; Sutskever et al. 2013, ICML, eqs. 1 to 4, with the learning rate outside v.

    >>> import jax.numpy as jnp
    >>> rule = sgd(0.1)
    >>> params = jnp.array([1.0])
    >>> rule.update(jnp.array([2.0]), rule.init(params), params)[0]
    Array([-0.2], dtype=float32)
    """
    check_number("optim.sgd", "learning_rate", learning_rate)
    check_share("optim.sgd", "momentum", momentum)
    plain = isinstance(momentum, int | float) and momentum == 0

    def init(params: PyTree, /) -> SgdState:
        return SgdState(
            first_step(learning_rate), () if plain else jax.tree.map(jnp.zeros_like, params)
        )

    def update(grads: PyTree, state: SgdState, params: PyTree, /) -> tuple[PyTree, SgdState]:
        del params
        rate = at_step(learning_rate, state.step)
        velocity, direction = (), grads
        if not plain:
            velocity = each(lambda g, v: g + cast(momentum, g) * v, grads, state.velocity)
            direction = velocity
            if nesterov:
                direction = each(lambda g, v: g + cast(momentum, g) * v, grads, velocity)
        updates = each(lambda g: -cast(rate, g) * g, direction)
        return updates, SgdState(next_step(state.step), velocity)

    return UpdateRule(init, update)


@constructor
def momentum(learning_rate: Hyper, decay: float = 0.9) -> UpdateRule:
    """Descend like a heavy ball: `sgd` with momentum, under the name of its own.

    ``v_t = decay v_{t-1} + g_t``, update ``-learning_rate v_t``. Source: Polyak 1964, USSR
    Comput. Math. 4(5), eq. 9, with the learning rate outside v.

    Raises `fnn.InputError` as `sgd` does.

    >>> momentum(0.1)
    momentum(0.1)
    """
    return sgd(learning_rate, decay)


@constructor
def nesterov(learning_rate: Hyper, decay: float = 0.9) -> UpdateRule:
    """Descend like a heavy ball that looks ahead: `sgd` with Nesterov's momentum.

    ``v_t = decay v_{t-1} + g_t``, update ``-learning_rate (g_t + decay v_t)``. Source: Nesterov
    1983; Sutskever et al. 2013, ICML, eqs. 3 and 4, in the variable at which the gradient is taken.

    Raises `fnn.InputError` as `sgd` does.

    >>> nesterov(0.1)
    nesterov(0.1)
    """
    return sgd(learning_rate, decay, nesterov=True)


@constructor
def weight_decay(rate: Hyper) -> UpdateRule:
    """Add ``rate p`` to the gradient of every parameter p: the slope of ``rate / 2 |p|^2``.

    Stands before the rule with the learning rate, so that the decay is scaled by it too. Source:
    Krogh and Hertz 1991, NIPS 4, eq. 3.

    Raises `fnn.InputError` for a negative rate.

    >>> import jax.numpy as jnp
    >>> rule = weight_decay(0.1)
    >>> params = jnp.array([10.0])
    >>> rule.update(jnp.array([2.0]), rule.init(params), params)[0]
    Array([3.], dtype=float32)
    """
    check_number("optim.weight_decay", "rate", rate)

    def change(grads: PyTree, params: PyTree, decay: Any) -> PyTree:
        return each(lambda g, p: g + cast(decay, g) * p, grads, params)

    return memoryless(change, rate)
