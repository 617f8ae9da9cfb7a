"""Schedules: hyper-parameters that depend on the step t, counted from 0.

A schedule is any function of the step; those made here print, and are equal when made by equal
calls, so that an optimizer holding one is compiled once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import Described, constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import Number
from fnn.optim._hyperparameters import check_fraction, check_number, check_positive


@dataclass(frozen=True, eq=False, repr=False)
class Schedule(Described):
    """A function of the step: ``schedule(t) -> value``."""

    functions: ClassVar[tuple[str, ...]] = ("value",)
    value: Callable[[Any], Any]

    def __call__(self, step: Any) -> Any:
        """Return the value at a step."""
        return self.value(step)


@constructor
def constant(value: Number) -> Schedule:
    """Constant: ``value``.

    >>> constant(0.1)(1000)
    0.1
    """
    return Schedule(lambda step: value)


@constructor
def step_decay(value: Number, factor: Number, every: int) -> Schedule:
    """Step decay: ``value factor^floor(t / every)``.

    Raises `fnn.InputError` for an `every` below 1.

    >>> float(step_decay(0.5, 0.5, every=10)(25))
    0.125
    """
    _check_steps("every", every)
    return Schedule(lambda t: value * factor ** _float(t // every))


@constructor
def exponential(value: Number, factor: Number, steps: int) -> Schedule:
    """Exponential decay: ``value factor^(t / steps)``.

    Raises `fnn.InputError` for `steps` below 1.

    >>> float(exponential(0.5, 0.25, steps=10)(5))
    0.25
    """
    _check_steps("steps", steps)
    return Schedule(lambda t: value * factor ** (_float(t) / steps))


@constructor
def cosine(value: Number, steps: int, final: Number = 0.0) -> Schedule:
    """Cosine decay from `value` to `final`, which then stays.

    ``final + (value - final) (1 + cos(pi min(t, steps) / steps)) / 2``. Source: Loshchilov and
    Hutter 2016, arXiv:1608.03983, eq. 5, without restarts.

    Raises `fnn.InputError` for `steps` below 1.

    >>> float(cosine(0.5, steps=10)(0)), float(cosine(0.5, steps=10)(10))
    (0.5, 0.0)
    """
    _check_steps("steps", steps)

    def at(t: Any) -> Any:
        return (
            final + (value - final) * (1 + jnp.cos(jnp.pi * jnp.minimum(_float(t) / steps, 1))) / 2
        )

    return Schedule(at)


@constructor
def polynomial(value: Number, final: Number, steps: int, power: Number = 1.0) -> Schedule:
    """Polynomial (or linear) decay from `value` to `final`, which then stays.

    ``final + (value - final) (1 - min(t, steps) / steps)^power``.

    Raises `fnn.InputError` for `steps` below 1 or a power that is not positive.

    >>> float(polynomial(0.5, 0.25, steps=4)(1)), float(polynomial(0.5, 0.0, steps=4, power=2)(2))
    (0.4375, 0.125)
    """
    _check_steps("steps", steps)
    check_positive(power=power)

    def at(t: Any) -> Any:
        return final + (value - final) * (1 - jnp.minimum(_float(t) / steps, 1)) ** power

    return Schedule(at)


@constructor
def inverse_time(value: Number, steps: int, power: Number = 1.0) -> Schedule:
    """Inverse-time decay: ``value / (1 + t / steps)^power``.

    With a power of 0.5 to 1 the steps go everywhere and still come to rest, which is what the proof
    of stochastic approximation asks for. Source: Robbins and Monro 1951, Ann. Math. Statist. 22(3).

    Raises `fnn.InputError` for `steps` below 1 or a power that is not positive.

    >>> float(inverse_time(0.5, steps=10)(30))
    0.125
    """
    _check_steps("steps", steps)
    check_positive(power=power)
    return Schedule(lambda t: value / (1 + _float(t) / steps) ** power)


@constructor
def one_cycle(
    peak: Number, steps: int, rise: Number = 0.3, start: Number = 0.04, final: Number = 4e-6
) -> Schedule:
    """One cycle: up to `peak` along half a cosine, down along another, which then stays.

    ``peak (start + (1 - start) (1 - cos(pi t / r)) / 2)`` for ``t < r = rise steps``, then ``peak
    (final + (1 - final) (1 + cos(pi min((t - r) / (steps - r), 1))) / 2)``; `start` and `final` are
    shares of the peak. Source: Smith and Topin 2017, arXiv:1708.07120, with cosines in the place of
    straight lines.

    Raises `fnn.InputError` for `steps` below 1, a rise outside (0, 1), or a negative start or
    final.

    >>> rate = one_cycle(0.5, steps=100, rise=0.25, start=0.5, final=0.0)
    >>> float(rate(0)), float(rate(25)), float(rate(100))
    (0.25, 0.5, 0.0)
    """
    _check_steps("steps", steps)
    check_fraction("rise", rise)
    check_positive(rise=rise)
    check_number("start", start)
    check_number("final", final)

    def at(t: Any) -> Any:
        up = _float(t) / (rise * steps)
        down = jnp.clip((_float(t) - rise * steps) / (steps - rise * steps), 0, 1)
        rising = start + (1 - start) * (1 - jnp.cos(jnp.pi * up)) / 2
        falling = final + (1 - final) * (1 + jnp.cos(jnp.pi * down)) / 2
        return peak * jnp.where(up < 1, rising, falling)

    return Schedule(at)


@constructor
def cyclic(low: Number, high: Number, steps: int, shrink: Number = 1.0) -> Schedule:
    """Cyclic (triangular): from `low` to `high` in `steps` steps and down again, over and over.

    ``low + (high - low) shrink^floor(t / (2 steps)) (1 - |t / steps mod 2 - 1|)``. Source: Smith
    2015, arXiv:1506.01186, section 3.2: the triangular policy, and with a shrink of 0.5
    "triangular2".

    Raises `fnn.InputError` for `steps` below 1.

    >>> rate = cyclic(0.0, 1.0, steps=2, shrink=0.5)
    >>> [float(rate(t)) for t in range(8)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.25, 0.5, 0.25]
    """
    _check_steps("steps", steps)

    def at(t: Any) -> Any:
        height = 1 - abs(_float(t % (2 * steps)) / steps - 1)
        return low + (high - low) * shrink ** _float(t // (2 * steps)) * height

    return Schedule(at)


@constructor
def piecewise_constant(values: Sequence[float], boundaries: Sequence[int]) -> Schedule:
    """Piecewise constant: ``values[i]`` with i the number of boundaries at or before t.

    Raises `fnn.InputError` unless the boundaries are rising steps of 1 or more, one fewer than the
    values.

    >>> rate = piecewise_constant([0.5, 0.25, 0.125], [10, 20])
    >>> float(rate(9)), float(rate(10)), float(rate(25))
    (0.5, 0.25, 0.125)
    """
    return join([constant(value) for value in values], boundaries)


@constructor
def join(schedules: Sequence[Callable[[Any], Any]], boundaries: Sequence[int]) -> Schedule:
    """Joined schedules: one after the other, the time of each starting at its boundary.

    ``schedules[i](t - boundaries[i - 1])`` with i the number of boundaries at or before t.

    Raises `fnn.InputError` for what is no schedule (write ``constant(number)``), and unless the
    boundaries are rising steps of 1 or more, one fewer than the schedules.

    >>> rate = join([constant(0.5), polynomial(0.5, 0.0, steps=4)], [10])
    >>> [float(rate(t)) for t in (9, 10, 11, 14)]
    [0.5, 0.5, 0.375, 0.0]
    """
    for schedule in schedules:
        if not callable(schedule):
            raise InputError("schedules", describe(schedule), "wrap it in constant(...)")
    starts = [0, *boundaries]
    rising = all(check.is_count(b, a + 1) for a, b in itertools.pairwise(starts))
    if not rising or len(starts) != len(schedules):
        raise InputError(
            f"{len(schedules) - 1} boundaries, rising from 1 or more",
            describe(list(boundaries)),
            "pass the steps at which the next part begins",
        )

    def at(t: Any) -> Any:
        t = jnp.asarray(t)
        value = schedules[0](t)
        for start, schedule in zip(boundaries, schedules[1:], strict=True):
            value = jnp.where(t >= start, schedule(jnp.maximum(t - start, 0)), value)
        return value

    return Schedule(at)


@constructor
def warm_up(steps: int, then: Callable[[Any], Any]) -> Schedule:
    """Linear warm-up, then another schedule, its time starting at the top.

    ``then(0) (t + 1) / steps`` for t < steps, ``then(t - steps)`` after, so that the first step
    already moves.

    Raises `fnn.InputError` for `steps` below 1, and when `then` is a number (write
    ``constant(number)``).

    >>> rate = warm_up(4, constant(0.5))
    >>> [float(rate(t)) for t in range(6)]
    [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    """
    _check_steps("steps", steps)
    if not callable(then):
        raise InputError("a schedule", describe(then), "wrap it in constant(...)")

    def at(t: Any) -> Any:
        t = jnp.asarray(t)
        rise = then(0) * (_float(t) + 1) / steps
        return jnp.where(t < steps, rise, then(jnp.maximum(t - steps, 0)))

    return Schedule(at)


def _float(t: Any) -> Any:
    return jnp.asarray(t).astype(jnp.result_type(float))


def _check_steps(name: str, value: int) -> None:
    if not check.is_count(value, 1):
        raise InputError(
            f"{name} of 1 or more",
            describe(value),
            "pass a number of steps, as in epochs * (examples // batch_size)",
        )
