"""Hard activations: straight lines in place of curves, cheap where arithmetic is dear.

All act elementwise: x, y, dy and dx have one shape, (...). At both kinks of each the slope is that
of the flat or straight side away from the middle: 0, or 1 for `hard_silu` at 3. All let NaN pass,
and compute in float32 for bfloat16 and float16.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.precision import downcast, upcast
from fnn._core.types import Array, Cotangent, Input, Output, Residuals, Scalar, Unchecked
from fnn.layer import Layer
from fnn.layers.activation.piecewise import activation


@constructor
def hard_sigmoid() -> Layer:
    """Hard sigmoid: a straight line cut off at 0 and 1.

    Forward:   y = 0 where x <= -3, 1 where x >= 3, else (x + 3) / 6
    Backward:  dx = dy / 6 where -3 < x < 3, else 0

    Shapes:    x, y (...)
    Saves:     where -3 < x < 3, one byte an element
    Raises:    InputError for x of integers.
    Source:    Courbariaux, Bengio and David 2015, arXiv:1511.00363, eq. 3, with the slope 1 / 6 of
        Howard et al. 2019, arXiv:1905.02244, section 5.2.

    >>> import jax.numpy as jnp
    >>> hard_sigmoid().apply((), (), jnp.array([-4.0, 0.0, 4.0]))[0]
    Array([0. , 0.5, 1. ], dtype=float32)
    """

    def forward(x: Input) -> tuple[Output, Residuals]:
        # y would not do for the slope: it rounds to 1 a little below x = 3.
        return downcast(_line(upcast(x)), x), (x > -3) & (x < 3)

    return activation(forward, lambda middle, dy: jnp.where(middle, dy / 6, 0))


@constructor
def hard_tanh(low: float = -1.0, high: float = 1.0) -> Layer:
    """Hard tanh: x cut off below and above.

    Forward:   y = low where x <= low, high where x >= high, else x
    Backward:  dx = dy where low < x < high, else 0

    Args:
        low: the least y.
        high: the greatest y, above `low`.
    Shapes:    x, y (...)
    Saves:     y, which lies between the bounds just where x does
    Raises:    InputError unless low < high, and for x of integers.
    Source:    Collobert 2004, Large Scale Machine Learning (thesis, Paris 6), chapter 6.

    >>> import jax.numpy as jnp
    >>> hard_tanh().apply((), (), jnp.array([-4.0, 0.5, 4.0]))[0]
    Array([-1. ,  0.5,  1. ], dtype=float32)
    """
    _check_bounds(low, high)
    return _clip(low, high)


@constructor
def relu6() -> Layer:
    """ReLU6: a ReLU cut off at 6, which 8 bits can hold.

    Forward:   y = min(max(x, 0), 6)
    Backward:  dx = dy where 0 < x < 6, else 0

    Shapes:    x, y (...)
    Saves:     y
    Raises:    InputError for x of integers.
    Source:    Krizhevsky 2010, Convolutional Deep Belief Networks on CIFAR-10, section 2.

    >>> import jax.numpy as jnp
    >>> relu6().apply((), (), jnp.array([-4.0, 3.0, 9.0]))[0]
    Array([0., 3., 6.], dtype=float32)
    """
    return _clip(0, 6)


@constructor
def hard_silu() -> Layer:
    """Hard SiLU (hard swish): x times its hard sigmoid.

    Forward:   y = x h, with h = 0 where x <= -3, 1 where x >= 3, else (x + 3) / 6
    Backward:  dx = 0 where x <= -3, dy where x >= 3, else dy (2 x + 3) / 6

    Shapes:    x, y (...)
    Saves:     x
    Raises:    InputError for x of integers.
    Source:    Howard et al. 2019, arXiv:1905.02244, section 5.2.

    >>> import jax.numpy as jnp
    >>> hard_silu().apply((), (), jnp.array([-4.0, 0.0, 4.0]))[0]
    Array([-0.,  0.,  4.], dtype=float32)
    """

    def forward(x: Input) -> tuple[Output, Residuals]:
        wide = upcast(x)
        return downcast(wide * _line(wide), x), x

    def backward(x: Residuals, dy: Cotangent) -> Cotangent:
        wide = upcast(x)
        slope = jnp.where(wide <= -3, 0, jnp.where(wide >= 3, 1, (2 * wide + 3) / 6))
        return downcast(upcast(dy) * slope.astype(wide.dtype), dy)

    return activation(forward, backward)


def _check_bounds(low: Unchecked, high: Unchecked) -> None:
    """Raise unless low is below high, as far as both are known."""
    check.number(low, "low")
    floor = -math.inf if isinstance(low, jax.core.Tracer) else float(low)
    check.number(high, "high", above=floor, remedy="pass the lower bound first")


def _clip(low: Scalar, high: Scalar) -> Layer:
    """Make the layer that cuts x off at two bounds."""

    def forward(x: Input) -> tuple[Output, Residuals]:
        y = _clipped(x, low, high)
        return y, y

    def backward(y: Residuals, dy: Cotangent) -> Cotangent:
        # The bounds as y has them: a float32 y is compared with a float32 bound.
        middle = (y > jnp.asarray(low, y.dtype)) & (y < jnp.asarray(high, y.dtype))
        return jnp.where(middle, dy, 0)

    return activation(forward, backward)


def _line(x: Array) -> Array:
    """Return the hard sigmoid of x."""
    return (_clipped(x, -3, 3) + 3) / 6


def _clipped(x: Input, low: Scalar, high: Scalar) -> Array:
    """Cut x off; unlike `jnp.clip` with the slopes of this file at its kinks, by autodiff too."""
    x = jnp.asarray(x)
    low, high = jnp.asarray(low, x.dtype), jnp.asarray(high, x.dtype)
    return jnp.where(x <= low, low, jnp.where(x >= high, high, x))
