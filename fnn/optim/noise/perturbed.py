"""Perturbed descent: pushed when it comes to rest, out of saddle points and not out of minima."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.types import Array, Grads, NoiseKey, OptState, Params, PyTree, Updates
from fnn.optim._hyperparameters import Hyperparameter, cast_like, resolve
from fnn.optim._norms import norm_of
from fnn.optim.noise._base import NoiseState, Scale, added, noise, separate
from fnn.optim.noise._random_bits import Generator
from fnn.optim.optimizer import Optimizer, check_optimizer, update_with


class PerturbedState(NamedTuple):
    """The noise's key and step, the step of the last push, the state of the optimizer inside."""

    noise: NoiseState
    pushed: Array
    optimizer: OptState


@constructor
def perturbed(
    optimizer: Optimizer,
    radius: Scale = 0.03,
    threshold: Hyperparameter = 0.03,
    window: int = 1,
    *,
    generator: Generator = "counter",
    key: NoiseKey,
) -> Optimizer:
    """Perturbed gradient descent: a push to a point nearby when the gradient is small.

    The optimizer inside sees the gradient as it is, as in ``perturbed(sgd(0.1), key=key)``. The
    theory chooses, for an l-smooth function with rho-Lipschitz Hessian at most D above its minimum,
    accuracy e and failure probability q, with ``chi = 3 max(ln(d l D / (c e^2 q)), 4)``: learning
    rate ``c / l``, radius ``sqrt(c) / chi^2 e / l``, threshold ``sqrt(c) / chi^2 e`` and window
    ``chi / c^2 l / sqrt(rho e)``, c a small constant. These guard against the worst case; the
    defaults are of the size that Du et al. 2017 used. Stopping is left to the caller.

    Update:    u_t + xi_t where |g_t| <= threshold and more than `window` steps have passed since
        the last push, else u_t; u_t is the update of the optimizer inside, xi_t uniform in a ball
        over all parameters together

    Args:
        optimizer: the optimizer inside.
        radius: of the ball, or radii by patterns over paths, as in `gradient_noise`.
        threshold: gradients up to this norm are small, >= 0.
        window: how many steps to wait after a push, >= 0.
        generator: as in `gradient_noise`.
        key: as in `gradient_noise`.
    Raises:    InputError for what is no optimizer or needs more than the gradient, a negative
        radius, threshold or window, a missing key, an unknown generator, and from `init` for a
        pattern that matches no parameter.
    Source:    Jin et al. 2017, arXiv:1703.00887, algorithms 2 and 4.

    >>> import fnn, jax, jax.numpy as jnp
    >>> optimizer = perturbed(fnn.optim.sgd(0.1), radius=0.5, window=2, key=jax.random.key(0))
    >>> params = jnp.zeros(3)
    >>> state, moved = optimizer.init(params), []
    >>> for _ in range(5):
    ...     update, state = optimizer.update(jnp.zeros(3), state, params)
    ...     moved.append(bool(jnp.linalg.norm(update) > 0))
    >>> moved
    [True, False, False, True, False]

    """
    check_optimizer("an optimizer", optimizer, plain=True)
    source = noise("radius", radius, key, "ball", generator, "perturbed")
    check.hyperparameter(threshold, "threshold", least=0)
    check.count(window, "window", least=0)

    def init(params: Params, /) -> PerturbedState:
        never = jnp.int32(-window - 1)
        return separate(PerturbedState(source.init(params), never, optimizer.init(params)))

    def update(
        grads: Grads, state: PerturbedState, params: Params, /, **extra: PyTree
    ) -> tuple[Updates, PerturbedState]:
        updates, inner = update_with(optimizer, grads, state.optimizer, params, extra)
        step, norm = state.noise.step, norm_of(grads).value()
        small = norm <= cast_like(resolve(threshold, step), norm)
        push = small & (step - state.pushed > window)
        updates = jax.lax.cond(
            push, lambda u: added(u, source.draw(state.noise, u)), lambda u: u, updates
        )
        return updates, PerturbedState(
            state.noise.following(), jnp.where(push, step, state.pushed), inner
        )

    return Optimizer(init, update)
