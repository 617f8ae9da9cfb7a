"""Schedules: hyper-parameters that depend on the step t, counted from 0.

A schedule is any function of the step; those made here print, and are equal when made by equal
calls, so that a rule holding one is compiled once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from fnn.errors import InputError, describe, is_count
from fnn.origin import Made, constructor


class Schedule(Made):
    """A function of the step: ``schedule(t) -> value``."""

    def __init__(self, value: Callable[[Any], Any]):
        self.value = value

    def __call__(self, step: Any) -> Any:
        """Return the value at a step."""
        return self.value(step)


@constructor
def constant(value: float) -> Schedule:
    """Keep the value: ``value``.

    >>> constant(0.1)(1000)
    0.1
    """
    return Schedule(lambda step: value)


@constructor
def step(value: float, factor: float, every: int) -> Schedule:
    """Multiply by `factor` after every `every` steps: ``value factor^floor(t / every)``.

    Raises `fnn.InputError` for an `every` below 1.

    >>> float(step(0.5, 0.5, every=10)(25))
    0.125
    """
    _check_steps("step", "every", every)
    return Schedule(lambda t: value * factor ** _float(t // every))


@constructor
def exponential(value: float, factor: float, steps: int) -> Schedule:
    """Decay smoothly, by `factor` every `steps` steps: ``value factor^(t / steps)``.

    Raises `fnn.InputError` for `steps` below 1.

    >>> float(exponential(0.5, 0.25, steps=10)(5))
    0.25
    """
    _check_steps("exponential", "steps", steps)
    return Schedule(lambda t: value * factor ** (_float(t) / steps))


@constructor
def cosine(value: float, steps: int, final: float = 0.0) -> Schedule:
    """Go from `value` to `final` along half a cosine, then stay.

    ``final + (value - final) (1 + cos(pi min(t, steps) / steps)) / 2``. Source: Loshchilov and
    Hutter 2016, arXiv:1608.03983, eq. 5, without restarts.

    Raises `fnn.InputError` for `steps` below 1.

    >>> float(cosine(0.5, steps=10)(0)), float(cosine(0.5, steps=10)(10))
    (0.5, 0.0)
    """
    _check_steps("cosine", "steps", steps)

    def at(t: Any) -> Any:
        return (
            final + (value - final) * (1 + jnp.cos(jnp.pi * jnp.minimum(_float(t) / steps, 1))) / 2
        )

    return Schedule(at)


@constructor
def warm_up(steps: int, then: Callable[[Any], Any]) -> Schedule:
    """Rise in a straight line, then follow another schedule, its time starting at the top.

    ``then(0) (t + 1) / steps`` for t < steps, ``then(t - steps)`` after, so that the first step
    already moves.

    Raises `fnn.InputError` for `steps` below 1, and when `then` is a number (write
    ``constant(number)``).

    >>> rate = warm_up(4, constant(0.5))
    >>> [float(rate(t)) for t in range(6)]
    [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    """
    _check_steps("warm_up", "steps", steps)
    if not callable(then):
        raise InputError(
            "optim.schedule.warm_up", "a schedule", describe(then), "wrap it in constant(...)"
        )

    def at(t: Any) -> Any:
        t = jnp.asarray(t)
        rise = then(0) * (_float(t) + 1) / steps
        return jnp.where(t < steps, rise, then(jnp.maximum(t - steps, 0)))

    return Schedule(at)


def _float(t: Any) -> Any:
    return jnp.asarray(t).astype(jnp.float32)


def _check_steps(where: str, name: str, value: int) -> None:
    if not is_count(value, 1):
        raise InputError(
            f"optim.schedule.{where}",
            f"{name} of 1 or more",
            describe(value),
            "pass a number of steps, as in epochs * (examples // batch_size)",
        )
