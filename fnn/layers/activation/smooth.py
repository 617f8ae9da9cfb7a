"""Self-gated activations: each number weighed by a gate between 0 and 1 that it opens by itself.

All act on each number by itself; x, y, dy and dx have one shape, (...). They are smooth, and fall
below 0 before they rise, so that the slope is no function of y: x is what forward saves. All raise
`fnn.InputError` for an x of integers. `fnn.layers.gated` has gates that other numbers open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn.layer import Layer
from fnn.layers.activation.piecewise import activation


@constructor
def gelu(approximate: bool = False) -> Layer:
    """Gaussian error linear unit: x times the probability that a normal variable lies below it.

    Forward ``y = x P(x)``, P the distribution function of the normal and p its density; backward
    ``dx = dy (P(x) + x p(x))``. With `approximate`, ``P(x) = (1 + tanh(u)) / 2`` with
    ``u = sqrt(2 / pi) (x + 0.044715 x^3)``, and ``p(x) = (1 - tanh(u)^2) u'(x) / 2``. Saved: x.

    Raises `fnn.InputError` for an `approximate` that is no bool. Source: Hendrycks and Gimpel 2016,
    arXiv:1606.08415, section 2.

    >>> import jax.numpy as jnp
    >>> gelu().apply((), (), jnp.array([0.0, 10.0]))[0]
    Array([ 0., 10.], dtype=float32)
    """
    check_approximate(approximate)
    return _from_input(lambda x: jax.nn.gelu(x, approximate), lambda x: gelu_slope(x, approximate))


@constructor
def silu() -> Layer:
    """SiLU (swish): x times its sigmoid.

    Forward ``y = x s`` with ``s = sigmoid(x)``; backward ``dx = dy s (1 + x (1 - s))``. Saved: x.
    Source: Elfwing, Uchibe and Doya 2017, arXiv:1702.03118, eqs. 5 and 6.

    >>> import jax.numpy as jnp
    >>> silu().apply((), (), jnp.array([0.0]))[0]
    Array([0.], dtype=float32)
    """
    return _from_input(jax.nn.silu, silu_slope)


@constructor
def mish() -> Layer:
    """Mish: x times the tanh of its softplus.

    Forward ``y = x t`` with ``t = tanh(log(1 + exp(x)))``; backward
    ``dx = dy (t + x s (1 - t) (1 + t))`` with ``s = sigmoid(x)``. Saved: x. Source: Misra 2019,
    arXiv:1908.08681, section 2.

    >>> import jax.numpy as jnp
    >>> mish().apply((), (), jnp.array([0.0, 20.0]))[0]
    Array([ 0., 20.], dtype=float32)
    """

    def slope(x: Any) -> Any:
        # With e = exp(-|x|) t, 1 - t and s are quotients: no tanh and no logarithm, and no digit
        # of 1 - t is lost.
        positive = x >= 0
        e = jnp.exp(jnp.where(positive, -x, x))
        whole = jnp.where(positive, 1 + 2 * e * (1 + e), 2 + e * (2 + e))
        t = jnp.where(positive, 1 + 2 * e, e * (2 + e)) / whole
        rest = jnp.where(positive, 2 * e * e, 2) / whole
        return t + x * jnp.where(positive, 1, e) / (1 + e) * rest * (1 + t)

    return _from_input(lambda x: x * jnp.tanh(jax.nn.softplus(x)), slope)


def _from_input(function: Callable[[Any], Any], slope: Callable[[Any], Any]) -> Layer:
    """Make an activation from its function and the slope as a function of the input x."""
    return activation(lambda x: (function(x), x), lambda x, dy: dy * slope(x))


def check_approximate(approximate: bool) -> None:
    """Raise `InputError` unless it is True or False: the string "none" would count as True."""
    if not isinstance(approximate, bool):
        raise InputError(
            "approximate of True or False", describe(approximate), "pass True for the tanh"
        )


def gelu_slope(x: Any, approximate: bool) -> Any:
    """Return the derivative of `gelu` at x."""
    if not approximate:
        # erfc computes exp(-u^2) itself: written alike, XLA computes it once.
        u = -x * 0.5**0.5
        return jax.lax.erfc(u) / 2 + x * (jnp.exp(-(u * u)) * (2 * jnp.pi) ** -0.5)
    root = (2 / jnp.pi) ** 0.5
    t = jnp.tanh(root * (x + 0.044715 * x**3))
    du = root * (1 + 3 * 0.044715 * x**2)
    return (1 + t) / 2 + x * (1 - t) * (1 + t) * du / 2


def silu_slope(x: Any) -> Any:
    """Return the derivative of `silu` at x."""
    s, rest = sigmoids(x)
    return s * (1 + x * rest)


def sigmoids(x: Any) -> tuple[Any, Any]:
    """Return ``sigmoid(x)`` and ``sigmoid(-x)``, of one exponential.

    1 - sigmoid(x) would lose every digit where that is close to 1.
    """
    positive = x >= 0
    # Not |x|, whose own slope at 0 would be that of neither branch.
    decay = jnp.exp(jnp.where(positive, -x, x))
    large = 1 / (1 + decay)
    small = decay * large
    return jnp.where(positive, large, small), jnp.where(positive, small, large)
