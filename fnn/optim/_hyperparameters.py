"""Hyper-parameters of update rules: numbers, schedules or traced arrays, and the count of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import RunTime
from fnn._core.errors import InputError, describe
from fnn._core.types import Array, PyTree

# A number, an array of one, or a schedule: an input of the compiled program.
Hyperparameter: TypeAlias = Annotated[float | Array | Callable[[Any], Any], RunTime()]


def resolve(hyper: Hyperparameter, step: Any) -> Any:
    """Return the value of a hyper-parameter at a step: a schedule is called, a number is itself.

    Raises `InputError` where that is an array of more than one number.

    >>> resolve(0.1, 7), resolve(lambda step: 0.1 * step, 10)
    (0.1, 1.0)
    """
    value = hyper(step) if callable(hyper) else hyper
    if getattr(value, "shape", ()) != () or not (
        isinstance(value, int | float) or hasattr(value, "dtype")
    ):
        raise InputError(
            f"one number from the schedule {describe(hyper)}"
            if callable(hyper)
            else "a hyper-parameter of one number",
            describe(value),
            "return a scalar; for several runs at once, map over the scalar with jax.vmap",
        )
    return value


def first_step(*hypers: Hyperparameter) -> PyTree:
    """Return where to count from: 0, or ``()`` where no hyper-parameter asks for the step.

    An array of the state costs time in every step, however small it is.

    >>> first_step(0.1, lambda step: 0.5), first_step(0.1)
    (Array(0, dtype=int32), ())
    """
    return jnp.int32(0) if any(callable(hyper) for hyper in hypers) else ()


def next_step(step: PyTree) -> PyTree:
    """Count one step more, where steps are counted.

    >>> next_step(first_step(lambda step: 0.5)), next_step(first_step(0.1))
    (Array(1, dtype=int32), ())
    """
    return step if isinstance(step, tuple) else step + 1


def cast_like(value: Any, leaf: Any) -> Any:
    """Give a hyper-parameter the dtype of the array that it meets; a plain number needs none."""
    return value.astype(leaf.dtype) if hasattr(value, "astype") else value


def check_number(name: str, value: Hyperparameter, least: float = 0.0) -> None:
    """Raise `InputError` for a plain number below `least`; a schedule or an array may be any."""
    if isinstance(value, int | float):
        valid = value >= least
    else:
        valid = callable(value) or hasattr(value, "dtype")
    if not valid:
        raise InputError(
            f"{name} of {least:g} or more",
            describe(value),
            "pass a number, a schedule or an array",
        )


def check_fraction(name: str, value: Any) -> None:
    """Raise `InputError` for a plain number outside [0, 1)."""
    if isinstance(value, int | float) and not 0 <= value < 1:
        raise InputError(f"{name} in [0, 1)", describe(value), "pass a share such as 0.9")


def check_positive(**values: Any) -> None:
    """Raise `InputError` for a plain number that is not above 0; its name is the keyword."""
    for name, value in values.items():
        if isinstance(value, int | float) and not value > 0:
            raise InputError(f"{name} above 0", describe(value), "pass one such as 1e-8")


def check_count(name: str, value: Any) -> None:
    """Raise `InputError` for what is no integer of 1 or more."""
    if not check.is_count(value, 1):
        raise InputError(f"{name} of 1 or more", describe(value), "pass a number of steps")
