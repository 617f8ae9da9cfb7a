"""Two gradients side by side, leaf by leaf: where they differ most, and what that looks like."""

from __future__ import annotations

import textwrap
from typing import Any, NamedTuple

import jax
import numpy as np

from fnn._core.table import table
from fnn._core.types import PyTree
from fnn.lab.diagnose import guess


class Agreement(NamedTuple):
    """How well two gradients of one leaf agree, and where they differ most.

    `error` is the largest difference over the largest number of the whole gradient tree: a leaf
    that is zero by symmetry, such as a bias in front of a batch norm, has no scale of its own.
    `guess` names the mistake that a leaf in error looks like, where there is a guess.
    """

    leaf: str
    against: str
    error: float
    bound: float
    place: tuple[int, ...]
    value: float
    reference: float
    guess: str = ""

    @property
    def ratio(self) -> float:
        """The value over its reference: -1 tells a sign, 2 a factor."""
        return self.value / self.reference if self.reference else float("nan")

    @property
    def agrees(self) -> bool:
        """Whether the error is within the bound; a NaN is not."""
        return self.error <= self.bound

    def sentence(self) -> str:
        """Say where the two differ most, by how much, and what it looks like."""
        guess = f"; guess: {self.guess}" if self.guess else ""
        return textwrap.fill(
            f"{self.leaf} is {self.value:.4g} at {list(self.place)}, and {self.reference:.4g} by"
            f" {self.against}: ratio {self.ratio:.4g}{guess}",
            width=80,
            subsequent_indent="  ",
            break_long_words=False,
        )


class Report(NamedTuple):
    """Agreements of every leaf; prints as a table."""

    rows: tuple[Agreement, ...]

    @property
    def agrees(self) -> bool:
        """Whether all leaves agree."""
        return all(row.agrees for row in self.rows)

    def __str__(self) -> str:
        cells = [
            (
                row.leaf,
                row.against,
                f"{row.error:.1e}",
                f"{row.bound:.1e}",
                "yes" if row.agrees else "NO",
            )
            for row in self.rows
        ]
        wrong = [row.sentence() for row in self.rows if not row.agrees]
        header = ("leaf", "manual against", "error", "bound", "agrees")
        return "\n".join([table(header, cells), *wrong])


class GradientError(AssertionError):
    """A hand-derived gradient that is not the derivative; the message is the checker's table."""


def agreements(
    gradient: Any, reference: Any, against: str, bound: float, x_shape: tuple[int, ...] = ()
) -> list[Agreement]:
    """Compare ``(dparams, dx)`` with a reference, leaf by leaf, in float64.

    `x_shape` is the shape of the layer's input, which helps to guess at mistakes.
    """
    named, right = ({"dparams": of[0], "dx": of[1]} for of in (gradient, reference))
    return leafwise(named, right, against, bound, x_shape)


def leafwise(
    tree: PyTree, reference: PyTree, against: str, bound: float, x_shape: tuple[int, ...] = ()
) -> list[Agreement]:
    """Compare two trees leaf by leaf, in float64, on the scale of the whole reference."""
    named, right = jax.tree.leaves_with_path(tree), jax.tree.leaves(reference)
    if len(named) != len(right):
        raise GradientError(
            f"got the structure {jax.tree.structure(tree)}, and by {against} it is "
            f"{jax.tree.structure(reference)}"
        )
    scale = largest(right)
    rows = []
    for (path, leaf), other in zip(named, right, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        rows.append(_agreement(name, against, bound, scale, leaf, other, x_shape))
    return rows


def _agreement(
    leaf: str,
    against: str,
    bound: float,
    scale: float,
    value: Any,
    reference: Any,
    x_shape: tuple[int, ...],
) -> Agreement:
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    if value.shape != reference.shape:
        likely = guess(value, reference, 0.0)
        raise GradientError(
            f"{leaf} has shape {value.shape}, and should have {reference.shape}"
            + (f"; guess: {likely}" if likely else "")
        )
    apart = np.abs(value - reference)
    if not apart.size:
        return Agreement(leaf, against, 0.0, bound, (), 0.0, 0.0)
    # argmax takes the first NaN for the largest number, which is what should be shown.
    index = np.unravel_index(int(apart.argmax()), apart.shape)
    place = tuple(int(i) for i in index)
    # A gradient that is zero throughout has no scale: then the error is absolute.
    error = float(apart[place]) / (scale or 1.0)
    right = error <= bound
    likely = "" if right else guess(value, reference, bound * (scale or 1.0), x_shape)
    at = float(value[place]), float(reference[place])
    return Agreement(leaf, against, error, bound, place, *at, likely)


def largest(tree: PyTree) -> float:
    """Return the largest absolute value of all numbers of a tree, 0 for none."""
    return max((float(np.abs(leaf).max(initial=0)) for leaf in jax.tree.leaves(tree)), default=0.0)
