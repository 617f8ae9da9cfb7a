"""Laws of noise: how random bits become numbers of mean 0 and variance 1.

A law has a name to be asked for by, ``law="laplace"``, and a constructor for one with settings,
``law=student(3.0)``. A word of 32 bits gives a sign and a share p in (0, 1], the probability of
something more extreme, with full precision where it is small: tails reach 6.3 standard deviations.
Numbers are computed in float32 and then take the dtype of the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from fnn.errors import InputError, describe
from fnn.layer import Array
from fnn.origin import Made, constructor

# sqrt(2) erfinv(1 - p) / (1 - p) as a polynomial in sqrt(1 - log(p (2 - p))) - CENTRE, the highest
# power first: least relative error, 2.3e-6 with float32 arithmetic, for p from 2^-33 to 1.
_CENTRE = 2.907317478957713
_QUANTILE = (
    -2.4145248e-05, 3.77398406e-06, 0.000355425929, -0.000229679903, -0.00200267888,
    0.00282038322, 0.00346815145, -0.0132297863, 0.019032797, -0.0164134818, -0.00413984519,
    1.49753966, 3.62508805,
)  # fmt: skip


class _Law(NamedTuple):
    words: int
    numbers: Callable[..., Array]
    norm: str


class Law(Made, _Law):
    """How many words a number takes, the function of these words, and what its norm is to be.

    The norm is ``"free"`` for independent numbers. All numbers of all parameters together are
    scaled to a norm of 1 with ``"sphere"``, and to one at random inside with ``"ball"``.
    """


@constructor
def gaussian() -> Law:
    """Draw from a normal distribution: ``Phi^-1`` of the word.

    >>> str(gaussian())
    'gaussian()'
    """
    return Law(1, _gaussian, "free")


@constructor
def uniform() -> Law:
    """Draw from the interval ``[-sqrt(3), sqrt(3)]``, which has variance 1.

    >>> float(uniform().numbers(jnp.uint32(2**31)))
    -1.7320507764816284
    """

    def numbers(word: Array) -> Array:
        return word.astype(jnp.int32).astype(jnp.float32) * (math.sqrt(3) * 2.0**-31)

    return Law(1, numbers, "free")


@constructor
def rademacher() -> Law:
    """Draw -1 or 1, each half of the time.

    >>> float(rademacher().numbers(jnp.uint32(1)))
    1.0
    """
    return Law(1, lambda word: _signed(word, jnp.float32(1)), "free")


@constructor
def laplace() -> Law:
    """Draw from the density ``exp(-sqrt(2) |n|) / sqrt(2)``, of variance 1 and kurtosis 6.

    >>> float(laplace().numbers(jnp.uint32(2**31))) < 0
    True
    """
    return Law(1, lambda word: _signed(word, -jnp.log(_share(word)) * math.sqrt(0.5)), "free")


@constructor
def student(degrees: float = 5.0) -> Law:
    """Draw from Student's distribution with heavy tails, scaled to variance 1.

    ``sqrt((degrees - 2) (u^(-2 / degrees) - 1)) cos(pi v)`` with u and v uniform, the density
    falling as ``|n|^-(degrees + 1)``.

    Raises `fnn.InputError` for degrees of freedom of 2 or less, whose variance is infinite. Source:
    Bailey 1994, Mathematics of Computation 62, theorem 1.

    >>> str(student(3.0))
    'student(3.0)'
    """
    if isinstance(degrees, int | float) and not degrees > 2:
        raise InputError(
            "optim.student",
            "degrees of freedom above 2",
            describe(degrees),
            "pass more: the variance is infinite at 2 and below",
        )

    def numbers(word: Array, other: Array) -> Array:
        radius = jnp.sqrt((degrees - 2) * jnp.expm1(-2 / degrees * jnp.log(_share(word))))
        angle = other.astype(jnp.int32).astype(jnp.float32) * (math.pi * 2.0**-31)
        return radius * jnp.cos(angle)

    return Law(2, numbers, "free")


@constructor
def sphere() -> Law:
    """Draw from the sphere of radius 1 that all numbers of all parameters make together.

    The scale is the radius, not a deviation: ``n / |n|`` with n Gaussian.

    >>> sphere().norm
    'sphere'
    """
    return Law(1, _gaussian, "sphere")


@constructor
def ball() -> Law:
    """Draw from the inside of that sphere, uniformly: ``u^(1/d) n / |n|``, of d numbers in all.

    >>> ball().norm
    'ball'
    """
    return Law(1, _gaussian, "ball")


LAWS = {
    law.__name__: law for law in (gaussian, uniform, rademacher, laplace, student, sphere, ball)
}


def law_of(where: str, law: Any) -> Law:
    """Return the law of a name, or the law itself.

    Raises `fnn.InputError` for what is neither.

    >>> law_of("optim", "laplace")
    laplace()
    """
    if isinstance(law, Law):
        return law
    if isinstance(law, str) and law in LAWS:
        return LAWS[law]()
    raise InputError(
        where,
        f"a law of {', '.join(map(repr, LAWS))}",
        describe(law),
        "pass one of these names, or a law such as fnn.optim.law.student(3.0)",
    )


def _gaussian(word: Array) -> Array:
    share = _share(word)
    t = jnp.sqrt(1 - jnp.log(share * (2 - share))) - _CENTRE
    ratio = jnp.full_like(t, _QUANTILE[0])
    for coefficient in _QUANTILE[1:]:
        ratio = ratio * t + coefficient
    return _signed(word, ratio * (1 - share))


def _share(word: Array) -> Array:
    """Return the upper 31 bits as a number in (0, 1]; the lowest is the sign."""
    return ((word >> 1).astype(jnp.int32).astype(jnp.float32) + 0.5) * 2.0**-31


def _signed(word: Array, size: Array) -> Array:
    return jnp.where((word & 1).astype(bool), size, -size)
