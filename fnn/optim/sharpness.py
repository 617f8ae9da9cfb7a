"""Descent for flat minima: the gradient of the worst neighbour."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from fnn.layer import PyTree
from fnn.optim.clip import global_norm
from fnn.optim.hyper import Hyper, at_step, cast, check_number, first_step, next_step
from fnn.optim.rule import GradientAt, StepState, UpdateRule, each, stepping
from fnn.origin import constructor


@constructor
def sam(radius: Hyper = 0.05) -> UpdateRule:
    """Take the gradient where the loss is worst nearby, uphill by `radius`.

    ``g = grad L(p)``, ``e = radius g / |g|`` with the norm over all parameters together, and the
    gradient handed on is ``grad L(p + e)``: two evaluations a step. Both see the same batch and the
    same randomness; the value and the running state of the model are those at p. Stands before the
    rule with the learning rate, and after a clip that is to hold for both: ``chain(sam(0.05),
    sgd(0.1))``.

    Raises `fnn.InputError` for a negative radius. Source: Foret et al. 2020, arXiv:2010.01412,
    algorithm 1, p = 2.

    >>> import fnn
    >>> fnn.optim.chain(fnn.optim.sam(0.05), fnn.optim.sgd(0.1))
    chain(sam(0.05), sgd(0.1))
    """
    check_number("optim.sam", "radius", radius)

    def init(params: PyTree, /) -> StepState:
        del params
        return StepState(first_step(radius))

    def step(
        gradient_at: GradientAt, params: PyTree, state: StepState, /
    ) -> tuple[tuple[Any, PyTree], PyTree, StepState]:
        value_and_aux, grads = gradient_at(params)
        norm = global_norm(grads)
        length = cast(at_step(radius, state.step), norm) / jnp.where(norm > 0, norm, 1)
        worst = each(lambda p, g: p + cast(length, p) * g, params, grads)
        return value_and_aux, gradient_at(worst)[1], StepState(next_step(state.step))

    return stepping("optim.sam", init, step)
