"""Noise injection: chance added to the gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.errors import InputError, describe
from fnn.layer import Array, Key, PyTree
from fnn.optim.rule import Hyper, UpdateRule, at_step, cast, check_number
from fnn.origin import constructor


class NoiseState(NamedTuple):
    """The key that all noise comes from, and the step count."""

    key: Array
    step: Array


@constructor
def gradient_noise(eta: Hyper, gamma: float = 0.55, *, key: Key = None) -> UpdateRule:
    """Add Gaussian noise to the gradient, annealed from step to step.

    ``g_t + n_t`` with every number of ``n_t`` drawn from a normal of mean 0 and variance
    ``eta / (1 + t)^gamma``, t counted from 0. Stands before the learning rate, which scales the
    noise too, and after clipping: ``chain(clip_by_global_norm(1.0), gradient_noise(0.01, key=key),
    sgd(0.1))``. Each step has a key of its own, and within it each leaf one.

    Raises `fnn.InputError` for a negative eta or a missing key. Source: Neelakantan et al. 2015,
    arXiv:1511.06807, eq. 1; there eta is 0.01, 0.3 or 1 and gamma 0.55.

    >>> import jax, jax.numpy as jnp
    >>> rule = gradient_noise(0.01, key=jax.random.key(0))
    >>> params = jnp.zeros(10_000)
    >>> noisy, state = rule.update(params, rule.init(params), params)
    >>> bool(abs(noisy.std() - 0.1) < 0.005)
    True
    """
    check_number("optim.gradient_noise", "eta", eta)
    check_key("optim.gradient_noise", key)

    def init(params: PyTree, /) -> NoiseState:
        del params
        # A copy: training gives its state's buffers away, and the key is the caller's.
        return NoiseState(jnp.array(key), jnp.int32(0))

    def update(grads: PyTree, state: NoiseState, params: PyTree, /) -> tuple[PyTree, NoiseState]:
        del params
        decay = (1.0 + state.step.astype(jnp.float32)) ** gamma
        deviation = jnp.sqrt(cast(at_step(eta, state.step), decay) / decay)
        leaves, structure = jax.tree.flatten(grads)
        keys = jax.random.split(jax.random.fold_in(state.key, state.step), len(leaves))
        noisy = [
            g + cast(deviation, g) * jax.random.normal(k, g.shape, g.dtype)
            for g, k in zip(leaves, keys, strict=True)
        ]
        return jax.tree.unflatten(structure, noisy), NoiseState(state.key, state.step + 1)

    return UpdateRule(init, update)


def check_key(where: str, key: Any) -> None:
    """Raise `InputError` unless `key` is a key of `jax.random`."""
    dtype = getattr(key, "dtype", None)
    if dtype is None or not (jnp.issubdtype(dtype, jax.dtypes.prng_key) or dtype == jnp.uint32):
        raise InputError(
            where, "a key", describe(key), "make one from a seed with jax.random.key(0)"
        )
