"""Tolerances: how far two right answers may be apart; the one place that says so."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import DTypeLike

# How many standard deviations a sum of rounding errors may stray: the chance of more is below
# 2 exp(-8^2 / 2) = 3e-14 for each number compared. It also leaves room for the few elementwise
# operations before and after the sum.
LAMBDA = 8


def rounding(dtype: DTypeLike, terms: int) -> float:
    """Bound the error of a sum of `terms` numbers, relative to its size: 8 sqrt(terms) eps.

    Rounding errors are as good as random, and their sum grows with the root of their number.

    Args:
        dtype: the dtype of the sum.
        terms: the number of its terms.
    Source:    Higham and Mary 2019, doi:10.1137/18M1226312, theorem 2.4, with lambda = 8.

    >>> rounding("float32", 100) < 1e-5
    True

    """
    return LAMBDA * terms**0.5 * float(jnp.finfo(dtype).eps)


def difference(dtype: DTypeLike, terms: int, doubt: float = 0.0) -> float:
    """Bound a central difference of a sum of `terms` numbers: 8 sqrt(terms) eps^(2/3) + 8 doubt.

    With the step h = eps^(1/3) the truncation h^2 f''' / 6 and the rounding eps f / h both are of
    the order eps^(2/3), for a function that bends on a scale of 1; the doubt speaks for one that
    bends more, or is larger than its slope.

    Args:
        dtype: the dtype of the function.
        terms: the number of terms of its sum.
        doubt: what halving the step changes.
    Source:    Press et al., Numerical Recipes, section 5.7.

    >>> difference("float64", 100) < 1e-8
    True

    """
    return LAMBDA * terms**0.5 * float(jnp.finfo(dtype).eps) ** (2 / 3) + LAMBDA * doubt
