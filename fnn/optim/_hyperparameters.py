"""Hyper-parameters of optimizers: numbers, schedules or traced arrays, and the count of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeAlias

import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import RunTime
from fnn._core.errors import describe
from fnn._core.types import Array, PyTree, Scalar, Unchecked

# A number, an array of one, or a schedule: an input of the compiled program.
Hyperparameter: TypeAlias = Annotated[float | Array | Callable[[Scalar], Scalar], RunTime()]


def resolve(hyper: Hyperparameter, step: PyTree) -> Scalar:
    """Return the value of a hyper-parameter at a step: a schedule is called, a number is itself.

    Raises `InputError` where that is not one finite number.

    >>> resolve(0.1, 7), resolve(lambda step: 0.1 * step, 10)
    (0.1, 1.0)
    """
    scheduled = callable(hyper)
    value = hyper(step) if callable(hyper) else hyper
    check.number(
        value,
        f"schedule {describe(hyper)}" if scheduled else "a hyper-parameter",
        remedy="return one number; for several runs at once, map over it with jax.vmap",
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


def cast_like(value: Scalar, leaf: Array) -> Scalar:
    """Give a hyper-parameter the dtype of the array that it meets; a plain number needs none.

    >>> cast_like(jnp.float32(0.5), jnp.ones(1, "bfloat16")).dtype, cast_like(3, jnp.ones(1))
    (dtype(bfloat16), 3.0)
    """
    # A plain integer would have to fit into int32.
    return value.astype(leaf.dtype) if hasattr(value, "astype") else float(value)


def check_epsilon(value: Unchecked, name: str = "epsilon") -> None:
    """Raise `InputError` unless a value is a number above 0 that is no subnormal one.

    Compiled programs take subnormal numbers for 0, and 0 / 0 would follow.

    >>> check_epsilon(1e-8)
    >>> check_epsilon(1e-40)
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn: expected epsilon of 1.17549e-38 or more, got 1e-40; pass one \
    such as 1e-8
    """
    check.number(value, name, above=0, remedy="pass one such as 1e-8")
    least = float(jnp.finfo(jnp.result_type(float)).tiny)
    check.number(value, name, least=least, remedy="pass one such as 1e-8")
