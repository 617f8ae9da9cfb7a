"""Tolerances: how far two right answers may be apart; the one place that says so."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax.typing import DTypeLike

from fnn._core import check
from fnn._core.errors import InputError, describe, entry

# How many standard deviations a sum of rounding errors may stray: the chance of more is below
# 2 exp(-8^2 / 2) = 3e-14 for each number compared. It also leaves room for the few elementwise
# operations before and after the sum.
LAMBDA = 8


@entry
def rounding(dtype: DTypeLike, terms: int) -> float:
    """Bound the error of a sum of `terms` numbers, relative to its size: 8 sqrt(terms) eps.

    Rounding errors are as good as random, and their sum grows with the root of their number.

    Args:
        dtype: the dtype of the sum.
        terms: the number of its terms.
    Raises:    InputError for a dtype that is not floating, and a number below 0.
    Source:    Higham and Mary 2019, doi:10.1137/18M1226312, theorem 2.4, with lambda = 8.

    >>> rounding("float32", 100) < 1e-5
    True

    """
    check.count(terms, "terms", least=0)
    return LAMBDA * terms**0.5 * _epsilon(dtype)


@entry
def difference(dtype: DTypeLike, terms: int, doubt: float = 0.0) -> float:
    """Bound a central difference of a sum of `terms` numbers: 8 sqrt(terms) eps^(2/3) + 8 doubt.

    With the step h = eps^(1/3) the truncation h^2 f''' / 6 and the rounding eps f / h both are of
    the order eps^(2/3), for a function that bends on a scale of 1; the doubt speaks for one that
    bends more, or is larger than its slope.

    Args:
        dtype: the dtype of the function.
        terms: the number of terms of its sum.
        doubt: what halving the step changes.
    Raises:    InputError for a dtype that is not floating, and numbers below 0.
    Source:    Press et al., Numerical Recipes, section 5.7.

    >>> difference("float64", 100) < 1e-8
    True

    """
    check.count(terms, "terms", least=0)
    # What halving the step changes may well be infinite, or NaN.
    if not (isinstance(doubt, float) and (math.isnan(doubt) or doubt == math.inf)):
        check.number(doubt, "doubt", least=0)
    return LAMBDA * terms**0.5 * _epsilon(dtype) ** (2 / 3) + LAMBDA * doubt


def _epsilon(dtype: DTypeLike) -> float:
    """Return the distance from 1 to the next number of a floating dtype."""
    try:
        return float(jnp.finfo(dtype).eps)
    except (TypeError, ValueError) as error:
        remedy = "name one, as in 'float32'"
        raise InputError("a floating dtype", describe(dtype), remedy) from error
