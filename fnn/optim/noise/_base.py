"""What all noise shares: a key, a scale for every leaf, a distribution, a generator.

Two noises that are given the same key draw different numbers: the kind of a noise is folded into
its key, and within one optimizer its place among the noises there (`separate`).
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.types import Array, OptState, Params, PyTree, Scalar
from fnn.optim._hyperparameters import Hyperparameter, cast_like, resolve
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

    def following(self) -> NoiseState:
        """Return the state of the next step."""
        return NoiseState(self.key, self.step + 1)


class Noise(NamedTuple):
    """How to draw noise, all options checked; see `noise`."""

    scale: Scale
    distribution: Distribution
    generator: Generator
    key: Array
    kind: str

    def init(self, params: Params) -> NoiseState:
        """Return the state before the first step: the key with the kind of noise folded in.

        Raises `InputError` for a pattern that matches no leaf.
        """
        if isinstance(self.scale, Mapping):
            by_leaf(self.scale, params)
        # A new array even without a kind: training gives its state's buffers away, and the key is
        # the caller's.
        number = zlib.crc32(self.kind.encode()) >> 1
        key = jax.random.fold_in(self.key, number) if self.kind else jnp.array(self.key)
        return NoiseState(key, jnp.int32(0))

    def draw(
        self,
        state: NoiseState,
        tree: PyTree,
        deviation: Callable[[Scalar], Scalar] = lambda scale: scale,
    ) -> list[Array | None]:
        """Return the noise of a step for every leaf of a tree; None where the scale is plainly 0.

        Of float32, or float64 for leaves of that: ``deviation(scale) n``. Every step has a key of
        its own, and within it every leaf one.
        """
        deviations = [
            None if check.is_zero(value) else deviation(value)
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

    def scales(self, tree: PyTree, step: Scalar) -> list[Scalar]:
        """Return the scale of every leaf at a step."""
        if isinstance(self.scale, Mapping):
            return [resolve(s, step) for s in by_leaf(self.scale, tree, default=0.0)]
        return [resolve(self.scale, step)] * len(jax.tree.leaves(tree))

    def _factor(self, standard: dict[int, Array], key: Array) -> Array | None:
        """Return what brings all numbers together to the norm that the distribution wants."""
        if self.distribution.norm == "free":
            return None
        squares = sum((jnp.sum(jnp.square(n)) for n in standard.values()), jnp.float32(0))
        # Of a single number, one in some 2^25 is 0: it has no direction, and stays.
        norm = 1 / jnp.sqrt(jnp.where(squares > 0, squares, 1))
        if self.distribution.norm == "sphere":
            return norm
        count = sum(math.prod(n.shape) for n in standard.values())
        inside = (bits(key, (), self.generator) >> 8).astype(jnp.int32).astype(jnp.float32) + 1
        return norm * (inside * 2.0**-24) ** (1 / max(count, 1))


def noise(
    name: str,
    scale: Scale,
    key: Array,
    distribution: str | Distribution,
    generator: Generator,
    kind: str = "",
) -> Noise:
    """Check the options of an optimizer with noise, and return how to draw it.

    Args:
        name: what the scale is called.
        scale: the size of the noise.
        key: where it comes from.
        distribution: its name, or itself.
        generator: the name of the generator.
        kind: the name of the optimizer; those of different names draw different numbers from one
            key.
    Raises:    InputError for a negative scale, no key, no such distribution or generator.

    """
    if isinstance(scale, Mapping):
        for pattern, value in scale.items():
            check.hyperparameter(value, f"{name} for {pattern!r}", least=0)
    else:
        check.hyperparameter(scale, name, least=0)
    check_generator(generator)
    return Noise(scale, distribution_of(distribution), generator, check.key(key), kind)


def separate(opt_state: OptState) -> OptState:
    """Give every noise in the state of an optimizer a stream of its own, by its place there.

    The first one keeps its stream, so that a noise alone and in a chain draws the same numbers.

    >>> source = noise("std", 1.0, jax.random.key(0), "gaussian", "counter")
    >>> one, other = separate((source.init(()), source.init(())))
    >>> bool(one.key == other.key), bool(one.key == jax.random.key(0))
    (False, True)
    """
    places = itertools.count()

    def own(node: PyTree) -> PyTree:
        if not isinstance(node, NoiseState):
            return node
        place = next(places)
        return node._replace(key=jax.random.fold_in(node.key, place)) if place else node

    return jax.tree.map(own, opt_state, is_leaf=lambda node: isinstance(node, NoiseState))


def added(tree: PyTree, noise: list[Array | None]) -> PyTree:
    """Add noise to the leaves of a tree, which keep their dtype; None leaves every bit as it is."""
    leaves, structure = jax.tree.flatten(tree)
    sums = [
        leaf if n is None else (leaf.astype(n.dtype) + n).astype(leaf.dtype)
        for leaf, n in zip(leaves, noise, strict=True)
    ]
    return jax.tree.unflatten(structure, sums)
