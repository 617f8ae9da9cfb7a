"""Toy data in one and two dimensions: what a network can and cannot do is seen at a look."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fnn._core import check
from fnn._core.errors import entry
from fnn._core.keys import words_of
from fnn._core.types import Array
from fnn.datasets._dataset import Dataset

_EDGE = 3.0


@entry
def spirals(
    examples: int = 400, *, key: Array, classes: int = 2, turns: float = 1.0, std: float = 0.1
) -> Dataset:
    """Interleaved spirals: one arm for each class, which no line can part.

    Forward:   x = 3 t (cos a, sin a) + std n, a = 2 pi (turns t + label / classes), with t uniform
        in [0.1, 1] and n standard normal

    Args:
        examples: in each of the two parts; the classes take turns.
        key: the randomness; the same key gives the same points.
        classes: how many arms there are.
        turns: how often an arm winds around the origin, above 0.
        std: the standard deviation of the noise in each coordinate, 0 or more.
    Shapes:    points (examples, 2) float32, labels (examples,) int32, in either part
    Raises:    InputError for a count below 1, turns of 0 or less, a std below 0, and no key.
    Source:    Lang and Witbrock 1988, Learning to tell two spirals apart.

    >>> import jax
    >>> (x, labels), (test_x, test_labels) = spirals(6, key=jax.random.key(0), classes=3)
    >>> x.shape, x.dtype.name, labels
    ((6, 2), 'float32', array([0, 1, 2, 0, 1, 2], dtype=int32))
    """
    check.count(classes, "classes")
    check.number(turns, "turns", above=0)

    def draw(random: np.random.Generator, label: np.ndarray) -> np.ndarray:
        t = random.uniform(0.1, 1, len(label))
        angle = 2 * math.pi * (turns * t + label / classes)
        return _EDGE * t[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)

    return _labeled(draw, examples, classes, std, key)


@entry
def clouds(examples: int = 400, *, key: Array, classes: int = 2, std: float = 0.5) -> Dataset:
    """Gaussian clouds: one for each class, around points spread evenly on a circle.

    Forward:   x = sqrt(2) (cos a, sin a) + std n, a = pi / 4 + 2 pi label / classes, with n
        standard normal

    Args:
        examples: in each of the two parts; the classes take turns.
        key: the randomness; the same key gives the same points.
        classes: how many clouds there are.
        std: the standard deviation of a cloud in each coordinate, 0 or more.
    Shapes:    points (examples, 2) float32, labels (examples,) int32, in either part
    Raises:    InputError for a count below 1, a std below 0, and no key.

    >>> import jax
    >>> (x, labels), _ = clouds(4, key=jax.random.key(0), std=0.0)
    >>> x.round(2), labels
    (array([[ 1.,  1.],
           [-1., -1.],
           [ 1.,  1.],
           [-1., -1.]], dtype=float32), array([0, 1, 0, 1], dtype=int32))
    """
    check.count(classes, "classes")

    def draw(random: np.random.Generator, label: np.ndarray) -> np.ndarray:
        del random
        angle = math.pi / 4 + 2 * math.pi * label / classes
        return math.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], -1)

    return _labeled(draw, examples, classes, std, key)


@entry
def xor(examples: int = 400, *, key: Array, std: float = 0.4) -> Dataset:
    """Exclusive or: four clouds at the corners of a square, labeled 1 where the signs differ.

    The best line leaves a quarter of the points on the wrong side.

    Args:
        examples: in each of the two parts; the corners take turns.
        key: the randomness; the same key gives the same points.
        std: the standard deviation of a cloud in each coordinate, 0 or more.
    Shapes:    points (examples, 2) float32, labels (examples,) int32, in either part
    Raises:    InputError for a count below 1, a std below 0, and no key.
    Source:    Minsky and Papert 1969, Perceptrons.

    >>> import jax
    >>> (x, labels), _ = xor(4, key=jax.random.key(0), std=0.0)
    >>> x, labels
    (array([[ 1.,  1.],
           [-1.,  1.],
           [-1., -1.],
           [ 1., -1.]], dtype=float32), array([0, 1, 0, 1], dtype=int32))
    """
    corners = np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])

    def draw(random: np.random.Generator, label: np.ndarray) -> np.ndarray:
        del random
        return corners[np.arange(len(label)) % 4]

    return _labeled(draw, examples, 2, std, key)


@entry
def sine(examples: int = 200, *, key: Array, std: float = 0.1) -> Dataset:
    """Noisy sine: a curve to be found by regression.

    Forward:   y = sin(x) + std n, with x uniform in [-pi, pi] and n standard normal

    Args:
        examples: in each of the two parts.
        key: the randomness; the same key gives the same points.
        std: the standard deviation of the noise, 0 or more.
    Shapes:    x, y (examples, 1) float32, in either part
    Raises:    InputError for a count below 1, a std below 0, and no key.

    >>> import jax, jax.numpy as jnp
    >>> (x, y), (test_x, test_y) = sine(100, key=jax.random.key(0), std=0.0)
    >>> x.shape, bool((abs(y - jnp.sin(x)) < 1e-6).all())
    ((100, 1), True)
    """
    check.count(examples, "examples")
    check.number(std, "std", least=0)

    def part(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        x = random.uniform(-math.pi, math.pi, (examples, 1))
        y = np.sin(x) + float(std) * random.standard_normal(x.shape)
        return x.astype(np.float32), y.astype(np.float32)

    train, test = map(part, _generators(key))
    return Dataset(train, test)


def _labeled(
    draw: Callable[[np.random.Generator, np.ndarray], np.ndarray],
    examples: int,
    classes: int,
    std: float,
    key: Array,
) -> Dataset:
    """Return points where `draw` puts them for their labels, moved by normal noise."""
    check.count(examples, "examples")
    check.number(std, "std", least=0)
    label = np.arange(examples) % classes

    def part(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        x = draw(random, label)
        x += float(std) * random.standard_normal(x.shape)
        return x.astype(np.float32), label.astype(np.int32)

    train, test = map(part, _generators(key))
    return Dataset(train, test)


def _generators(key: Array) -> tuple[np.random.Generator, np.random.Generator]:
    """Return a generator of numpy for each part: a few points are not worth a compilation."""
    key = check.key(key)
    words = np.asarray(words_of(key))
    train, test = np.random.SeedSequence(words.tolist()).spawn(2)
    return np.random.default_rng(train), np.random.default_rng(test)
