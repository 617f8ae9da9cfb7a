"""Marks for an answer to an exercise: right, or the mistake that most likely made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import PyTree, Unchecked
from fnn.lab.diagnose import guess

_UNITY = 1e-6


@entry
def check_answer(
    answer: PyTree,
    right: PyTree,
    mistakes: Mapping[str, PyTree] | None = None,
    *,
    tolerance: float = 0.01,
) -> str:
    """Mark of an answer: ``"right"``, ``"not answered"``, or what is probably wrong.

    Told apart without being asked to are the sign, a factor, and an answer that is transposed.

    Args:
        answer: numbers, or None where there is no answer yet.
        right: the right answer, a number or an array.
        mistakes: what may have been taken for it, by what to say of it.
        tolerance: how far the answer may be off, as a fraction of the largest entry.
    Raises:    InputError for a right answer that is no array of numbers, and a tolerance outside
        (0, 1).

    >>> check_answer(None, 6.0), check_answer(6.02, 6.0), check_answer(-6, 6.0)
    ('not answered', 'right', 'wrong: the sign is turned round')
    >>> check_answer(5.0, 6.0, {"that is the value": 5.0})
    'wrong: that is the value'

    """
    check.number(tolerance, "tolerance", above=0, below=1)
    if not isinstance(mistakes, Mapping | None):
        raise InputError("mistakes by what to say of them", describe(mistakes), "pass a dict")
    try:
        known = np.asarray(right, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("right of numbers", describe(right), "pass an array") from error
    return mark(answer, known, list((mistakes or {}).items()), tolerance) or "right"


def mark(
    answer: Unchecked,
    right: np.ndarray,
    mistakes: Sequence[tuple[str, PyTree]],
    tolerance: float,
) -> str:
    """Return what is wrong with an answer, or nothing where it is right.

    Args:
        answer: numbers, or None.
        right: the right answer.
        mistakes: what may have been taken for it, with what to say of it; None for nothing.
        tolerance: how far it may be off, as a fraction of the largest entry.

    >>> right = np.array([[1.0, 2.0], [3.0, 5.0]])
    >>> mark(right * 1.001, right, (), 0.01), mark(right.T, right, (), 0.01)
    ('', 'wrong: transposed')
    >>> mark(np.array(6.0), np.array(2.0), [("that is the value", 6.0)], 0.01)
    'wrong: that is the value'
    """
    if answer is None:
        return "not answered"
    try:
        given = np.asarray(answer, np.float64)
    except (TypeError, ValueError):
        return "wrong: not a number"

    def is_close(other: PyTree) -> bool:
        if other is None or np.shape(other) != given.shape:
            return False
        known = np.asarray(other, np.float64)
        off = tolerance * (np.abs(known).max(initial=0) or _UNITY)
        return bool(np.all(np.abs(given - known) <= off))

    if given.shape != right.shape:
        if given.shape == right.T.shape and np.allclose(given.T, right, rtol=tolerance):
            return "wrong: transposed"
        words = [str(shape) if shape else "of one number" for shape in (given.shape, right.shape)]
        return f"wrong: shape {words[0]}, where {words[1]} is asked for"
    if is_close(right):
        return ""
    if not np.isfinite(given).all():
        return "wrong: not finite"
    known = [
        ("the sign is turned round", -right),
        *mistakes,
        ("factor 2: it is twice the right one", 2 * right),
        ("factor 2: it is half the right one", right / 2),
        ("sign and factor 2", -2 * right),
        ("transposed", right.T),
    ]
    found = next((text for text, other in known if is_close(other)), "")
    found = found or guess(given, right, tolerance * (np.abs(right).max(initial=0) or _UNITY))
    return f"wrong: {found}" if found else "wrong"
