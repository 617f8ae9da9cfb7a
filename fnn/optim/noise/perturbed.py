"""Descent that is pushed when it comes to rest: out of saddle points, not out of minima."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import Array, NoiseKey, PyTree
from fnn.optim._hyperparameters import Hyperparameter, cast_like, check_number, resolve
from fnn.optim.noise._base import NoiseState, Scale, added, noise, start
from fnn.optim.noise._random_bits import Generator
from fnn.optim.optimizer import Optimizer, check_optimizer
from fnn.optim.transforms.clip import global_norm


class PerturbedState(NamedTuple):
    """The noise's key and step, the step of the last push, the state of the optimizer inside."""

    noise: NoiseState
    pushed: Array
    optimizer: PyTree


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

    ``u_t + xi_t`` with ``u_t`` the update of the optimizer inside, which sees the gradient as it
    is, and ``xi_t`` uniform in a ball of that radius over all parameters together; only where
    ``|g_t| <= threshold`` and more than `window` steps have passed since the last push. As in
    ``perturbed(sgd(0.1), key=key)``.

    The theory chooses, for an l-smooth function with rho-Lipschitz Hessian at most D above its
    minimum, accuracy e and failure probability q, with ``chi = 3 max(ln(d l D / (c e^2 q)), 4)``:
    learning rate ``c / l``, radius ``sqrt(c) / chi^2 e / l``, threshold ``sqrt(c) / chi^2 e`` and
    window ``chi / c^2 l / sqrt(rho e)``, c a small constant. These guard against the worst case;
    the defaults are of the size that Du et al. 2017 used. Stopping is left to the caller.

    Raises `fnn.InputError` for what is no optimizer, a negative radius or threshold, a window below
    0, a missing key and an unknown generator. Source: Jin et al. 2017, arXiv:1703.00887, algorithms
    2 and 4.

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
    check_optimizer("an update rule", optimizer, plain=True)
    source = noise("radius", radius, key, "ball", generator)
    check_number("threshold", threshold)
    if not check.is_count(window, 0):
        raise InputError(
            "a window of 0 or more", describe(window), "pass a number of steps, an int"
        )

    def init(params: PyTree, /) -> PerturbedState:
        return PerturbedState(start(key), jnp.int32(-window - 1), optimizer.init(params))

    def update(
        grads: PyTree, state: PerturbedState, params: PyTree, /
    ) -> tuple[PyTree, PerturbedState]:
        updates, inner = optimizer.update(grads, state.optimizer, params)
        step, norm = state.noise.step, global_norm(grads)
        small = norm <= cast_like(resolve(threshold, step), norm)
        push = small & (step - state.pushed > window)

        def pushed(updates: PyTree) -> PyTree:
            return added(updates, source.draw(state.noise, updates))

        updates = jax.lax.cond(push, pushed, lambda updates: updates, updates)
        return updates, PerturbedState(
            NoiseState(state.noise.key, step + 1), jnp.where(push, step, state.pushed), inner
        )

    return Optimizer(init, update)
