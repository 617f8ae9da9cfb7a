"""Differences of a function along random directions: a few evaluations for all of its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from fnn._core.types import Array, PyTree
from fnn.lab.tolerance import difference, rounding

# Each entry moves by a step, one way or the other. A long step bends with the function, and crosses
# kinks of a relu somewhere among thousands of units; a short one drowns in rounding. Which is best
# depends on the function: a ladder is tried.
_RATIO = 8
STEPS = tuple(1e-5 / _RATIO**i for i in range(5))


class Direction(NamedTuple):
    """Directional derivative: a slope by differences, and that of a gradient.

    Args:
        of: the path of the leaf that moves, or ``"params"`` or ``"x"`` where all of them do.
        numeric: the slope by differences in float64.
        auto: the product of the gradient by autodiff with the direction.
        error: their distance, relative to the norm of the whole gradient.
        doubt: how much a shorter step changes the difference, relative to the same.
        kink: whether the function has a kink here in this direction, where a difference is the mean
            of two slopes and says nothing.

    """

    of: str
    numeric: float
    auto: float
    error: float
    doubt: float
    kink: bool


def draw_signs(key: Array, tree: PyTree, count: int) -> list[np.ndarray]:
    """Return directions: for each leaf of a tree signs of shape ``(count, *leaf.shape)``.

    Signs, since a normal value may be near 0, and what is wrong at its entry then hides.

    Args:
        key: of the draw.
        tree: arrays.
        count: how many directions.
    """
    # By NumPy, since a draw in JAX is a program to compile.
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    shapes = [(count, *leaf.shape) for leaf in jax.tree.leaves(tree)]
    return [1 - 2 * random.integers(0, 2, shape, np.int8) for shape in shapes]


def directions(
    function: Callable[[PyTree], Array],
    tree: PyTree,
    gradient: PyTree,
    signs: Sequence[np.ndarray],
    groups: Sequence[str],
    terms: int,
) -> tuple[Direction, ...]:
    """Compare slopes of a function along directions with its gradient.

    Args:
        function: of a tree, to one value; it computes in float64.
        tree: floating arrays, the place.
        gradient: that of the function by autodiff.
        signs: the directions.
        groups: for each leaf what it moves with: the others then do not move.
        terms: the number of terms in the longest sum of the function.
    """
    grads = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(gradient)]
    scale = _norm(grads) or 1.0
    enough = difference("float64", terms) * scale
    here = float(function(tree))
    noise = rounding("float64", terms) * abs(here)
    found = []
    for name in dict.fromkeys(groups):
        own = [group == name for group in groups]
        for k in range(len(signs[0])):
            direction = [sign[k] * moves for sign, moves in zip(signs, own, strict=True)]
            slope, doubt, kink = _settle(here, _ends(function, tree, direction), enough, noise)
            expected = sum(float(np.vdot(*pair)) for pair in zip(grads, direction, strict=True))
            error = abs(slope - expected) / scale
            found.append(Direction(name, slope, expected, error, doubt / scale, kink))
    return tuple(found)


def _ends(
    function: Callable[[PyTree], Array], tree: PyTree, direction: Sequence[np.ndarray]
) -> Iterator[tuple[float, float]]:
    """Yield the values at both ends of every step along a direction."""
    leaves, structure = jax.tree.flatten(tree)
    # Moved by NumPy, and not in the program of the function, which would take longer to compile.
    leaves = [np.asarray(leaf, np.float64) for leaf in leaves]
    for step in STEPS:
        up, down = (
            [leaf + signed * by for leaf, by in zip(leaves, direction, strict=True)]
            for signed in (step, -step)
        )
        forwards, backwards = (function(jax.tree.unflatten(structure, end)) for end in (up, down))
        yield float(forwards), float(backwards)


def _settle(
    here: float, ends: Iterable[tuple[float, float]], enough: float, noise: float
) -> tuple[float, float, bool]:
    """Return the slope that the one of a longer step confirms best, their distance, and a kink.

    `ends` are the values at the two ends of every step; no more of them are looked at than it takes
    to find two slopes that are `enough` alike. The second difference over the step falls with the
    step where a function bends, and stays as it is at a kink. What rounding makes of it, `noise`
    over the step, grows instead, and is none.
    """
    best, coarse = (math.nan, math.inf, False), (math.nan, math.nan)
    for step, (up, down) in zip(STEPS, ends, strict=False):
        slope, jump = (up - down) / (2 * step), abs(up - 2 * here + down) / step
        apart = abs(slope - coarse[0])
        if apart < best[1]:
            seen = max(8 * apart + noise / step, 0.75 * coarse[1])
            best = slope, apart, math.isfinite(jump) and jump > seen
        if apart <= enough:
            break
        coarse = slope, jump
    return best


def _norm(leaves: Sequence[np.ndarray]) -> float:
    """Return the norm of all finite entries."""
    return float(np.sqrt(sum(np.square(leaf[np.isfinite(leaf)]).sum() for leaf in leaves)))
