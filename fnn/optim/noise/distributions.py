"""Distributions of noise: how random bits become numbers of mean 0 and variance 1.

A distribution has a name to be asked for by, ``distribution="laplace"``, and a constructor for one
with settings, ``distribution=student(3.0)``. A word of 32 bits gives a sign and a share p in (0,
1], the probability of something more extreme, with full precision where it is small: tails reach
6.3 standard deviations. Numbers are computed in float32 and then take the dtype of the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import Described, constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import Array, Number, Unchecked
from fnn.optim._hyperparameters import cast_like

Norm = Literal["free", "sphere", "ball"]

# Polynomials of least error, the highest power first. With these the numbers cost a third of what
# they do with the functions of XLA, which are exact to the last bit and for every input.
# log2(1.5 + t) = (0.5 + t) (1 + (0.5 - t) h(t)) for t in [-0.5, 0.5), to 2.3e-6.
_LOG2 = (0.0258413614, -0.0442735359, 0.076776382, -0.152698052, 0.339852541)
# sqrt(2) erfinv(1 - p) / (1 - p) in t = sqrt(1.5 - log(p (2 - p))) - CENTRE, to 8.1e-6 of itself
# for p from 2^-33 to 1.
_CENTER = 3.0455139121609647
_QUANTILE = (
    0.000147996052, -0.000181467536, -0.00157474301, 0.00280975826, 0.00426396039,
    -0.0153203223, 0.017134106, -0.00771089905, -0.0215742991, 1.53886131, 3.70740409,
)  # fmt: skip
# cos(pi v) in v^2 for v in [-1, 1], to 7.8e-7.
_COSINE = (-0.0205826172, 0.229663821, -1.3323809, 4.05804532, -4.93474562, 0.999999221)

_MOST_WORDS = 64


@dataclass(frozen=True, eq=False, repr=False)
class Distribution(Described):
    """Distribution of noise: how random words become values of mean 0 and variance 1.

    Args:
        words: how many random words of 32 bits a value takes.
        numbers: the function of these words.
        norm: ``"free"`` for independent values; ``"sphere"`` where all values of all parameters
            together are scaled to a norm of 1, ``"ball"`` to one at random inside.
        call: the call of the `constructor` that made it.
    Raises:    InputError for no words or more than 64, what is no function of so many, and another
        norm.

    >>> Distribution(1, lambda word: word.astype("float32"), "free").norm
    'free'

    """

    functions: ClassVar[tuple[str, ...]] = ("numbers",)
    words: int
    numbers: Callable[..., Array]
    norm: Norm

    def __post_init__(self) -> None:
        check.count(self.words, "words")
        if self.words > _MOST_WORDS:
            expected = f"words of {_MOST_WORDS} at most"
            raise InputError(expected, str(self.words), "draw on from a word, as by hashing it")
        words = ", ".join(f"word_{i}" for i in range(self.words))
        check.function(self.numbers, "numbers", takes=words)
        check.one_of(self.norm, "norm", get_args(Norm))


@constructor
def gaussian() -> Distribution:
    """Gaussian (normal) distribution.

    Forward:   n = Phi^-1(u), u the random word as a number in (0, 1), to 8.1e-6 of itself

    >>> str(gaussian())
    'gaussian()'
    """
    return Distribution(1, _gaussian, "free")


@constructor
def uniform() -> Distribution:
    """Uniform distribution on ``[-sqrt(3), sqrt(3)]``, which has variance 1.

    Forward:   n = sqrt(3) (2 u - 1)

    >>> float(uniform().numbers(jnp.uint32(2**31)))
    -1.7320507764816284
    """

    def numbers(word: Array) -> Array:
        return word.astype(jnp.int32).astype(jnp.float32) * (math.sqrt(3) * 2.0**-31)

    return Distribution(1, numbers, "free")


@constructor
def rademacher() -> Distribution:
    """Rademacher distribution: -1 or 1, each half of the time.

    Forward:   n = sign(u - 1/2)

    >>> float(rademacher().numbers(jnp.uint32(1)))
    -1.0
    """
    return Distribution(1, lambda word: _signed(word, jnp.ones(word.shape, jnp.float32)), "free")


@constructor
def laplace() -> Distribution:
    """Laplace distribution: density ``exp(-sqrt(2) |n|) / sqrt(2)``, variance 1, kurtosis 6.

    Forward:   n = s log(1 / p) / sqrt(2), s a random sign and p uniform in (0, 1]

    >>> float(laplace().numbers(jnp.uint32(2**31))) > 0
    True
    """
    return Distribution(1, lambda word: _signed(word, -_log(_share(word)) * math.sqrt(0.5)), "free")


@constructor
def student(degrees: Number = 5.0) -> Distribution:
    """Student's t distribution: heavy tails, scaled to variance 1.

    The density falls as ``|n|^-(degrees + 1)``; for many degrees it is the Gaussian.

    Forward:   n = sqrt((degrees - 2) (u^(-2 / degrees) - 1)) cos(pi v), u and v uniform

    Args:
        degrees: degrees of freedom, > 2; the fewer, the heavier the tails.
    Raises:    InputError for 2 degrees or fewer, whose variance is infinite.
    Source:    Bailey 1994, Mathematics of Computation 62, theorem 1.

    >>> str(student(3.0))
    'student(3.0)'

    """
    remedy = "pass more: the variance is infinite at 2 and below"
    check.number(degrees, "degrees of freedom", above=2, remedy=remedy)

    def numbers(word: Array, other: Array) -> Array:
        freedom = cast_like(degrees, jnp.zeros((), jnp.float32))
        # Not exp(...) - 1, of which nothing is left where the degrees are many.
        growth = jnp.expm1(-2 / freedom * _log(_share(word)))
        angle = other.astype(jnp.int32).astype(jnp.float32) * 2.0**-31
        radius = jnp.sqrt((freedom - 2) * jnp.maximum(growth, 0))
        return radius * _polynomial(_COSINE, jnp.square(angle))

    return Distribution(2, numbers, "free")


@constructor
def sphere() -> Distribution:
    """Uniform distribution on the sphere of radius 1 in the space of all parameters.

    The scale of a noise of it is the radius, not a standard deviation.

    Forward:   n = g / |g|, g Gaussian

    >>> sphere().norm
    'sphere'
    """
    return Distribution(1, _gaussian, "sphere")


@constructor
def ball() -> Distribution:
    """Uniform distribution in the ball of radius 1 in the space of all parameters.

    The scale of a noise of it is the radius, not a standard deviation.

    Forward:   n = u^(1/d) g / |g|, g Gaussian, of d values in all

    >>> ball().norm
    'ball'
    """
    return Distribution(1, _gaussian, "ball")


DISTRIBUTIONS = {
    distribution.__name__: distribution
    for distribution in (gaussian, uniform, rademacher, laplace, student, sphere, ball)
}


def distribution_of(distribution: Unchecked) -> Distribution:
    """Return the distribution of a name, or the distribution itself.

    Args:
        distribution: ``"gaussian"``, ``"uniform"``, ``"rademacher"``, ``"laplace"``, ``"student"``,
            ``"sphere"`` or ``"ball"``, or a value of this module.
    Raises:    InputError for what is neither.

    >>> distribution_of("laplace")
    laplace()

    """
    if isinstance(distribution, Distribution):
        return distribution
    if isinstance(distribution, str) and distribution in DISTRIBUTIONS:
        return DISTRIBUTIONS[distribution]()
    raise InputError(
        f"a distribution of {', '.join(map(repr, DISTRIBUTIONS))}",
        describe(distribution),
        "pass one of these names, or a distribution such as fnn.optim.distributions.student(3.0)",
    )


def _gaussian(word: Array) -> Array:
    """Return the quantile of the share in a word, with the sign of the word."""
    share = _share(word)
    t = jnp.sqrt(1.5 - _log(share * (2 - share))) - _CENTER
    return _signed(word, _polynomial(_QUANTILE, t) * (1 - share))


def _share(word: Array) -> Array:
    """Return the upper 31 bits as a number in (0, 1]; the lowest is the sign."""
    return ((word >> 1).astype(jnp.int32).astype(jnp.float32) + 0.5) * 2.0**-31


def _signed(word: Array, size: Array) -> Array:
    """Flip the sign of a size if the lowest bit of the word is 1, by moving it to the sign bit."""
    flipped = jax.lax.bitcast_convert_type(size, jnp.uint32) ^ (word << 31)
    return jax.lax.bitcast_convert_type(flipped, jnp.float32)


def _log(number: Array) -> Array:
    """Return the logarithm of normal float32 numbers in (0, 1], to 2e-6, from their bits."""
    stored = jax.lax.bitcast_convert_type(number, jnp.int32)
    exponent = ((stored >> 23) - 127).astype(jnp.float32)
    t = jax.lax.bitcast_convert_type((stored & 0x7FFFFF) | 0x3F800000, jnp.float32) - 1.5
    return math.log(2) * (exponent + (0.5 + t) * (1 + (0.5 - t) * _polynomial(_LOG2, t)))


def _polynomial(coefficients: tuple[float, ...], t: Array) -> Array:
    """Evaluate a polynomial, the coefficient of the highest power first."""
    value = jnp.full_like(t, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * t + coefficient
    return value
