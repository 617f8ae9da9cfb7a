"""Two gradients side by side, leaf by leaf: where they differ most, and what that looks like."""

from __future__ import annotations

import math
import textwrap
from typing import NamedTuple

import jax
import numpy as np

from fnn._core.table import table
from fnn._core.types import Grads, PyTree, Unchecked
from fnn.lab.diagnose import guess


class Agreement(NamedTuple):
    """Agreement of two gradients of one leaf, and where they differ most.

    Args:
        leaf: the path of the leaf.
        against: what it is compared with: ``"auto"``, ``"numeric"``, ``"float64"``, ``"apply"``.
        error: the largest difference over the largest entry of the whole gradient tree: a leaf that
            is zero by symmetry, such as a bias in front of a batch norm, has no scale of its own.
        bound: the error that two right answers may have.
        place: the index at which they differ most.
        value: the entry there.
        reference: what it is compared with there.
        guess: the mistake that a leaf in error looks like, where there is a guess.

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
        """Whether the error is within the bound; a NaN is not, and a bound that is none is not."""
        return self.error <= self.bound < math.inf

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
    """Report of a gradient check: agreements of every leaf; prints as a table.

    Args:
        rows: one for each leaf and each gradient that it is compared with.

    """

    rows: tuple[Agreement, ...]

    @property
    def agrees(self) -> bool:
        """Whether all leaves agree."""
        return all(row.agrees for row in self.rows)

    def __repr__(self) -> str:
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
    """Gradient error: a manual gradient that is not the derivative; holds the checker's table."""


def agreements(
    gradient: Grads,
    reference: Grads,
    against: str,
    bound: float,
    x_shape: tuple[int, ...] = (),
) -> list[Agreement]:
    """Compare ``(dparams, dx)`` with a reference, leaf by leaf, in float64.

    Args:
        gradient: ``(dparams, dx)``.
        reference: the same, of another way.
        against: what the reference is called.
        bound: the relative error that is allowed.
        x_shape: the shape of the layer's input, which helps to guess at mistakes.

    """
    named, right = ({"dparams": of[0], "dx": of[1]} for of in (gradient, reference))
    return leafwise(named, right, against, bound, x_shape)


def leafwise(
    tree: PyTree, reference: PyTree, against: str, bound: float, x_shape: tuple[int, ...] = ()
) -> list[Agreement]:
    """Compare two trees leaf by leaf, in float64, on the scale of the whole reference.

    Args:
        tree: the trees to check, by name.
        reference: those that they should equal, by the same names.
        against: what the reference is called.
        bound: the relative error that is allowed.
        x_shape: the shape of the layer's input, which helps to guess at mistakes.
    """
    for name in reference:
        _check_structure(name, tree[name], reference[name], against)
    named, right = jax.tree.leaves_with_path(tree), jax.tree.leaves(reference)
    scale = largest(right)
    rows = []
    for (path, leaf), other in zip(named, right, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        values = np.asarray(leaf, np.float64), np.asarray(other, np.float64)
        rows.append(_agreement(name, against, bound, scale, values, x_shape))
    return rows


def _check_structure(name: str, tree: PyTree, reference: PyTree, against: str) -> None:
    """Raise unless a gradient has the structure of its reference, keys and kinds of nodes too."""
    structures: list[Unchecked] = [jax.tree.structure(of) for of in (tree, reference)]
    found, wanted = structures
    if found != wanted:
        raise GradientError(
            f"{name} has the structure {found}, and by {against} it is {wanted}; "
            "backward returns (dparams, dx), in this order"
        )


def _agreement(
    leaf: str,
    against: str,
    bound: float,
    scale: float,
    values: tuple[np.ndarray, np.ndarray],
    x_shape: tuple[int, ...],
) -> Agreement:
    """Compare one leaf with its reference, both of `values`."""
    value, reference = values
    if value.shape != reference.shape:
        likely = guess(value, reference, 0.0)
        raise GradientError(
            f"{leaf} has shape {value.shape}, and should have {reference.shape}"
            + (f"; guess: {likely}" if likely else "")
        )
    with np.errstate(invalid="ignore"):
        apart = np.abs(value - reference)
    if not apart.size:
        return Agreement(leaf, against, 0.0, bound, (), 0.0, 0.0)
    # argmax takes the first NaN for the largest entry, which is what should be shown.
    index = np.unravel_index(int(apart.argmax()), apart.shape)
    place = tuple(int(i) for i in index)
    # A gradient that is zero throughout has no scale: then the error is absolute.
    error = float(apart[place]) / (scale or 1.0)
    right = error <= bound
    likely = "" if right else guess(value, reference, bound * (scale or 1.0), x_shape)
    at = float(value[place]), float(reference[place])
    return Agreement(leaf, against, error, bound, place, *at, likely)


def largest(tree: PyTree) -> float:
    """Return the largest finite absolute value of all entries of a tree, 0 for none.

    Args:
        tree: arrays of numbers.

    >>> largest([np.array([1.0, -3.0]), np.array([np.nan])])
    3.0
    """
    sizes = (np.abs(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree))
    return max((float(size[np.isfinite(size)].max(initial=0)) for size in sizes), default=0.0)
