"""Langevin dynamics: descent with so much noise that it samples ``exp(-U / T)``.

The potential is ``U(p) = N L(p)``: N examples times the mean loss L whose gradient g the optimizers
are given, from a mini-batch or from all. With L a negative log-likelihood and T = 1 they sample the
posterior under a flat prior. A Gaussian prior of precision r is ``weight_decay(r / N)`` in front,
which adds r p to the gradient of U. A schedule for the temperature anneals it.

The learning rate e is the step of ``p <- p - e U' + sqrt(2 e T) n``. Welling and Teh write eps / 2
for it, others dt.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import Key, NoiseKey, Number, PyTree, Scalar
from fnn.optim._hyperparameters import Hyperparameter, cast_like, check_number, resolve
from fnn.optim._moving_average import zeros
from fnn.optim.noise._base import Noise, NoiseState, Scale, added, noise, start
from fnn.optim.noise._random_bits import Generator
from fnn.optim.optimizer import Optimizer, tree_map_like


class LangevinState(NamedTuple):
    """The noise's key and step, and a tree like params: velocities, or mean squares."""

    noise: NoiseState
    memory: PyTree


@constructor
def sgld(
    learning_rate: Hyperparameter,
    examples: Number = 1,
    temperature: Scale = 1.0,
    *,
    generator: Generator = "counter",
    key: NoiseKey,
) -> Optimizer:
    """Stochastic-gradient Langevin dynamics, overdamped.

    Update ``-e N g + sqrt(2 e T) n`` with e the learning rate, N `examples`, g the gradient of the
    mean loss, T the temperature and n standard normal. On ``U = a p^2 / 2`` the variance settles
    at ``2 T / (a (2 - e a))``, which is T / a for a small step. It is the whole update: nothing
    stands behind it. The noise of mini-batches comes on top, and vanishes beside n as e gets small:
    let it fall by a schedule, as ``a (b + t)^-gamma`` with gamma in (0.5, 1].

    Raises `fnn.InputError` for a negative learning rate or temperature, fewer examples than 1, a
    missing key, and a pattern (for the temperature) that matches nothing. Source: Welling and Teh
    2011, ICML, eq. 4, with e for their eps / 2.

    >>> import jax, jax.numpy as jnp
    >>> optimizer = sgld(0.1, temperature=0.5, key=jax.random.key(0))
    >>> p = jnp.zeros(10_000)
    >>> state = optimizer.init(p)
    >>> for _ in range(50):
    ...     update, state = optimizer.update(p, state, p)
    ...     p += update
    >>> bool(abs(p.var() - 2 * 0.5 / 1.9) < 0.03)
    True
    """
    source = _source(learning_rate, examples, temperature, generator, key)

    def update(grads: PyTree, state: NoiseState, params: PyTree, /) -> tuple[PyTree, NoiseState]:
        del params
        rate = resolve(learning_rate, state.step)
        descent = tree_map_like(lambda g: -cast_like(rate * examples, g) * g, grads)
        kicks = source.draw(state, grads, lambda t: _root(2 * rate * t))
        return added(descent, kicks), NoiseState(state.key, state.step + 1)

    return Optimizer(lambda params: start(key), update)


@constructor
def psgld(
    learning_rate: Hyperparameter,
    examples: Number = 1,
    temperature: Scale = 1.0,
    decay: Number = 0.99,
    epsilon: Number = 1e-5,
    *,
    generator: Generator = "counter",
    key: NoiseKey,
) -> Optimizer:
    """Preconditioned stochastic-gradient Langevin dynamics.

    ``v_t = decay v_{t-1} + (1 - decay) g_t^2``, ``G = 1 / (epsilon + sqrt(v_t))``, update ``-e G N
    g + sqrt(2 e T G) n``, else as `sgld`. The term for the slope of G is left out, as in the paper:
    the bias that this brings is small while v changes slowly.

    Raises `fnn.InputError` as `sgld` does, for a decay outside [0, 1) and an epsilon that is not
    positive. Source: Li et al. 2016, arXiv:1512.07666, algorithm 1, with e for their eps / 2.

    >>> import jax, jax.numpy as jnp
    >>> optimizer = psgld(0.25, temperature=0.0, decay=0.75, key=jax.random.key(0))
    >>> p = jnp.array([1.0, 100.0])
    >>> optimizer.update(p, optimizer.init(p), p)[0].round(4)
    Array([-0.5, -0.5], dtype=float32)
    """
    source = _source(learning_rate, examples, temperature, generator, key)
    if isinstance(decay, int | float) and not 0 <= decay < 1:
        raise InputError("a decay in [0, 1)", describe(decay), "pass a share such as 0.99")
    if isinstance(epsilon, int | float) and not epsilon > 0:
        raise InputError("an epsilon above 0", describe(epsilon), "pass one such as 1e-5")

    def init(params: PyTree, /) -> LangevinState:
        return LangevinState(start(key), zeros(params))

    def update(
        grads: PyTree, state: LangevinState, params: PyTree, /
    ) -> tuple[PyTree, LangevinState]:
        del params
        rate = resolve(learning_rate, state.noise.step)
        square = tree_map_like(
            lambda v, g: (
                cast_like(decay, v) * v + (1 - cast_like(decay, v)) * jnp.square(g.astype(v.dtype))
            ),
            state.memory,
            grads,
        )
        scale = tree_map_like(lambda v: 1 / (cast_like(epsilon, v) + jnp.sqrt(v)), square)
        descent = tree_map_like(
            lambda g, s: -cast_like(rate * examples, s) * s * g.astype(s.dtype), grads, scale
        )
        drawn = source.draw(state.noise, grads, lambda t: _root(2 * rate * t))
        kicks = [
            None if n is None else jnp.sqrt(s) * n
            for n, s in zip(drawn, jax.tree.leaves(scale), strict=True)
        ]
        return added(descent, kicks), LangevinState(_next(state.noise), square)

    return Optimizer(init, update)


@constructor
def sghmc(
    learning_rate: Hyperparameter,
    examples: Number = 1,
    temperature: Scale = 1.0,
    friction: Number = 0.1,
    *,
    generator: Generator = "counter",
    key: NoiseKey,
) -> Optimizer:
    """Stochastic-gradient Hamiltonian Monte Carlo: Langevin dynamics with momentum.

    ``v_t = (1 - friction) v_{t-1} - e N g + sqrt(2 friction e T) n``, update ``v_t``, from a
    velocity of 0: descent with momentum ``1 - friction``, and noise. On ``U = a p^2 / 2`` the
    variance of p settles at ``T / a / (1 - e a / (4 - 2 friction))``, which is T / a for a small
    step. The noise of mini-batches is taken to be small beside n (their estimate of it is 0).

    Raises `fnn.InputError` as `sgld` does, and for a friction outside (0, 1]. Source: Chen, Fox and
    Guestrin 2014, arXiv:1402.4102, eq. 15, with e, friction for their eta, alpha.

    >>> import jax, jax.numpy as jnp
    >>> optimizer = sghmc(0.1, temperature=0.0, friction=0.5, key=jax.random.key(0))
    >>> p = jnp.array([1.0])
    >>> first, state = optimizer.update(p, optimizer.init(p), p)
    >>> first, optimizer.update(p, state, p)[0]
    (Array([-0.1], dtype=float32), Array([-0.15], dtype=float32))
    """
    source = _source(learning_rate, examples, temperature, generator, key)
    _check_friction(friction, 1.0)

    def init(params: PyTree, /) -> LangevinState:
        return LangevinState(start(key), zeros(params))

    def update(
        grads: PyTree, state: LangevinState, params: PyTree, /
    ) -> tuple[PyTree, LangevinState]:
        del params
        rate = resolve(learning_rate, state.noise.step)
        pushed = tree_map_like(
            lambda v, g: (
                (1 - cast_like(friction, v)) * v - cast_like(rate * examples, v) * g.astype(v.dtype)
            ),
            state.memory,
            grads,
        )
        kicks = source.draw(state.noise, grads, lambda t: _root(2 * friction * rate * t))
        velocity = added(pushed, kicks)
        updates = tree_map_like(lambda g, v: v, grads, velocity)
        return updates, LangevinState(_next(state.noise), velocity)

    return Optimizer(init, update)


@constructor
def baoab(
    time_step: Hyperparameter,
    examples: Number = 1,
    temperature: Scale = 1.0,
    friction: Number = 1.0,
    *,
    generator: Generator = "counter",
    key: NoiseKey,
) -> Optimizer:
    """Underdamped Langevin dynamics by the BAOAB splitting.

    ``dp = v dt``, ``dv = -U' dt - friction v dt + sqrt(2 friction T) dW``, with unit mass, in steps
    h of: half a kick by the force (B), half a move (A), the exact effect of friction and noise (O),
    half a move, half a kick. The kick at the end of a step and the one at the start of the next are
    at the same place, so one gradient serves both: ``v <- v - h N g`` (half of it at first),
    ``w = c v + sqrt(T (1 - c^2)) n`` with ``c = exp(-friction h)``, update ``h / 2 (v + w)``. On
    ``U = a p^2 / 2`` the variance of p is exactly ``T / a`` at any stable h (``a h^2 < 4``).

    Raises `fnn.InputError` as `sgld` does, and for a friction that is not positive. Source:
    Leimkuhler and Matthews 2013, doi:10.1093/amrx/abs010, sec. 2.

    >>> import jax, jax.numpy as jnp
    >>> optimizer = baoab(0.5, temperature=2.0, key=jax.random.key(0))
    >>> p = jnp.zeros(10_000)
    >>> state = optimizer.init(p)
    >>> for _ in range(50):
    ...     update, state = optimizer.update(p, state, p)
    ...     p += update
    >>> bool(abs(p.var() - 2.0) < 0.15)
    True
    """
    source = _source(time_step, examples, temperature, generator, key, "time_step")
    _check_friction(friction, math.inf)

    def init(params: PyTree, /) -> LangevinState:
        return LangevinState(start(key), zeros(params))

    def update(
        grads: PyTree, state: LangevinState, params: PyTree, /
    ) -> tuple[PyTree, LangevinState]:
        del params
        step = state.noise.step
        h = resolve(time_step, step)
        kick = jnp.where(step == 0, 0.5, 1.0) * h * examples
        before = tree_map_like(
            lambda v, g: v - cast_like(kick, v) * g.astype(v.dtype), state.memory, grads
        )
        damping = jnp.exp(-friction * jnp.asarray(h))
        drawn = source.draw(state.noise, grads, lambda t: _root(t * (1 - damping**2)))
        after = added(tree_map_like(lambda v: cast_like(damping, v) * v, before), drawn)
        updates = tree_map_like(
            lambda g, v, w: cast_like(jnp.asarray(h) / 2, v) * (v + w), grads, before, after
        )
        return updates, LangevinState(_next(state.noise), after)

    return Optimizer(init, update)


def _source(
    rate: Hyperparameter,
    examples: Scalar,
    temperature: Scale,
    generator: Generator,
    key: Key,
    name: str = "learning_rate",
) -> Noise:
    check_number(name, rate)
    check_number("examples", examples, 1.0)
    return noise("temperature", temperature, key, "gaussian", generator)


def _check_friction(friction: Any, most: float) -> None:
    if isinstance(friction, int | float) and not 0 < friction <= most:
        expected = "a friction in (0, 1]" if most == 1 else "a friction above 0"
        raise InputError(expected, describe(friction), "pass one such as 0.1")


def _next(state: NoiseState) -> NoiseState:
    return NoiseState(state.key, state.step + 1)


def _root(variance: Any) -> Any:
    return math.sqrt(variance) if isinstance(variance, int | float) else jnp.sqrt(variance)
