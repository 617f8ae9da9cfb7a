"""Descent for flat minima: the gradient of the worst neighbor."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from fnn._core.description import constructor
from fnn._core.types import PyTree
from fnn.optim._hyperparameters import (
    Hyperparameter,
    cast_like,
    check_number,
    first_step,
    next_step,
    resolve,
)
from fnn.optim.optimizer import GradientAt, Optimizer, StepState, from_step, tree_map_like
from fnn.optim.transforms.clip import global_norm


@constructor
def sam(radius: Hyperparameter = 0.05) -> Optimizer:
    """Sharpness-aware minimization: the gradient where the loss is worst within `radius`.

    ``g = grad L(p)``, ``e = radius g / |g|`` with the norm over all parameters together, and the
    gradient handed on is ``grad L(p + e)``: two evaluations a step. Both see the same batch and the
    same randomness; the value and the running state of the model are those at p. Stands before the
    optimizer with the learning rate, and after a clip that is to hold for both: ``chain(sam(0.05),
    sgd(0.1))``.

    Raises `fnn.InputError` for a negative radius. Source: Foret et al. 2020, arXiv:2010.01412,
    algorithm 1, p = 2.

    >>> import fnn
    >>> fnn.optim.chain(fnn.optim.sam(0.05), fnn.optim.sgd(0.1))
    chain(sam(0.05), sgd(0.1))
    """
    check_number("radius", radius)

    def init(params: PyTree, /) -> StepState:
        del params
        return StepState(first_step(radius))

    def step(
        gradient_at: GradientAt, params: PyTree, state: StepState, /
    ) -> tuple[tuple[Any, PyTree], PyTree, StepState]:
        value_and_aux, grads = gradient_at(params)
        norm = global_norm(grads)
        length = cast_like(resolve(radius, state.step), norm) / jnp.where(norm > 0, norm, 1)
        worst = tree_map_like(lambda p, g: p + cast_like(length, p) * g, params, grads)
        return value_and_aux, gradient_at(worst)[1], StepState(next_step(state.step))

    return from_step(init, step)
