"""Gradient descent and what one does to the gradient before the step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.errors import InputError, describe
from fnn.layer import Array, PyTree
from fnn.optim.rule import Hyper, UpdateRule, at_step, cast, check_number, each
from fnn.origin import constructor


class SgdState(NamedTuple):
    """The step count, and the velocity: a tree like params, or ``()`` without momentum."""

    step: Array
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
    if isinstance(momentum, int | float) and not 0 <= momentum < 1:
        raise InputError(
            "optim.sgd", "a momentum in [0, 1)", describe(momentum), "pass a share such as 0.9"
        )
    plain = isinstance(momentum, int | float) and momentum == 0

    def init(params: PyTree, /) -> SgdState:
        return SgdState(jnp.int32(0), () if plain else jax.tree.map(jnp.zeros_like, params))

    def update(grads: PyTree, state: SgdState, params: PyTree, /) -> tuple[PyTree, SgdState]:
        del params
        rate = at_step(learning_rate, state.step)
        velocity, direction = (), grads
        if not plain:
            velocity = each(lambda g, v: g + cast(momentum, g) * v, grads, state.velocity)
            direction = velocity
            if nesterov:
                direction = each(lambda g, v: g + cast(momentum, g) * v, grads, velocity)
        return each(lambda g: -cast(rate, g) * g, direction), SgdState(state.step + 1, velocity)

    return UpdateRule(init, update)


class StepState(NamedTuple):
    """The step count."""

    step: Array


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

    def init(params: PyTree, /) -> StepState:
        del params
        return StepState(jnp.int32(0))

    def update(grads: PyTree, state: StepState, params: PyTree, /) -> tuple[PyTree, StepState]:
        decay = at_step(rate, state.step)
        return each(lambda g, p: g + cast(decay, g) * p, grads, params), StepState(state.step + 1)

    return UpdateRule(init, update)


@constructor
def clip_by_global_norm(limit: Hyper) -> UpdateRule:
    """Shorten the gradient, over all parameters together, to a norm of at most `limit`.

    ``g min(1, limit / |g|)`` with ``|g|^2`` the sum of the squares of all its numbers, computed in
    float32 or better; a zero gradient stays zero. Source: Pascanu, Mikolov and Bengio 2012,
    arXiv:1211.5063, algorithm 1.

    Raises `fnn.InputError` for a negative limit.

    >>> import jax.numpy as jnp
    >>> rule = clip_by_global_norm(1.0)
    >>> params = jnp.zeros(2)
    >>> rule.update(jnp.array([0.0, 0.5]), rule.init(params), params)[0]
    Array([0. , 0.5], dtype=float32)
    """
    check_number("optim.clip_by_global_norm", "limit", limit)

    def init(params: PyTree, /) -> StepState:
        del params
        return StepState(jnp.int32(0))

    def update(grads: PyTree, state: StepState, params: PyTree, /) -> tuple[PyTree, StepState]:
        del params
        norm = global_norm(grads)
        longest = cast(at_step(limit, state.step), norm)
        scale = jnp.where(norm > longest, longest / jnp.where(norm > 0, norm, 1), 1)
        return each(lambda g: g * scale.astype(g.dtype), grads), StepState(state.step + 1)

    return UpdateRule(init, update)


def global_norm(tree: PyTree) -> Any:
    """Return the Euclidean norm of all numbers of a tree together, in float32 or better.

    >>> import jax.numpy as jnp
    >>> global_norm({"a": jnp.array([3.0]), "b": jnp.array([4.0])})
    Array(5., dtype=float32)
    """
    leaves = jax.tree.leaves(tree)
    wide = jnp.float64 if any(a.dtype == jnp.float64 for a in leaves) else jnp.float32
    squares = (jnp.sum(jnp.square(a.astype(wide))) for a in leaves)
    return jnp.sqrt(sum(squares, jnp.zeros((), wide)))
