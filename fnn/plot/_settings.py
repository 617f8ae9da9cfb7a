"""What pictures of sweeps share: settings that differ, and the values of their runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe
from fnn._core.types import Unchecked
from fnn.train.sweep.sweep import Sweep

# From the largest to the smallest: such numbers are told apart on a logarithmic axis alone.
_LOG = 20.0
SAMPLES = ("seed", "fold")


class Setting(NamedTuple):
    """A setting that differs between runs.

    Args:
        name: of the setting.
        values: those that there are, numbers in their order, others as they came.
        numeric: whether they are numbers.
        log: whether they are told apart by their ratios.
    """

    name: str
    values: list[Unchecked]
    numeric: bool
    log: bool

    def words(self) -> list[str]:
        """Return the values as they are written."""
        return [word_of(value) for value in self.values]

    def places(self) -> np.ndarray:
        """Return where the values stand between 0 and 1: numbers to scale, others evenly."""
        if len(self.values) == 1:
            return np.full(1, 0.5)
        at = np.arange(len(self.values), dtype=float)
        if self.numeric:
            at = np.array(self.values, float)
            at = np.log(at) if self.log else at
        return (at - at[0]) / (at[-1] - at[0])

    def find(self, value: Unchecked) -> int:
        """Return which of the values one is."""
        return next(i for i, one in enumerate(self.values) if one is value or one == value)


def word_of(value: Unchecked) -> str:
    """Return a value of a setting as it is written in a picture.

    >>> word_of(0.1), word_of("adam"), word_of((64, 32))
    ('0.1', 'adam', '(64, 32)')
    """
    return f"{value:.3g}" if isinstance(value, float | np.floating) else str(value)


def setting(points: Sequence[dict[str, Unchecked]], name: str) -> Setting:
    """Return a setting with the values that it has in some points.

    Args:
        points: of the runs.
        name: of the setting.
    """
    values: list[Unchecked] = []
    for point in points:
        value = point.get(name)
        if not any(value is one or value == one for one in values):
            values.append(value)
    numeric = all(_is_number(value) for value in values)
    if numeric:
        values = sorted(values)
    log = numeric and values[0] > 0 and values[-1] / values[0] >= _LOG
    return Setting(name, values, numeric, log)


def _is_number(value: Unchecked) -> bool:
    plain = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return plain and bool(np.isfinite(value))


def differing(result: Sweep) -> list[str]:
    """Return the settings that differ between runs, but for seeds and folds.

    Args:
        result: of a sweep.
    """
    names = dict.fromkeys(name for point in result.points for name in point)
    return [
        name
        for name in names
        if name not in SAMPLES and len(setting(result.points, name).values) > 1
    ]


def check_sweep(result: Unchecked, value: Unchecked) -> None:
    """Raise unless something is a sweep, and a value one of its columns of numbers.

    Args:
        result: what may be one.
        value: the name of a column.
    """
    if not isinstance(result, Sweep) or not result.points:
        got = "one with none" if isinstance(result, Sweep) else describe(result)
        raise InputError("a sweep with runs", got, "pass what fnn.sweep returns")
    measured = dict.fromkeys(name for one in result.histories for name in one.validation)
    known = ["loss", *(f"validation {name}" for name in measured), "steps"]
    check.one_of(value, "a column of numbers", known, "name one of these")
