"""Schedules: hyper-parameters that depend on the step t, counted from 0.

A schedule is any function of the step; those made here print, and are equal when made by equal
calls, so that an optimizer holding one is compiled once. They take a step as an integer or a
floating-point number, traced or not, or an array of steps; before step 0 they are what they are at
step 0. Their values are finite, and 0 or more.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.description import Described, constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import Array, Number, Scalar, Unchecked
from fnn.optim._hyperparameters import cast_like

# The largest step: steps are counted in int32.
_LAST = 2**31 - 1


@dataclass(frozen=True, eq=False, repr=False)
class Schedule(Described):
    """Schedule: a function of the step, ``schedule(t) -> value``.

    Args:
        value: ``t -> value``; called with an array of one or more steps, 0 or above.
        call: the call of the `constructor` that made it.
    Raises:    InputError for what is no function.

    >>> float(Schedule(lambda t: 0.5**t)(jnp.int32(2)))
    0.25

    """

    functions: ClassVar[tuple[str, ...]] = ("value",)
    value: Callable[[Array], Scalar]

    def __post_init__(self) -> None:
        check.function(self.value, "value", "pass a function of the step", takes="t")

    def __call__(self, step: Scalar) -> Scalar:
        """Return the value at a step."""
        return self.value(_time(step))


@constructor
def constant(value: Number) -> Schedule:
    """Constant schedule.

    Update:    value

    Args:
        value: the value at every step, 0 or more.
    Raises:    InputError for a value out of range.

    >>> constant(0.1)(1000)
    0.1

    """
    check.number(value, "value", least=0)
    return Schedule(lambda t: value)


@constructor
def step_decay(value: Number, factor: Number, every: int) -> Schedule:
    """Step decay.

    Update:    value factor^floor(t / every)

    Args:
        value: the value at the start, 0 or more.
        factor: what the value is multiplied by, 0 or more; where it is above 1 the value grows, and
            stays finite.
        every: number of steps between two drops, 1 or more.
    Raises:    InputError for a value out of range.

    >>> float(step_decay(0.5, 0.5, every=10)(25))
    0.125

    """
    check.number(value, "value", least=0)
    check.number(factor, "factor", least=0)
    period = _steps("every", every)
    return Schedule(lambda t: _power(value, factor, _float(t // period)))


@constructor
def exponential(value: Number, factor: Number, steps: int) -> Schedule:
    """Exponential decay.

    Update:    value factor^(t / steps)

    Args:
        value: the value at the start, 0 or more.
        factor: what the value is multiplied by in so many steps, 0 or more; where it is above 1 the
            value grows, and stays finite.
        steps: number of steps for one factor, 1 or more.
    Raises:    InputError for a value out of range.

    >>> float(exponential(0.5, 0.25, steps=10)(5))
    0.25

    """
    check.number(value, "value", least=0)
    check.number(factor, "factor", least=0)
    length = _steps("steps", steps)
    return Schedule(lambda t: _power(value, factor, _float(t) / length))


@constructor
def cosine(value: Number, steps: int, final: Number = 0.0) -> Schedule:
    """Cosine decay, or rise, to a final value, which then stays.

    Update:    final + (value - final) (1 + cos(pi min(t, steps) / steps)) / 2

    Args:
        value: the value at the start, 0 or more.
        steps: number of steps to the final value, 1 or more.
        final: the value at the end, 0 or more.
    Raises:    InputError for a value out of range.
    Source:    Loshchilov and Hutter 2016, arXiv:1608.03983, eq. 5, without restarts.

    >>> float(cosine(0.5, steps=10)(0)), float(cosine(0.5, steps=10)(10))
    (0.5, 0.0)

    """
    check.number(value, "value", least=0)
    check.number(final, "final", least=0)
    length = _steps("steps", steps)

    def at(t: Array) -> Array:
        share = jnp.minimum(_float(t) / length, 1)
        first, last = cast_like(value, share), cast_like(final, share)
        return last + (first - last) * (1 + jnp.cos(jnp.pi * share)) / 2

    return Schedule(at)


@constructor
def polynomial(value: Number, final: Number, steps: int, power: Number = 1.0) -> Schedule:
    """Polynomial (or linear) decay, or rise, to a final value, which then stays.

    Update:    final + (value - final) (1 - min(t, steps) / steps)^power

    Args:
        value: the value at the start, 0 or more.
        final: the value at the end, 0 or more.
        steps: number of steps to the final value, 1 or more.
        power: degree of the polynomial, above 0; 1 is linear.
    Raises:    InputError for a value out of range.

    >>> float(polynomial(0.5, 0.25, steps=4)(1)), float(polynomial(0.5, 0.0, steps=4, power=2)(2))
    (0.4375, 0.125)

    """
    check.number(value, "value", least=0)
    check.number(final, "final", least=0)
    check.number(power, "power", above=0)
    length = _steps("steps", steps)

    def at(t: Array) -> Array:
        left = 1 - jnp.minimum(_float(t) / length, 1)
        first, last = cast_like(value, left), cast_like(final, left)
        return last + (first - last) * left ** cast_like(power, left)

    return Schedule(at)


@constructor
def inverse_time(value: Number, steps: int, power: Number = 1.0) -> Schedule:
    """Inverse-time decay.

    With a power of 0.5 to 1 the steps go everywhere and still come to rest, which is what the proof
    of stochastic approximation asks for.

    Update:    value / (1 + t / steps)^power

    Args:
        value: the value at the start, 0 or more.
        steps: number of steps after which it has fallen by 2^power, 1 or more.
        power: how fast it falls, above 0.
    Raises:    InputError for a value out of range.
    Source:    Robbins and Monro 1951, Ann. Math. Statist. 22(3).

    >>> float(inverse_time(0.5, steps=10)(30))
    0.125

    """
    check.number(value, "value", least=0)
    check.number(power, "power", above=0)
    length = _steps("steps", steps)

    def at(t: Array) -> Array:
        age = 1 + _float(t) / length
        return cast_like(value, age) / age ** cast_like(power, age)

    return Schedule(at)


@constructor
def one_cycle(
    peak: Number, steps: int, rise: Number = 0.3, start: Number = 0.04, final: Number = 4e-6
) -> Schedule:
    """One cycle: up to a peak along half a cosine, down along another, to what then stays.

    Update:    peak (start + (1 - start) (1 - cos(pi t / r)) / 2) for t < r = rise steps, then peak
        (final + (1 - final) (1 + cos(pi min((t - r) / (steps - r), 1))) / 2)

    Args:
        peak: the largest value, 0 or more.
        steps: number of steps of the cycle, 1 or more.
        rise: share of the steps on the way up, in (0, 1).
        start: the first value as a share of the peak, 0 or more.
        final: the last value as a share of the peak, 0 or more.
    Raises:    InputError for a value out of range.
    Source:    Smith and Topin 2017, arXiv:1708.07120, with cosines in the place of straight lines.

    >>> rate = one_cycle(0.5, steps=100, rise=0.25, start=0.5, final=0.0)
    >>> float(rate(0)), float(rate(25)), float(rate(100))
    (0.25, 0.5, 0.0)

    """
    check.number(peak, "peak", least=0)
    check.number(rise, "rise", above=0, below=1)
    check.number(start, "start", least=0)
    check.number(final, "final", least=0)
    length = _steps("steps", steps)

    def at(t: Array) -> Array:
        time = _float(t)
        top, first, last, share = (cast_like(h, time) for h in (peak, start, final, rise))
        up = jnp.minimum(time / (share * length), 1)
        down = jnp.clip((time - share * length) / ((1 - share) * length), 0, 1)
        rising = first + (1 - first) * (1 - jnp.cos(jnp.pi * up)) / 2
        falling = last + (1 - last) * (1 + jnp.cos(jnp.pi * down)) / 2
        return top * jnp.where(up < 1, rising, falling)

    return Schedule(at)


@constructor
def cyclic(low: Number, high: Number, steps: int, shrink: Number = 1.0) -> Schedule:
    """Cyclic (triangular) schedule: up and down again, over and over.

    Update:    low + (high - low) shrink^floor(t / (2 steps)) (1 - |t / steps mod 2 - 1|)

    Args:
        low: the value at the start of every cycle, 0 or more.
        high: the value in the middle of the first cycle, 0 or more.
        steps: number of steps from low to high, 1 or more.
        shrink: what the height is multiplied by after every cycle, in [0, 1].
    Raises:    InputError for a value out of range.
    Source:    Smith 2015, arXiv:1506.01186, section 3.2: the triangular policy, and with a shrink
        of 0.5 "triangular2".

    >>> rate = cyclic(0.0, 1.0, steps=2, shrink=0.5)
    >>> [float(rate(t)) for t in range(8)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.25, 0.5, 0.25]

    """
    check.number(low, "low", least=0)
    check.number(high, "high", least=0)
    check.number(shrink, "shrink", least=0, most=1)
    length = _steps("steps", steps)
    period = min(2 * length, _LAST)

    def at(t: Array) -> Array:
        height = 1 - abs(_float(t % period) / length - 1)
        bottom, top, factor = (cast_like(h, height) for h in (low, high, shrink))
        return bottom + (top - bottom) * factor ** _float(t // period) * height

    return Schedule(at)


@constructor
def piecewise_constant(values: Sequence[float], boundaries: Sequence[int]) -> Schedule:
    """Piecewise-constant schedule.

    Update:    values[i] with i the number of boundaries at or before t

    Args:
        values: the values in their order, 0 or more.
        boundaries: the steps at which the next value begins, rising from 1 or more, one fewer than
            the values.
    Raises:    InputError for a value out of range, and for boundaries that do not fit.

    >>> rate = piecewise_constant([0.5, 0.25, 0.125], [10, 20])
    >>> float(rate(9)), float(rate(10)), float(rate(25))
    (0.5, 0.25, 0.125)

    """
    parts = _listed("values", values)
    for i, value in enumerate(parts):
        check.number(value, f"values[{i}]", least=0)
    return _joined([constant(value) for value in parts], _listed("boundaries", boundaries))


@constructor
def join(schedules: Sequence[Callable[[Scalar], Scalar]], boundaries: Sequence[int]) -> Schedule:
    """Schedules one after the other, the time of each starting at its boundary.

    Update:    schedules[i](t - boundaries[i - 1]) with i the number of boundaries at or before t

    Args:
        schedules: the schedules in their order; of a number write ``constant(number)``.
        boundaries: the steps at which the next schedule begins, rising from 1 or more, one fewer
            than the schedules.
    Raises:    InputError for what is no schedule, for one with values below 0, and for boundaries
        that do not fit.

    >>> rate = join([constant(0.5), polynomial(0.5, 0.0, steps=4)], [10])
    >>> [float(rate(t)) for t in (9, 10, 11, 14)]
    [0.5, 0.5, 0.375, 0.0]

    """
    parts = _listed("schedules", schedules)
    for i, schedule in enumerate(parts):
        _check_schedule(f"schedules[{i}]", schedule)
    return _joined(parts, _listed("boundaries", boundaries))


@constructor
def warm_up(steps: int, then: Callable[[Scalar], Scalar]) -> Schedule:
    """Linear warm-up, then another schedule, its time starting at the top.

    The first step already moves.

    Update:    then(0) (t + 1) / steps for t < steps, then(t - steps) after

    Args:
        steps: number of steps on the way up, 1 or more.
        then: the schedule that follows; of a number write ``constant(number)``.
    Raises:    InputError for a value out of range, and for what is no schedule.

    >>> rate = warm_up(4, constant(0.5))
    >>> [float(rate(t)) for t in range(6)]
    [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]

    """
    length = _steps("steps", steps)
    _check_schedule("then", then)

    def at(t: Array) -> Array:
        time = _float(t)
        rise = jnp.minimum((time + 1) / length, 1)
        rise = cast_like(then(jnp.zeros_like(t)), time) * rise
        after = cast_like(then(jnp.maximum(t - length, 0)), time)
        return jnp.where(t < length, rise, after)

    return Schedule(at)


def _joined(schedules: list[Unchecked], boundaries: list[Unchecked]) -> Schedule:
    """Return schedules one after the other, or raise for boundaries that do not fit."""
    starts = [0, *boundaries]
    rising = all(check.is_count(b, a + 1) for a, b in itertools.pairwise(starts))
    if not rising or len(starts) != len(schedules):
        raise InputError(
            f"{len(schedules) - 1} boundaries, rising from 1 or more",
            describe(boundaries),
            "pass the steps at which the next part begins",
        )
    starts = [min(int(start), _LAST) for start in boundaries]

    def at(t: Array) -> Array:
        time = _float(t)
        value = cast_like(schedules[0](t), time)
        for start, schedule in zip(starts, schedules[1:], strict=True):
            later = cast_like(schedule(jnp.maximum(t - start, 0)), time)
            value = jnp.where(t >= start, later, value)
        return value

    return Schedule(at)


def _power(value: Number, factor: Number, exponent: Array) -> Array:
    """Return ``value factor^exponent``, finite for a factor above 1 too."""
    most = float(jnp.finfo(exponent.dtype).max)
    grown = jnp.minimum(cast_like(factor, exponent) ** exponent, most)
    return jnp.minimum(cast_like(value, exponent) * grown, most)


def _time(step: Unchecked) -> Array:
    """Return a step as an array of int32 or of floating-point numbers, 0 or more."""
    dtype: Unchecked = getattr(step, "dtype", None)
    if isinstance(step, int) and not isinstance(step, bool):
        return jnp.int32(min(max(step, 0), _LAST))
    if isinstance(step, float) or (dtype is not None and jnp.issubdtype(dtype, jnp.floating)):
        return jnp.maximum(_float(step), 0)
    if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        raise InputError("a step", describe(step), "pass an integer of 0 or more")
    if not isinstance(step, jax.Array):
        step = np.minimum(np.asarray(step, "float64"), _LAST).astype("int32")
    elif jnp.iinfo(step.dtype).max > _LAST:
        step = jnp.minimum(step, jnp.asarray(_LAST, step.dtype))
    # In small integers the arithmetic would overflow.
    return jnp.maximum(jnp.asarray(step).astype(jnp.int32), 0)


def _float(t: Unchecked) -> Array:
    """Return a step as a floating-point number."""
    return jnp.asarray(t).astype(jnp.result_type(float))


def _steps(name: str, value: int) -> int:
    """Return a number of steps as a plain integer, or raise."""
    check.count(
        value, name, remedy="pass a number of steps, as in epochs * (examples // batch_size)"
    )
    return int(value)


def _listed(name: str, values: Unchecked) -> list[Unchecked]:
    """Return the elements of a sequence, or raise."""
    return list(check.several(values, name))


def _check_schedule(name: str, schedule: Unchecked) -> None:
    """Raise for what is no function of the step with values of 0 or more."""
    remedy = "wrap a number in constant(...)"
    check.function(schedule, f"{name}, a schedule,", remedy, takes="step")
    check.hyperparameter(schedule, name, least=0)
