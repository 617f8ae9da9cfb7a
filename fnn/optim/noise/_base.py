"""What all noise shares: a key, a scale for every leaf, a distribution, a generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.types import Array, PyTree
from fnn.optim._hyperparameters import Hyperparameter, cast_like, check_number, resolve
from fnn.optim._moving_average import wide
from fnn.optim._paths import by_leaf
from fnn.optim.noise._random_bits import Generator, bits, check_generator, streams
from fnn.optim.noise.distributions import Distribution, distribution_of

Scale: TypeAlias = Hyperparameter | Mapping[str, Hyperparameter]
"""One for all leaves, or by patterns over their paths; a leaf that no pattern matches gets none."""


class NoiseState(NamedTuple):
    """The key that all noise comes from, and the step count."""

    key: Array
    step: Array


class Noise(NamedTuple):
    """How to draw noise, all options checked; see `noise`."""

    scale: Scale
    distribution: Distribution
    generator: Generator

    def draw(
        self, state: NoiseState, tree: PyTree, deviation: Callable[[Any], Any] = lambda scale: scale
    ) -> list[Array | None]:
        """Return the noise of a step for every leaf of a tree; None where the scale is plainly 0.

        Of float32, or float64 for leaves of that: ``deviation(scale) n``. Every step has a key of
        its own, and within it every leaf one.
        """
        deviations = [
            None if isinstance(value, int | float) and value == 0 else deviation(value)
            for value in self.scales(tree, state.step)
        ]
        leaves = jax.tree.leaves(tree)
        noisy = [i for i, value in enumerate(deviations) if value is not None]
        if not noisy:
            return [None] * len(leaves)
        words = self.distribution.words
        keys = streams(state.key, state.step, words * len(leaves) + 1, self.generator)
        standard = {
            i: self.distribution.numbers(
                *(bits(keys[words * i + j], leaves[i].shape, self.generator) for j in range(words))
            )
            for i in noisy
        }
        factor = self._factor(standard, keys[-1])
        noise: list[Array | None] = [None] * len(leaves)
        for i, n in standard.items():
            n = n.astype(wide(leaves[i]))
            noise[i] = cast_like(deviations[i], n) * (
                n if factor is None else n * cast_like(factor, n)
            )
        return noise

    def scales(self, tree: PyTree, step: Any) -> list[Any]:
        """Return the scale of every leaf at a step."""
        if isinstance(self.scale, Mapping):
            return [resolve(s, step) for s in by_leaf(self.scale, tree, default=0.0)]
        return [resolve(self.scale, step)] * len(jax.tree.leaves(tree))

    def _factor(self, standard: dict[int, Array], key: Any) -> Array | None:
        """Return what brings all numbers together to the norm that the distribution wants."""
        if self.distribution.norm == "free":
            return None
        squares = sum((jnp.sum(jnp.square(n)) for n in standard.values()), jnp.float32(0))
        norm = 1 / jnp.sqrt(squares)
        if self.distribution.norm == "sphere":
            return norm
        count = sum(math.prod(n.shape) for n in standard.values())
        inside = (bits(key, (), self.generator) >> 8).astype(jnp.int32).astype(jnp.float32) + 1
        return norm * (inside * 2.0**-24) ** (1 / count)


def noise(
    name: str, scale: Scale, key: Any, distribution: str | Distribution, generator: Generator
) -> Noise:
    """Check the options of an optimizer with noise, and return how to draw it.

    Raises `fnn.InputError` for a negative scale, a missing key, a distribution or generator of no
    such name; and when drawing, for a pattern that matches no leaf.
    """
    if isinstance(scale, Mapping):
        for pattern, value in scale.items():
            check_number(f"{name} for {pattern!r}", value)
    else:
        check_number(name, scale)
    check.key(key)
    check_generator(generator)
    return Noise(scale, distribution_of(distribution), generator)


def start(key: Any) -> NoiseState:
    """Return the state of noise before the first step."""
    # A copy: training gives its state's buffers away, and the key is the caller's.
    return NoiseState(jnp.array(key), jnp.int32(0))


def added(tree: PyTree, noise: list[Array | None]) -> PyTree:
    """Add noise to the leaves of a tree, which keep their dtype; None leaves every bit as it is."""
    leaves, structure = jax.tree.flatten(tree)
    sums = [
        leaf if n is None else (leaf.astype(n.dtype) + n).astype(leaf.dtype)
        for leaf, n in zip(leaves, noise, strict=True)
    ]
    return jax.tree.unflatten(structure, sums)
