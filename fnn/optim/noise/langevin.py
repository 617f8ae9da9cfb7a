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
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.types import Array, Grads, NoiseKey, Number, Params, PyTree, Scalar, Updates
from fnn.optim._hyperparameters import Hyperparameter, cast_like, resolve
from fnn.optim._moving_average import running_root, zeros
from fnn.optim.noise._base import Noise, NoiseState, Scale, added, noise
from fnn.optim.noise._random_bits import Generator
from fnn.optim.optimizer import Optimizer, tree_map_like


class LangevinState(NamedTuple):
    """The noise's key and step, and a tree like params: velocities, or root mean squares."""

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

    On ``U = a p^2 / 2`` the variance settles at ``2 T / (a (2 - e a))``, which is T / a for a small
    step. It is the whole update: nothing stands behind it. The noise of mini-batches comes on top,
    and vanishes beside n as e gets small: let it fall by a schedule, as ``a (b + t)^-gamma`` with
    gamma in (0.5, 1].

    Update:    -e N g + sqrt(2 e T) n, n standard normal, g the gradient of the mean loss

    Args:
        learning_rate: e, >= 0, or a schedule of it.
        examples: N, how many examples the potential sums over, >= 1.
        temperature: T, >= 0, or several by patterns over paths, as in `gradient_noise`; with 0 it
            is gradient descent.
        generator: as in `gradient_noise`.
        key: as in `gradient_noise`.
    Raises:    InputError for a negative learning rate or temperature, fewer examples than 1, a
        missing key, and from `init` for a pattern that matches no parameter.
    Source:    Welling and Teh 2011, ICML, eq. 4, with e for their eps / 2.

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
    _check_steps(learning_rate, "learning_rate", examples)
    source = _source(temperature, generator, key, "sgld")

    def update(grads: Grads, state: NoiseState, params: Params, /) -> tuple[Updates, NoiseState]:
        del params
        rate = resolve(learning_rate, state.step)
        descent = tree_map_like(lambda g: -cast_like(rate * examples, g) * g, grads)
        kicks = source.draw(state, grads, lambda t: _root(2 * rate * t))
        return added(descent, kicks), state.following()

    return Optimizer(source.init, update)


@constructor
def psgld(
    learning_rate: Hyperparameter,
    examples: Number = 1,
    temperature: Scale = 1.0,
    decay: Number = 0.99,
    *,
    epsilon: Number = 1e-5,
    generator: Generator = "counter",
    key: NoiseKey,
) -> Optimizer:
    """Preconditioned stochastic-gradient Langevin dynamics.

    `sgld` with a step for each entry. The term for the slope of G is left out, as in the paper: the
    bias that this brings is small while v changes slowly. What is kept is the root of v, so that
    the squares of large gradients do not overflow.

    Update:    v_t = decay v_{t-1} + (1 - decay) g_t^2,  G = 1 / (epsilon + sqrt(v_t)),
        -e G N g + sqrt(2 e T G) n

    Args:
        learning_rate: e, >= 0, or a schedule of it.
        examples: N, as in `sgld`.
        temperature: T, as in `sgld`.
        decay: of the mean of squared gradients, in [0, 1).
        epsilon: bounds the step at e / epsilon, > 0.
        generator: as in `gradient_noise`.
        key: as in `gradient_noise`.
    Raises:    InputError as `sgld` does, for a decay outside [0, 1) and epsilon <= 0.
    Source:    Li et al. 2016, arXiv:1512.07666, algorithm 1, with e for their eps / 2.

    >>> import jax, jax.numpy as jnp
    >>> optimizer = psgld(0.25, temperature=0.0, decay=0.75, key=jax.random.key(0))
    >>> p = jnp.array([1.0, 100.0])
    >>> optimizer.update(p, optimizer.init(p), p)[0].round(4)
    Array([-0.5, -0.5], dtype=float32)

    """
    _check_steps(learning_rate, "learning_rate", examples)
    check.number(decay, "decay", least=0, below=1)
    check.number(epsilon, "epsilon", above=0)
    source = _source(temperature, generator, key, "psgld")

    def init(params: Params, /) -> LangevinState:
        return LangevinState(source.init(params), zeros(params))

    def update(
        grads: Grads, state: LangevinState, params: Params, /
    ) -> tuple[Updates, LangevinState]:
        del params
        rate = resolve(learning_rate, state.noise.step)
        root = jax.tree.map(lambda r, g: running_root(decay, r, g), state.memory, grads)
        scale = tree_map_like(lambda r: 1 / (cast_like(epsilon, r) + r), root)
        descent = tree_map_like(
            lambda g, s: -cast_like(rate * examples, s) * s * g.astype(s.dtype), grads, scale
        )
        drawn = source.draw(state.noise, grads, lambda t: _root(2 * rate * t))
        kicks = [
            None if n is None else jnp.sqrt(s) * n
            for n, s in zip(drawn, jax.tree.leaves(scale), strict=True)
        ]
        return added(descent, kicks), LangevinState(state.noise.following(), root)

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

    From a velocity of 0: descent with momentum ``1 - friction``, and noise. On ``U = a p^2 / 2``
    the variance of p settles at ``T / a / (1 - e a / (4 - 2 friction))``, which is T / a for a
    small step. The noise of mini-batches is taken to be small beside n (their estimate of it is 0).

    Update:    v_t = (1 - friction) v_{t-1} - e N g + sqrt(2 friction e T) n, which is the update

    Args:
        learning_rate: e, >= 0, or a schedule of it.
        examples: N, as in `sgld`.
        temperature: T, as in `sgld`.
        friction: share of the velocity lost in a step, in (0, 1].
        generator: as in `gradient_noise`.
        key: as in `gradient_noise`.
    Raises:    InputError as `sgld` does, and for a friction outside (0, 1].
    Source:    Chen, Fox and Guestrin 2014, arXiv:1402.4102, eq. 15, with e, friction for their
        eta, alpha.

    >>> import jax, jax.numpy as jnp
    >>> optimizer = sghmc(0.1, temperature=0.0, friction=0.5, key=jax.random.key(0))
    >>> p = jnp.array([1.0])
    >>> first, state = optimizer.update(p, optimizer.init(p), p)
    >>> first, optimizer.update(p, state, p)[0]
    (Array([-0.1], dtype=float32), Array([-0.15], dtype=float32))

    """
    _check_steps(learning_rate, "learning_rate", examples)
    check.number(friction, "friction", above=0, most=1)
    source = _source(temperature, generator, key, "sghmc")

    def init(params: Params, /) -> LangevinState:
        return LangevinState(source.init(params), zeros(params))

    def update(
        grads: Grads, state: LangevinState, params: Params, /
    ) -> tuple[Updates, LangevinState]:
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
        return updates, LangevinState(state.noise.following(), velocity)

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
    at the same point, so one gradient serves both. On ``U = a p^2 / 2`` the variance of p is
    exactly ``T / a`` at any stable h (``a h^2 < 4``).

    Update:    v <- v - h N g (half of it at first),  w = c v + sqrt(T (1 - c^2)) n with
        c = exp(-friction h),  h / 2 (v + w), and v <- w

    Args:
        time_step: h, >= 0, or a schedule of it.
        examples: N, as in `sgld`.
        temperature: T, as in `sgld`.
        friction: rate at which the velocity is lost, > 0.
        generator: as in `gradient_noise`.
        key: as in `gradient_noise`.
    Raises:    InputError as `sgld` does, and for friction <= 0.
    Source:    Leimkuhler and Matthews 2013, doi:10.1093/amrx/abs010, sec. 2.

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
    _check_steps(time_step, "time_step", examples)
    check.number(friction, "friction", above=0)
    source = _source(temperature, generator, key, "baoab")

    def init(params: Params, /) -> LangevinState:
        return LangevinState(source.init(params), zeros(params))

    def update(
        grads: Grads, state: LangevinState, params: Params, /
    ) -> tuple[Updates, LangevinState]:
        del params
        step = state.noise.step
        h = resolve(time_step, step)
        kick = jnp.where(step == 0, 0.5, 1.0) * h * examples
        before = tree_map_like(
            lambda v, g: v - cast_like(kick, v) * g.astype(v.dtype), state.memory, grads
        )
        damping = jnp.exp(-friction * jnp.asarray(h))
        # 1 - damping^2, of which rounding leaves nothing where the step is short.
        lost = -jnp.expm1(-2 * friction * jnp.asarray(h))
        drawn = source.draw(state.noise, grads, lambda t: _root(t * lost))
        after = added(tree_map_like(lambda v: cast_like(damping, v) * v, before), drawn)
        updates = tree_map_like(
            lambda g, v, w: cast_like(jnp.asarray(h) / 2, v) * (v + w), grads, before, after
        )
        return updates, LangevinState(state.noise.following(), after)

    return Optimizer(init, update)


def _check_steps(rate: Hyperparameter, name: str, examples: Scalar) -> None:
    """Raise `InputError` for a negative step, and fewer examples than 1."""
    check.hyperparameter(rate, name, least=0)
    check.number(examples, "examples", least=1)


def _source(temperature: Scale, generator: Generator, key: Array, kind: str) -> Noise:
    """Return the Gaussian noise of a temperature."""
    return noise("temperature", temperature, key, "gaussian", generator, kind)


def _root(variance: Scalar) -> Scalar:
    """Return the standard deviation of a variance; plain numbers stay plain."""
    return math.sqrt(variance) if isinstance(variance, int | float) else jnp.sqrt(variance)
