"""Noise injection: randomness added to the gradient, to the update, to the parameters."""

from __future__ import annotations

import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.types import Array, Grads, NoiseKey, Number, Params, PyTree, Scalar, Updates
from fnn.optim._hyperparameters import cast_like
from fnn.optim.noise._base import NoiseState, Scale, added, noise
from fnn.optim.noise._random_bits import Generator
from fnn.optim.noise.distributions import Distribution
from fnn.optim.optimizer import GradientAt, Optimizer, from_step


@constructor
def gradient_noise(
    variance: Scale,
    decay_power: Number = 0.55,
    *,
    distribution: str | Distribution = "gaussian",
    generator: Generator = "counter",
    key: NoiseKey,
) -> Optimizer:
    """Gradient noise, annealed from step to step.

    Stands before the learning rate, which scales the noise too, and after clipping:
    ``chain(clip_by_global_norm(1.0), gradient_noise(0.01, key=key), sgd(0.1))``.

    A key may be used for several noises. They draw different values, as the kind of a noise is
    folded into its key, and in a chain its place among the noises there; only two of the same
    kind, each the first noise of an optimizer of its own, draw the same.

    Update:    g_t + n_t, every entry of n_t drawn independently, of mean 0 and variance
        variance / (1 + t)^decay_power, t counted from 0

    Args:
        variance: for all parameters, or by patterns over paths: ``{"*/weight": 0.01}``; the path
            of a leaf counts first, then the first match, and what matches none stays without
            noise; a schedule is annealed further.
        decay_power: how fast the variance falls, >= 0; with 0 the schedule of the variance is all.
        distribution: a name or a value of `fnn.optim.distributions`.
        generator: ``"counter"``, which XLA computes inside the update and which is not for
            secrets; or ``"threefry"``, the slower one of `jax.random`.
        key: a key of `jax.random`; each step has one of its own, and within it each leaf.
    Raises:    InputError for a negative variance or power, a missing key, an unknown distribution
        or generator, and from `init` for a pattern that matches no parameter.
    Source:    Neelakantan et al. 2015, arXiv:1511.06807, eq. 1; there the variance is 0.01, 0.3 or
        1 and the power 0.55.

    >>> import jax, jax.numpy as jnp
    >>> optimizer = gradient_noise(0.01, key=jax.random.key(0))
    >>> params = jnp.zeros(10_000)
    >>> noisy, state = optimizer.update(params, optimizer.init(params), params)
    >>> bool(abs(noisy.std() - 0.1) < 0.005)
    True

    """
    check.number(decay_power, "decay_power", least=0)
    source = noise("variance", variance, key, distribution, generator, "gradient_noise")

    def update(grads: Grads, state: NoiseState, params: Params, /) -> tuple[Updates, NoiseState]:
        del params
        steps = 1.0 + state.step.astype(jnp.float32)
        decay = steps ** cast_like(decay_power, steps)
        drawn = source.draw(state, grads, lambda value: jnp.sqrt(cast_like(value, decay) / decay))
        return added(grads, drawn), state.following()

    return Optimizer(source.init, update)


@constructor
def sphere_noise(
    radius: Scale = 1.0, *, generator: Generator = "counter", key: NoiseKey
) -> Optimizer:
    """Sphere noise: a random direction of fixed length added to every gradient.

    Stands before the learning rate: p - learning_rate (g + n) leaves strict saddle points.

    Update:    g_t + radius n_t / |n_t|, n_t Gaussian, its norm over all parameters together

    Args:
        radius: the length, or lengths by patterns over paths, as in `gradient_noise`.
        generator: as in `gradient_noise`.
        key: as in `gradient_noise`.
    Raises:    InputError as `gradient_noise` does.
    Source:    Ge et al. 2015, arXiv:1503.02101, algorithm 1.

    >>> import jax, jax.numpy as jnp
    >>> optimizer = sphere_noise(3.0, key=jax.random.key(0))
    >>> params = jnp.zeros(5)
    >>> noisy, _ = optimizer.update(params, optimizer.init(params), params)
    >>> jnp.linalg.norm(noisy).round(4)
    Array(3., dtype=float32)

    """
    source = noise("radius", radius, key, "sphere", generator, "sphere_noise")

    def update(grads: Grads, state: NoiseState, params: Params, /) -> tuple[Updates, NoiseState]:
        del params
        return added(grads, source.draw(state, grads)), state.following()

    return Optimizer(source.init, update)


@constructor
def anticorrelated_noise(
    std: Scale,
    *,
    distribution: str | Distribution = "gaussian",
    generator: Generator = "counter",
    key: NoiseKey,
) -> Optimizer:
    """Anticorrelated noise (Anti-PGD): ``xi_{t+1} - xi_t`` added to the update.

    Neighboring steps have correlation -1/2, and their sum ``xi_{t+1} - xi_0`` stays bounded, where
    that of independent noise is a random walk. Descent then lowers ``L + std^2 / 2 tr L''`` on
    average: it prefers flat minima. Stands after the learning rate, ``chain(sgd(0.1),
    anticorrelated_noise(0.05, key=key))``. Nothing is stored: ``xi_t`` is drawn again from its
    key.

    Update:    u_t + xi_{t+1} - xi_t, every entry of xi_t drawn independently with standard
        deviation std(t)

    Args:
        std: standard deviation of xi, or several by patterns over paths, as in `gradient_noise`;
            let a schedule end at 0 to take the last step back.
        distribution: as in `gradient_noise`.
        generator: as in `gradient_noise`.
        key: as in `gradient_noise`.
    Raises:    InputError as `gradient_noise` does.
    Source:    Orvieto et al. 2022, arXiv:2202.02831, eq. 2 and theorem 2.1 (for
        ``distribution="rademacher"``); standard deviations of 0.05 and 0.1 there.

    >>> import jax, jax.numpy as jnp
    >>> optimizer = anticorrelated_noise(0.1, key=jax.random.key(0))
    >>> params, total = jnp.zeros(1000), jnp.zeros(1000)
    >>> state = optimizer.init(params)
    >>> for _ in range(50):
    ...     update, state = optimizer.update(params, state, params)
    ...     total += update
    >>> bool(total.std() < 0.2)
    True

    """
    source = noise("std", std, key, distribution, generator, "anticorrelated_noise")

    def update(
        updates: Updates, state: NoiseState, params: Params, /
    ) -> tuple[Updates, NoiseState]:
        del params
        after = state.following()
        pairs = zip(source.draw(after, updates), source.draw(state, updates), strict=True)
        difference = [_minus(new, old) for new, old in pairs]
        return added(updates, difference), after

    return Optimizer(source.init, update)


@constructor
def weight_noise(
    std: Scale,
    *,
    distribution: str | Distribution = "gaussian",
    generator: Generator = "counter",
    key: NoiseKey,
) -> Optimizer:
    """Weight noise: the gradient taken at the parameters plus noise.

    On average that is the gradient of L smoothed, ``E L(p + n)``, which is high in narrow minima.
    Stands before the optimizer with the learning rate: ``chain(weight_noise(0.01, key=key),
    sgd(0.1))``. The value reported is that at ``p + n``. Batches and the layers' own randomness are
    as without it.

    Update:    grad L(p_t + n_t), every entry of n_t drawn independently with standard deviation
        `std`

    Args:
        std: standard deviation of n, or several by patterns over paths, as in `gradient_noise`.
        distribution: as in `gradient_noise`.
        generator: as in `gradient_noise`.
        key: as in `gradient_noise`.
    Raises:    InputError as `gradient_noise` does, and where it is not handed the gradient as a
        function, outside of `fnn.train_step`.
    Source:    Zhou et al. 2019, arXiv:1909.03172, algorithm 1; Bisla, Wang and Choromanska 2022,
        arXiv:2201.08025, eq. 3.

    >>> import fnn, jax, jax.numpy as jnp
    >>> optimizer = fnn.optim.chain(weight_noise(0.1, key=jax.random.key(0)), fnn.optim.sgd(0.1))
    >>> wells = fnn.landscapes.double_well()
    >>> path = fnn.landscapes.descend(optimizer, wells, [1.5], steps=100)
    >>> bool(0.7 < path.points[-1, 0] < 1.1)
    True

    """
    source = noise("std", std, key, distribution, generator, "weight_noise")

    def step(
        gradient_at: GradientAt, params: Params, state: NoiseState, /
    ) -> tuple[tuple[Scalar, PyTree], Updates, NoiseState]:
        value_and_aux, grads = gradient_at(added(params, source.draw(state, params)))
        return value_and_aux, grads, state.following()

    return from_step(source.init, step)


def _minus(new: Array | None, old: Array | None) -> Array | None:
    """Subtract two noises, each of which may be none."""
    if old is None:
        return new
    return -old if new is None else new - old
