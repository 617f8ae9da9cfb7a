"""Averages of the parameters on their way, which are evaluated in their place."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn.layer import Array, PyTree, merged
from fnn.optim.hyper import (
    Hyper,
    at_step,
    cast,
    check_count,
    check_number,
    check_share,
    first_step,
    next_step,
)
from fnn.optim.rule import UpdateRule, each
from fnn.optim.running import copies
from fnn.origin import constructor


class EmaState(NamedTuple):
    """The step count, ``()`` without a schedule, the average, and the sum of the weights in it."""

    step: PyTree
    average: PyTree
    weight: Array

    def averaged(self, params: PyTree) -> PyTree:
        """Return the average, in the dtype of the parameters."""
        return in_place_of(self.average, params)


@constructor
def ema(decay: Hyper = 0.999) -> UpdateRule:
    """Keep an exponential moving average of the parameters; what they do is left as it is.

    ``w_t = decay w_{t-1} + (1 - decay)``, ``a_t = a_{t-1} + (1 - decay) / w_t (p_t - a_{t-1})``
    with ``p_t`` the parameters after the step: the mean of ``p_1 .. p_t`` with weights
    ``decay^(t-i)``, free of where it started. Stands last, where the updates are final;
    `fnn.optim.averaged` returns the average, and `fnn.fit` validates it.

    Raises `fnn.InputError` for a decay outside [0, 1). Source: Polyak and Juditsky 1992, SIAM J.
    Control 30(4), with the weights of Kingma and Ba 2014, arXiv:1412.6980, section 7.2.

    >>> import fnn
    >>> fnn.optim.chain(fnn.optim.adam(1e-3), fnn.optim.ema(0.99))
    chain(adam(0.001), ema(0.99))
    """
    check_share("optim.ema", "decay", decay)
    check_number("optim.ema", "decay", decay)

    def init(params: PyTree, /) -> EmaState:
        return EmaState(first_step(decay), copies(params), jnp.zeros((), jnp.result_type(float)))

    def update(updates: PyTree, state: EmaState, params: PyTree, /) -> tuple[PyTree, EmaState]:
        share = cast(at_step(decay, state.step), state.weight)
        weight = share * state.weight + (1 - share)
        part = (1 - share) / weight

        def towards(a: Array, p: Array, u: Array) -> Array:
            return a + cast(part, a) * ((p + u).astype(a.dtype) - a)

        average = each(towards, state.average, params, updates)
        return updates, EmaState(next_step(state.step), average, weight)

    return UpdateRule(init, update)


class LookaheadState(NamedTuple):
    """The step count, and the slow weights."""

    step: Array
    slow: PyTree

    def averaged(self, params: PyTree) -> PyTree:
        """Return the slow weights, in the dtype of the parameters."""
        return in_place_of(self.slow, params)


@constructor
def lookahead(every: int = 5, share: Hyper = 0.5) -> UpdateRule:
    """Every few steps go back to slow weights, moved a share of the way that the fast ones went.

    The parameters are the fast weights, moved by the rules before. After every `every` steps
    ``slow_t = slow_{t-1} + share (p_t - slow_{t-1})``, ``p_t = slow_t``. Stands last; the rules
    before keep their state. `fnn.optim.averaged` returns the slow weights.

    Raises `fnn.InputError` for an `every` below 1 or a negative share. Source: Zhang et al. 2019,
    arXiv:1907.08610, algorithm 1.

    >>> import fnn
    >>> fnn.optim.chain(fnn.optim.sgd(0.1), fnn.optim.lookahead(5, 0.5))
    chain(sgd(0.1), lookahead(5, 0.5))
    """
    check_count("optim.lookahead", "every", every)
    check_number("optim.lookahead", "share", share)

    def init(params: PyTree, /) -> LookaheadState:
        return LookaheadState(jnp.int32(0), copies(params))

    def update(
        updates: PyTree, state: LookaheadState, params: PyTree, /
    ) -> tuple[PyTree, LookaheadState]:
        step = state.step + 1
        meet, part = step % every == 0, at_step(share, state.step)

        def towards(a: Array, p: Array, u: Array) -> Array:
            return jnp.where(meet, a + cast(part, a) * ((p + u).astype(a.dtype) - a), a)

        slow = each(towards, state.slow, params, updates)
        back = each(
            lambda u, p, a: jnp.where(meet, a.astype(p.dtype) - p, u), updates, params, slow
        )
        return back, LookaheadState(step, slow)

    return UpdateRule(init, update)


def in_place_of(average: PyTree, params: PyTree) -> PyTree:
    """Return the average where there is one: a rule for a part of the parameters has None."""
    return jax.tree.map(lambda a, p: a.astype(p.dtype), merged(average, params), params)
