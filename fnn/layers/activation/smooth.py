"""Self-gated activations: each element weighed by a gate between 0 and 1 that it opens by itself.

All act elementwise: x, y, dy and dx have one shape, (...). They are smooth, and fall below 0 before
they rise, so that the slope is no function of y: x is what forward saves. All between x and y, and
between dy and dx, is computed in float32 for bfloat16 and float16. `fnn.layers.activation.gated`
has gates that other elements open.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.elementary import exp, sigmoid
from fnn._core.precision import downcast, upcast
from fnn._core.types import Array, Cotangent
from fnn.layer import Layer
from fnn.layers.activation.piecewise import activation

_ROOT = (2 / jnp.pi) ** 0.5
# The density of the normal at 0.
_PEAK = (2 * jnp.pi) ** -0.5
# Of a^4 to 1, and of a^5 to 1, in `_tail`: the quotient of the two polynomials is fitted to the
# relative error, which stays below 6e-9 for a <= 14.
_ABOVE = (0.00408548996, 0.040425699, 0.18261961, 0.437464141, 0.5)
_BELOW = (0.0102406778, 0.101338935, 0.467845613, 1.19994651, 1.67281324, 1)


@constructor
def gelu(approximate: bool = False) -> Layer:
    """Gaussian error linear unit (GELU): x times the probability that a normal variable is below.

    Forward:   y = x P(x), P the distribution function of the normal
    Backward:  dx = dy (P(x) + x p(x)), p the density of the normal

    Args:
        approximate: take P(x) = (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), and
            p(x) = (1 - tanh(u)^2) u'(x) / 2, as GPT-2 does.
    Shapes:    x, y (...)
    Saves:     x
    Raises:    InputError for an approximate that is no bool, and for x of integers.
    Source:    Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.

    >>> import jax.numpy as jnp
    >>> gelu().apply((), (), jnp.array([0.0, 10.0]))[0]
    Array([ 0., 10.], dtype=float32)
    """
    check.flag(approximate, "approximate", "pass True for the tanh")
    return _from_input(
        lambda x: gelu_function(x, approximate), lambda x: gelu_slope(x, approximate)
    )


@constructor
def silu() -> Layer:
    """Sigmoid linear unit (SiLU, swish): x times its sigmoid.

    Forward:   y = x s, with s = sigmoid(x)
    Backward:  dx = dy s (1 + x (1 - s))

    Shapes:    x, y (...)
    Saves:     x
    Raises:    InputError for x of integers.
    Source:    Elfwing, Uchibe and Doya 2017, arXiv:1702.03118, eqs. 5 and 6.

    >>> import jax.numpy as jnp
    >>> silu().apply((), (), jnp.array([0.0]))[0]
    Array([0.], dtype=float32)
    """
    return _from_input(silu_function, silu_slope)


@constructor
def mish() -> Layer:
    """Mish: x times the tanh of its softplus.

    Forward:   y = x t, with t = tanh(log(1 + exp(x)))
    Backward:  dx = dy (t + x s (1 - t) (1 + t)), with s = sigmoid(x)

    Shapes:    x, y (...)
    Saves:     x
    Raises:    InputError for x of integers.
    Source:    Misra 2019, arXiv:1908.08681, section 2.

    >>> import jax.numpy as jnp
    >>> mish().apply((), (), jnp.array([0.0, 20.0]))[0]
    Array([ 0., 20.], dtype=float32)
    """
    return _from_input(lambda x: x * _mish_gate(x)[0], _mish_slope)


def _from_input(function: Callable[[Array], Array], slope: Callable[[Array], Array]) -> Layer:
    """Make an activation from its function and the slope as a function of the input x."""

    def backward(x: Array, dy: Cotangent) -> Cotangent:
        # Else XLA keeps what both have in common, an exponential or a quotient, beside x.
        z = upcast(jax.lax.optimization_barrier(x))
        return downcast(upcast(dy) * slope(z), dy)

    return activation(lambda x: (downcast(function(upcast(x)), x), x), backward)


def gelu_function(x: Array, approximate: bool) -> Array:
    """Return `gelu` at x.

    Args:
        x: (...), in float32 or better.
        approximate: whether to use the tanh, as in `gelu`.
    """
    if not approximate:
        return _gelu(x)
    return x * sigmoid(_twice_u(_unsaturated(x)))


def gelu_slope(x: Array, approximate: bool) -> Array:
    """Return the derivative of `gelu` at x.

    Args:
        x: (...), in float32 or better.
        approximate: whether to use the tanh, as in `gelu`.
    """
    if not approximate:
        return _gelu_slope(x)
    # (1 + tanh(u)) / 2 is sigmoid(2 u), which loses no digit where the tanh is close to -1: that of
    # the forward pass, which XLA computes once. The rounding of 1 - s makes 2e-6 of a slope near 1.
    z = _unsaturated(x)
    s = sigmoid(_twice_u(z))
    return s + z * (s * (1 - s)) * (2 * _ROOT * (1 + 3 * 0.044715 * z**2))


@jax.custom_jvp
def _gelu_slope(x: Array) -> Array:
    """Return the derivative of `_gelu` at x."""
    if x.dtype != jnp.float32:
        return _probability(x) + x * _density(x)
    a, decay, ratio = _tail(x)
    left = (ratio - _PEAK * a) * decay
    return jnp.where(x < 0, left, 1 - left)


def _gelu_curvature(x: Array) -> Array:
    """Return the second derivative of `_gelu` at x."""
    density = _density(x)
    return 2 * density - x * (x * density)


_gelu_slope.defjvps(lambda dx, slope, x: _gelu_curvature(x) * dx)


@jax.custom_jvp
def _gelu(x: Array) -> Array:
    """Return x times the probability that a normal variable is below x."""
    if x.dtype != jnp.float32:
        return x * _probability(x)
    a, decay, ratio = _tail(x)
    return jnp.where(x > 0, x, 0) - a * ratio * decay


_gelu.defjvps(lambda dx, y, x: _gelu_slope(x) * dx)


def _probability(x: Array) -> Array:
    """Return the probability that a normal variable is below x."""
    return jax.lax.erfc(-x * 0.5**0.5) / 2


def _density(x: Array) -> Array:
    """Return the density of the normal at x."""
    return exp(-0.5 * x * x) * _PEAK


def _tail(x: Array) -> tuple[Array, Array, Array]:
    """Return a = |x|, exp(-a^2 / 2), and what it is times to be the probability below -a.

    It has more digits in the tail than an erfc, which takes a CPU longer, and its one exponential
    is that of the slope too. Past 14, where the probability is 0, a is cut off: its powers would
    overflow.
    """
    a = jnp.abs(x)
    a = jnp.where(a > 14, 14, a)
    return a, exp(-0.5 * a * a), _polynomial(_ABOVE, a) / _polynomial(_BELOW, a)


def _polynomial(coefficients: tuple[float, ...], a: Array) -> Array:
    """Return the polynomial at a; the coefficient of the highest power comes first."""
    total = jnp.full_like(a, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * a + coefficient
    return total


def _twice_u(x: Array) -> Array:
    """Return ``2 u`` of `gelu`."""
    return 2 * _ROOT * (x + 0.044715 * x**3)


def _unsaturated(x: Array) -> Array:
    """Cut x off where ``sigmoid(2 u)`` is 0 or 1 in float64 too: its cube would overflow."""
    return jnp.clip(x, -25, 25)


def silu_function(x: Array) -> Array:
    """Return `silu` at x.

    Args:
        x: (...), in float32 or better.
    """
    return x * sigmoid(x)


def silu_slope(x: Array) -> Array:
    """Return the derivative of `silu` at x.

    Args:
        x: (...), in float32 or better.
    """
    s, rest = sigmoids(x)
    return s * (1 + x * rest)


def sigmoids(x: Array) -> tuple[Array, Array]:
    """Return ``sigmoid(x)`` and ``sigmoid(-x)``, of one exponential.

    1 - sigmoid(x) would lose every digit where that is close to 1.

    Args:
        x: (...), in float32 or better.
    """
    positive = x >= 0
    # Not |x|, whose own slope at 0 would be that of neither branch.
    decay = exp(jnp.where(positive, -x, x))
    large = 1 / (1 + decay)
    small = decay * large
    return jnp.where(positive, large, small), jnp.where(positive, small, large)


def _mish_gate(x: Array) -> tuple[Array, Array]:
    """Return t of `mish`, and 1 - t.

    With e = exp(-|x|) both are quotients: no tanh and no logarithm, and no digit of 1 - t is lost.
    """
    positive = x >= 0
    e = exp(jnp.where(positive, -x, x))
    whole = jnp.where(positive, 1 + 2 * e * (1 + e), 2 + e * (2 + e))
    t = jnp.where(positive, 1 + 2 * e, e * (2 + e)) / whole
    return t, jnp.where(positive, 2 * e * e, 2) / whole


def _mish_slope(x: Array) -> Array:
    """Return the derivative of `mish` at x."""
    t, rest = _mish_gate(x)
    return t + x * sigmoids(x)[0] * rest * (1 + t)
