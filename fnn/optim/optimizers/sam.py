"""Descent for flat minima: the gradient of the worst neighbor."""

from __future__ import annotations

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.precision import upcast
from fnn._core.types import Params
from fnn.optim._hyperparameters import Hyperparameter, first_step, next_step, resolve
from fnn.optim._norms import norm_of, scaled_to
from fnn.optim.optimizer import GradientAt, Optimizer, StepState, Taken, from_step, tree_map_like


@constructor
def sam(radius: Hyperparameter = 0.05) -> Optimizer:
    """Sharpness-aware minimization: the gradient where the loss is worst within `radius`.

    Two evaluations a step. Both see the same batch and the same randomness; the value and the
    running state of the model are those at p. Stands before the optimizer with the learning rate,
    and after a clip that is to hold for both: ``chain(sam(0.05), sgd(0.1))``.

    Update:    g = grad L(p), e = radius g / |g| with the norm over all parameters together, and the
        gradient handed on is grad L(p + e)

    Args:
        radius: distance of the neighbor, 0 or more, or a schedule.
    Raises:    InputError for a negative radius; and where it is not given the gradient as a
        function, outside of `fnn.train_step`.
    Source:    Foret et al. 2020, arXiv:2010.01412, algorithm 1, p = 2.

    >>> import fnn
    >>> fnn.optim.chain(fnn.optim.sam(0.05), fnn.optim.sgd(0.1))
    chain(sam(0.05), sgd(0.1))

    """
    check.hyperparameter(radius, "radius", least=0)

    def init(params: Params, /) -> StepState:
        del params
        return StepState(first_step(radius))

    def step(gradient_at: GradientAt, params: Params, state: StepState, /) -> Taken:
        value_and_aux, grads = gradient_at(params)
        norm, length = norm_of(grads), resolve(radius, state.step)
        worst = tree_map_like(
            lambda p, g: upcast(p) + scaled_to(g, norm, length).astype(upcast(p).dtype),
            params,
            grads,
        )
        return value_and_aux, gradient_at(worst)[1], StepState(next_step(state.step))

    return from_step(init, step)
