"""Averages of the parameters on their way, which are evaluated in their place."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.tree import combine
from fnn._core.types import Array, Params, PyTree, Scalar, Updates
from fnn.optim._hyperparameters import Hyperparameter, cast_like, first_step, next_step, resolve
from fnn.optim._moving_average import copies
from fnn.optim.optimizer import Optimizer, tree_map_like


class EmaState(NamedTuple):
    """The step count, ``()`` without a schedule, the average, and the sum of the weights in it."""

    step: PyTree
    average: PyTree
    weight: Array

    def eval_params(self, params: Params) -> Params:
        """Return the average, in the dtype of the parameters.

        Args:
            params: the parameters that training moves.
        """
        return _in_place_of(self.average, params)


@constructor
def ema(decay: Hyperparameter = 0.999) -> Optimizer:
    """Exponential moving average of the parameters, which move as before.

    The average is the mean of ``p_1 .. p_t`` with weights ``decay^(t-i)``, free of where it
    started; with ``decay=lambda t: t / (t + 1)`` it is that with equal weights (stochastic weight
    averaging). It is kept in float32 or wider. Stands last, where the updates are final;
    `fnn.optim.eval_params` returns the average, and `fnn.fit` validates it.

    Update:    u_t, as it is; w_t = decay w_{t-1} + (1 - decay),
        a_t = a_{t-1} + (1 - decay) / w_t (p_t - a_{t-1}), with p_t the parameters after the step

    Args:
        decay: weight of the past, in [0, 1), or a schedule of it.
    Raises:    InputError for a decay outside [0, 1).
    Source:    Polyak and Juditsky 1992, SIAM J. Control 30(4), with the weights of Kingma and Ba
        2014, arXiv:1412.6980, section 7.2; equal weights: Izmailov et al. 2018, arXiv:1803.05407.

    >>> import fnn
    >>> fnn.optim.chain(fnn.optim.adam(1e-3), fnn.optim.ema(0.99))
    chain(adam(0.001), ema(0.99))

    """
    check.hyperparameter(decay, "decay", least=0, below=1)

    def init(params: Params, /) -> EmaState:
        return EmaState(first_step(decay), copies(params), jnp.zeros((), jnp.result_type(float)))

    def update(updates: Updates, state: EmaState, params: Params, /) -> tuple[Updates, EmaState]:
        share = cast_like(resolve(decay, state.step), state.weight)
        weight = share * state.weight + (1 - share)
        part = (1 - share) / weight
        average = tree_map_like(
            lambda a, p, u: _towards(part, a, p, u), state.average, params, updates
        )
        return updates, EmaState(next_step(state.step), average, weight)

    return Optimizer(init, update)


class LookaheadState(NamedTuple):
    """The step count, and the slow weights."""

    step: Array
    slow: PyTree

    def eval_params(self, params: Params) -> Params:
        """Return the slow weights, in the dtype of the parameters.

        Args:
            params: the parameters that training moves.
        """
        return _in_place_of(self.slow, params)


@constructor
def lookahead(every: int = 5, share: Hyperparameter = 0.5) -> Optimizer:
    """Lookahead: slow weights, moved a fraction of the way that the fast ones went.

    The parameters are the fast weights, moved by the optimizers before, which keep their state.
    Stands last; the slow weights are kept in float32 or wider, and `fnn.optim.eval_params` returns
    them.

    Update:    after every `every` steps slow_t = slow_{t-1} + share (p_t - slow_{t-1}) and
        p_t = slow_t; at all others u_t as it is

    Args:
        every: how many steps of the fast weights make one of the slow ones, >= 1.
        share: fraction of the way, in [0, 1], or a schedule of it.
    Raises:    InputError for `every` below 1 and a share outside [0, 1].
    Source:    Zhang et al. 2019, arXiv:1907.08610, algorithm 1.

    >>> import fnn
    >>> fnn.optim.chain(fnn.optim.sgd(0.1), fnn.optim.lookahead(5, 0.5))
    chain(sgd(0.1), lookahead(5, 0.5))

    """
    check.count(every, "every")
    check.hyperparameter(share, "share", least=0, most=1)

    def init(params: Params, /) -> LookaheadState:
        return LookaheadState(jnp.int32(0), copies(params))

    def update(
        updates: Updates, state: LookaheadState, params: Params, /
    ) -> tuple[Updates, LookaheadState]:
        step = state.step + 1
        meet, part = step % every == 0, resolve(share, state.step)
        slow = tree_map_like(
            lambda a, p, u: jnp.where(meet, _towards(part, a, p, u), a), state.slow, params, updates
        )
        back = tree_map_like(
            lambda u, p, a: jnp.where(meet, a.astype(p.dtype) - p, u), updates, params, slow
        )
        return back, LookaheadState(step, slow)

    return Optimizer(init, update)


def _towards(part: Scalar, a: Array, p: Array, u: Array) -> Array:
    """Move an average a part of the way to the parameters after the step."""
    return a + cast_like(part, a) * ((p + u).astype(a.dtype) - a)


def _in_place_of(average: PyTree, params: Params) -> Params:
    """Return the average where there is one: an optimizer for a part of the parameters has None."""
    return jax.tree.map(lambda a, p: a.astype(p.dtype), combine(average, params), params)
