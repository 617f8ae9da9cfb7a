"""Diagnosis of a wrong gradient: the mistake that most likely made it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from fnn._core.types import Unchecked

# Rolls are tried up to this length of an axis: beyond it nobody counts on.
_ROLLED = 64
# A mistake explains a gradient when what it leaves is this much smaller, or lost in rounding.
_LEFT = 1e-3


def guess(
    value: Unchecked, reference: Unchecked, tolerance: float, x_shape: tuple[int, ...] = ()
) -> str:
    """Name the mistake that turns the reference into the value, or return nothing.

    A guess is made where it explains every entry of the leaf, and a leaf of one entry is told by
    the common factors only.

    Args:
        value: the gradient of one leaf, an array.
        reference: what it should be.
        tolerance: the absolute error that two right answers may have.
        x_shape: the shape of the layer's input, by whose lengths a mean and a sum are told apart.

    >>> right = np.array([[1.0, 2.0], [3.0, 5.0]])
    >>> guess(-right, right, 1e-9), guess(right.T, right, 1e-9), guess(2 * right, right, 1e-9)
    ('sign', 'transposed', 'factor 2')
    >>> guess(8 * right, right, 1e-9, (8, 2))
    'factor 8: missing mean over batch'
    >>> guess(right**2, right, 1e-9)
    ''
    """
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    if value.shape != reference.shape:
        return _of_shapes(value, reference)
    for of, array in (("", value), (", nor is what it should be", reference)):
        wrong = int(np.count_nonzero(~np.isfinite(array)))
        if wrong:
            return f"not finite at {wrong} of {array.size} entries{of}"
    largest, right = np.abs(value).max(initial=0), np.abs(reference).max(initial=0)
    if right <= tolerance:
        return "should be zero"
    if largest <= tolerance:
        return "zero: missing altogether"
    close = min(tolerance, _LEFT * largest)
    return next(filter(None, _candidates(value, reference, close, x_shape)), "")


def _candidates(
    value: np.ndarray, reference: np.ndarray, close: float, x_shape: tuple[int, ...]
) -> Iterator[str]:
    """Yield the mistakes that explain a value, the likeliest first, and empty texts between."""
    yield _factor(value, reference, close, x_shape)
    if value.size == 1:
        return
    for kind, sign in itertools.product((_moved, _more, _few), (1, -1)):
        name = kind(sign * value, reference, close)
        yield f"sign, and {name}" if name and sign < 0 else name


def _factor(
    value: np.ndarray, reference: np.ndarray, close: float, x_shape: tuple[int, ...]
) -> str:
    """Tell a gradient that is a multiple of the right one."""
    ratio = float(np.vdot(value, reference) / np.vdot(reference, reference))
    if np.abs(value - ratio * reference).max() > close:
        return ""
    slack = close / np.abs(reference).max()
    size = abs(ratio)
    sign = "sign" if ratio < 0 else ""
    if abs(size - 1) <= slack:
        return sign
    lengths = {x_shape[0]: "batch"} if x_shape else {}
    if len(x_shape) > 2:
        lengths.setdefault(math.prod(x_shape[:-1]), "all axes but the last")
    name = ""
    for length, axes in lengths.items():
        if abs(size - length) <= slack:
            name = f": missing mean over {axes}"
        elif abs(size - 1 / length) <= slack:
            name = f": mean over {axes} instead of a sum"
    # Of a single entry every mistake is a factor: only those that are often made count.
    if value.size == 1 and not name and min(abs(size - 2), abs(size - 0.5)) > slack:
        return ""
    return " and ".join(filter(None, [sign, f"factor {size:.6g}{name}"]))


def _moved(value: np.ndarray, reference: np.ndarray, close: float) -> str:
    """Tell a gradient whose entries are right and stand in the wrong positions."""

    def is_reference(moved: np.ndarray) -> bool:
        return moved.shape == value.shape and bool(np.abs(moved - value).max() <= close)

    for axes in itertools.islice(itertools.permutations(range(value.ndim)), 1, 24):
        moved = reference.transpose(axes)
        if is_reference(moved):
            return "transposed"
        if is_reference(moved.reshape(value.shape)):
            return "transposed, and reshaped"
    for axis, length in enumerate(value.shape):
        if length > 1 and is_reference(np.flip(reference, axis)):
            return f"reversed along axis {axis}"
    for axis, length in enumerate(value.shape):
        for shift in range(1, length if length <= _ROLLED else 0):
            if is_reference(np.roll(reference, shift, axis)):
                return f"rolled by {shift} along axis {axis}"
    if value.ndim > 1 and is_reference(reference.ravel()[::-1].reshape(value.shape)):
        return "reversed along all axes"
    return ""


def _more(value: np.ndarray, reference: np.ndarray, close: float) -> str:
    """Tell a term missing or too many that is the same along an axis, such as a mean."""
    apart = value - reference
    if np.ptp(apart) <= close:
        return "the same constant too much everywhere"
    axes = {0: "batch"} | ({value.ndim - 1: "the last axis"} if value.ndim > 1 else {})
    for axis, name in axes.items():
        if value.shape[axis] > 1 and np.ptp(apart, axis).max() <= close:
            return f"missing mean over {name}, or another term constant along axis {axis}"
    return ""


def _few(value: np.ndarray, reference: np.ndarray, close: float) -> str:
    """Tell a gradient that is wrong at few entries."""
    wrong = int(np.count_nonzero(np.abs(value - reference) > close))
    # Zeros that are zeros in every way, as behind a relu, speak for none.
    telling = np.count_nonzero(np.maximum(np.abs(value), np.abs(reference)) > close)
    return f"right but for {wrong} of {value.size} entries" if 4 * wrong < telling else ""


def _of_shapes(value: np.ndarray, reference: np.ndarray) -> str:
    """Tell a gradient of another shape."""
    if value.ndim > reference.ndim:
        inner = value.shape[value.ndim - reference.ndim :]
        return "missing sum over batch" if inner == reference.shape else ""
    permuted = sorted(value.shape) == sorted(reference.shape)
    return "transposed" if permuted else ""
