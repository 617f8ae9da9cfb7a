"""Differentially private descent: no single example shows in the parameters by much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe, entry
from fnn._core.extras import require
from fnn._core.types import Array, Key, Number, PyTree
from fnn.gradient.objective import Estimator, Gradient, ValueAndGrad, as_batch, value_and_grad
from fnn.layer import Layer
from fnn.losses import Loss
from fnn.optim._moving_average import zeros
from fnn.optim.noise._base import NoiseState, added, noise as noise_of
from fnn.optim.noise._random_bits import Generator
from fnn.optim.optimizer import tree_map_like
from fnn.optim.transforms.clip import global_norm, shrinkage

# Far from the small numbers that a model may fold into the key of a step.
_STREAM = 0x70726976


@constructor
def dp_sgd(
    limit: Number,
    noise: Number,
    *,
    at_once: int = 1,
    gradient: Gradient = "manual",
    generator: Generator = "threefry",
) -> Estimator:
    """Private gradient (DP-SGD): per-example gradients clipped and summed, noise added.

    ``(sum_b g_b min(1, limit / |g_b|) + noise limit n) / B`` with ``g_b`` the gradient of the loss
    of example b alone, its norm over all parameters, and n standard normal. It stands in the place
    of the gradient's name, ``fnn.fit(..., fnn.optim.sgd(0.1), gradient=dp_sgd(1.0, 1.1))``, before
    any optimizer that asks for one gradient a step; `gradient` says how those of the examples are
    taken, in batches of one. They are added one after the other, in float32 or better, and the
    memory is that of two gradients. With `at_once` as many at a time are taken by `jax.vmap`, and
    kept: faster where one example is little work, slower where so many gradients do not fit into
    caches.

    `privacy_spent` says what a training costs. Its reckoning supposes that every example is in a
    batch by chance, independently; batches of a shuffled set, as `fnn.fit` makes them, are close to
    that and not the same. The noise comes from the key of the step, by Threefry; the reckoning
    supposes exact numbers too, and nothing guards against attacks on the rounding of floats.

    Raises `fnn.InputError` for a limit that is not positive, a negative noise, `at_once` below 1, a
    missing key, a model with running state (which mixes examples) and weighted examples. Source:
    Abadi et al. 2016, arXiv:1607.00133, algorithm 1.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model, loss = fnn.dense(1), fnn.losses.squared_error()
    >>> params = {"weight": jnp.array([[1.0]]), "bias": jnp.array([0.0])}
    >>> batch = jnp.array([[0.0], [0.0]]), jnp.array([[50.0], [-0.125]])
    >>> private = fnn.value_and_grad(model, loss, dp_sgd(1.0, noise=0.0))
    >>> private(params, (), batch, key=jax.random.key(0))[1]["bias"]  # (-1 + 0.25) / 2
    Array([-0.375], dtype=float32)
    """
    check.number(limit, "limit", above=0, remedy="pass one such as 1.0")
    check.number(noise, "noise", least=0, remedy="pass one such as 1.1")
    check.count(at_once, "at_once")

    def of(model: Layer, loss: Loss) -> ValueAndGrad:
        plain = value_and_grad(model, loss, gradient)

        def private(
            params: PyTree, state: PyTree, batch: Any, /, *, key: Key = None
        ) -> tuple[tuple[Array, PyTree], PyTree]:
            x, target, weights = as_batch(batch)
            key = check.key(key)
            _check(state, weights)
            own = jax.random.fold_in(key, _STREAM)
            target = jnp.asarray(target)
            examples = target.shape[0]

            def of_one(x: Any, target: Array, key: Array) -> tuple[Array, Array, PyTree]:
                one = jax.tree.map(lambda a: a[None], (x, target))
                (value, _), grads = plain(params, state, one, key=key)
                return value, shrinkage(global_norm(grads), limit), grads

            def add(total: PyTree, some: Any) -> tuple[PyTree, Array]:
                values, shares, grads = jax.vmap(of_one)(*some)
                return tree_map_like(
                    lambda t, g: t + _mixed(shares, g, t.dtype), total, grads
                ), values

            given = x, target, jax.random.split(key, examples)
            total, values = _scanned(add, zeros(params), given, examples, at_once)
            source = noise_of("noise", noise * limit, own, "gaussian", generator)
            total = added(total, source.draw(NoiseState(own, jnp.int32(0)), total))
            return (values.mean(), state), tree_map_like(lambda p, t: t / examples, params, total)

        return private

    return Estimator(of)


def _scanned(
    add: Callable[[PyTree, PyTree], tuple[PyTree, Array]],
    total: PyTree,
    given: PyTree,
    examples: int,
    at_once: int,
) -> tuple[PyTree, Array]:
    """Scan over examples, `at_once` at a time, and over what is left of them by itself."""
    if examples <= at_once:
        return add(total, given)
    left = examples % at_once
    whole = jax.tree.map(lambda a: a[: examples - left].reshape(-1, at_once, *a.shape[1:]), given)
    total, values = jax.lax.scan(add, total, whole)
    values = values.reshape(-1)
    if left:
        total, more = add(total, jax.tree.map(lambda a: a[-left:], given))
        values = jnp.concatenate([values, more])
    return total, values


def _mixed(shares: Array, grads: Array, dtype: Any) -> Array:
    """Return ``sum_b share_b g_b``: as a product, for a sum would make every g_b again inside."""
    exact = jax.lax.Precision.HIGHEST
    return jnp.tensordot(shares.astype(dtype), grads.astype(dtype), 1, precision=exact)


def _check(state: PyTree, weights: Any) -> None:
    if jax.tree.leaves(state):
        raise InputError(
            "a model without running state",
            f"{len(jax.tree.leaves(state))} arrays of it",
            "use a norm that looks at one example, as fnn.layer_norm() or fnn.group_norm(...)",
        )
    if weights is not None:
        raise InputError(
            "examples without weights", describe(weights), "leave out the unwanted ones"
        )


@entry
def privacy_spent(noise: float, batch_size: int, examples: int, steps: int, delta: float) -> float:
    """Return the epsilon of ``(epsilon, delta)``-differential privacy after some steps of `dp_sgd`.

    With probability ``1 - delta`` no output is ``e^epsilon`` times likelier with one example more
    or less in the data. By the privacy loss distribution of the subsampled Gaussian mechanism, from
    the package dp-accounting, for batches drawn by chance at the rate ``batch_size / examples``.

    Raises `fnn.InputError` for noise that is not positive, counts below 1, a batch above the
    examples or a delta outside (0, 1); ImportError without the extra ``private``. Source: Koskela
    et al. 2020, arXiv:1906.03049; Doroshenko et al. 2022, arXiv:2207.04380.
    """
    if not noise > 0:
        raise InputError("noise above 0", describe(noise), "without noise nothing is private")
    for name, count in (("batch_size", batch_size), ("examples", examples), ("steps", steps)):
        if not check.is_count(count, 1):
            raise InputError(f"{name} of 1 or more", describe(count), "pass an int")
    if batch_size > examples:
        raise InputError(
            f"a batch_size of at most {examples} examples", str(batch_size), "lower it"
        )
    if not 0 < delta < 1:
        raise InputError("a delta in (0, 1)", describe(delta), "pass less than 1 / examples")
    accounting = require("dp_accounting", "privacy_spent", "private")
    loss = require("dp_accounting.pld", "privacy_spent", "private")
    event = accounting.PoissonSampledDpEvent(
        batch_size / examples, accounting.GaussianDpEvent(noise)
    )
    return float(loss.PLDAccountant().compose(event, steps).get_epsilon(delta))
