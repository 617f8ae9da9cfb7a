"""Differentially private descent: no single example shows in the parameters by much."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe, entry
from fnn._core.extras import require
from fnn._core.mesh import scan
from fnn._core.types import (
    Array,
    Data,
    Grads,
    Input,
    Key,
    Number,
    Params,
    PyTree,
    Scalar,
    State,
    Unchecked,
)
from fnn.gradient.objective import (
    Estimator,
    Gradient,
    ValueAndGrad,
    ValueStateGrads,
    as_batch,
    nesting,
    value_and_grad,
)
from fnn.layer import Layer
from fnn.losses import Loss
from fnn.optim._hyperparameters import cast_like
from fnn.optim._moving_average import safe_divide, zeros
from fnn.optim._norms import global_norm
from fnn.optim.noise._base import NoiseState, added, noise as noise_of
from fnn.optim.noise._random_bits import Generator
from fnn.optim.optimizer import tree_map_like

# Far from the small numbers that a model may fold into the key of a step.
_STREAM = 0x70726976

# x, targets and keys of some examples
_Examples: TypeAlias = tuple[Input, Array, Array]


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
    any optimizer that asks for one gradient a step. The gradients are added one after the other, in
    float32 or better, and the memory is that of two of them.

    `privacy_spent` says what a training costs. Its reckoning supposes that every example is in a
    batch by chance, independently; batches of a shuffled set, as `fnn.fit` makes them, are close to
    that and not the same. The noise comes from the key of the step; the reckoning supposes exact
    numbers too, and nothing guards against attacks on the rounding of floats.

    Args:
        limit: the largest norm of the gradient of an example, > 0.
        noise: the standard deviation of the noise, as a multiple of the limit, 0 or more.
        at_once: how many gradients `jax.vmap` takes at a time, and keeps: faster where one example
            is little work, slower where so many gradients do not fit into caches.
        gradient: how those of the examples are taken, in batches of one.
        generator: of the random bits, ``"threefry"`` or ``"counter"``.
    Raises:    InputError for a limit that is not positive, a negative noise, `at_once` below 1, a
        missing key, a model with running state (which mixes examples) and weighted examples.
    Source:    Abadi et al. 2016, arXiv:1607.00133, algorithm 1.

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
    check.one_of(generator, "generator", get_args(Generator))

    def of(model: Layer, loss: Loss) -> ValueAndGrad:
        plain = value_and_grad(model, loss, gradient)
        options = _Options(plain, limit, noise, at_once, generator, nesting(gradient))
        return functools.partial(_private, options)

    return Estimator(of)


class _Options(NamedTuple):
    """The arguments of the constructor, and the gradient of one example."""

    plain: ValueAndGrad
    limit: Number
    noise: Number
    at_once: int
    generator: Generator
    depth: int


def _private(
    options: _Options, params: Params, state: State, batch: Data, /, *, key: Key = None
) -> ValueStateGrads:
    """Return value, state and private gradient."""
    x, target, weights = as_batch(batch)
    key = check.key(key)
    _check(state, target, weights)
    own = jax.random.fold_in(key, _STREAM + options.depth)
    target = jnp.asarray(target)
    examples = target.shape[0]
    given = x, target, jax.random.split(key, examples)
    add = functools.partial(_add_clipped, options, params, state)
    total, values = _scanned(add, zeros(params), given, examples, options.at_once)
    deviation = options.noise * options.limit
    source = noise_of("noise", deviation, own, "gaussian", options.generator)
    total = added(total, source.draw(NoiseState(own, jnp.int32(0)), total))
    return (values.mean(), state), tree_map_like(lambda p, t: t / examples, params, total)


def _add_clipped(
    options: _Options, params: Params, state: State, total: Grads, some: _Examples
) -> tuple[Grads, Array]:
    """Add the clipped gradients of some examples to a sum, and return their values."""
    of_one = functools.partial(_of_one, options, params, state)
    values, shares, grads = jax.vmap(of_one)(*some)
    return tree_map_like(lambda t, g: t + _mixed(shares, g, t.dtype), total, grads), values


def _of_one(
    options: _Options, params: Params, state: State, x: Input, target: Array, key: Array
) -> tuple[Array, Array, Grads]:
    """Return the value of one example, the share of its gradient that is kept, and the gradient."""
    one = jax.tree.map(lambda a: a[None], (x, target))
    (value, _), grads = options.plain(params, state, one, key=key)
    return value, _shrinkage(global_norm(grads), options.limit), grads


def _shrinkage(norm: Array, limit: Scalar) -> Array:
    """Return ``min(1, limit / norm)``, and 1 for a norm of 0."""
    longest = cast_like(limit, norm)
    return safe_divide(longest, norm, norm > longest)


def _scanned(
    add: Callable[[Grads, PyTree], tuple[Grads, Array]],
    total: Grads,
    given: PyTree,
    examples: int,
    at_once: int,
) -> tuple[Grads, Array]:
    """Scan over examples, `at_once` at a time, and over what is left of them by itself."""
    if examples <= at_once:
        return add(total, given)
    left = examples % at_once
    whole = jax.tree.map(lambda a: a[: examples - left].reshape(-1, at_once, *a.shape[1:]), given)
    total, values = scan(add, total, whole)
    values = values.reshape(-1)
    if left:
        total, more = add(total, jax.tree.map(lambda a: a[-left:], given))
        values = jnp.concatenate([values, more])
    return total, values


def _mixed(shares: Array, grads: Array, dtype: Unchecked) -> Array:
    """Return ``sum_b share_b g_b``: as a product, for a sum would make every g_b again inside."""
    exact = jax.lax.Precision.HIGHEST
    return jnp.tensordot(shares.astype(dtype), grads.astype(dtype), 1, precision=exact)


def _check(state: State, target: Unchecked, weights: Unchecked) -> None:
    """Raise for what is not private, or no batch."""
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
    if not np.shape(target) or not np.shape(target)[0]:
        raise InputError("at least one example", describe(target), "leave out empty batches")


@entry
def privacy_spent(noise: float, batch_size: int, examples: int, steps: int, delta: float) -> float:
    """Return the epsilon of (epsilon, delta)-differential privacy after some steps of `dp_sgd`.

    With probability ``1 - delta`` no output is ``e^epsilon`` times likelier with one example more
    or less in the data. By the privacy loss distribution of the subsampled Gaussian mechanism, from
    the package dp-accounting, for batches drawn by chance at the rate ``batch_size / examples``.

    Args:
        noise: that of `dp_sgd`, > 0.
        batch_size: examples in a batch, 1 or more.
        examples: of the data, at least as many.
        steps: how many batches, 1 or more.
        delta: in (0, 1), less than 1 / examples.
    Raises:    InputError for noise that is not positive, counts below 1, a batch above the examples
        or a delta outside (0, 1); ImportError without the extra ``private``.
    Source:    Koskela et al. 2020, arXiv:1906.03049; Doroshenko et al. 2022, arXiv:2207.04380.

    """
    check.number(noise, "noise", above=0, remedy="without noise nothing is private")
    for name, count in (("batch_size", batch_size), ("examples", examples), ("steps", steps)):
        check.count(count, name)
    if batch_size > examples:
        raise InputError(
            f"a batch_size of at most {examples} examples", str(batch_size), "lower it"
        )
    check.number(delta, "delta", above=0, below=1, remedy="pass less than 1 / examples")
    accounting = require("dp_accounting", "privacy_spent", "private")
    loss = require("dp_accounting.pld", "privacy_spent", "private")
    event = accounting.PoissonSampledDpEvent(
        int(batch_size) / int(examples), accounting.GaussianDpEvent(float(noise))
    )
    return float(loss.PLDAccountant().compose(event, int(steps)).get_epsilon(float(delta)))
