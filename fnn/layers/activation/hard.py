"""Hard activations: straight lines in place of curves, cheap where arithmetic is dear.

All act on each number by itself; x, y, dy and dx have one shape, (...). At both kinks of each the
slope is that of the flat or straight side away from the middle: 0, or 1 for `hard_silu` at 3. All
raise `fnn.InputError` for an x of integers, and let NaN pass.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn.layer import Layer
from fnn.layers.activation.piecewise import activation


@constructor
def hard_sigmoid() -> Layer:
    """Hard sigmoid: a straight line cut off at 0 and 1.

    Forward ``y = 0 where x <= -3, 1 where x >= 3, else (x + 3) / 6``; backward
    ``dx = dy / 6 where -3 < x < 3, else 0``. Saved: where that is, one byte a number. Source:
    Courbariaux, Bengio and David 2015, arXiv:1511.00363, eq. 3, with the slope 1 / 6 of Howard et
    al. 2019, arXiv:1905.02244, section 5.2.

    >>> import jax.numpy as jnp
    >>> hard_sigmoid().apply((), (), jnp.array([-4.0, 0.0, 4.0]))[0]
    Array([0. , 0.5, 1. ], dtype=float32)
    """

    def forward(x: Any) -> tuple[Any, Any]:
        # y would not do for the slope: it rounds to 1 a little below x = 3.
        return (_clipped(x, -3, 3) + 3) / 6, (x > -3) & (x < 3)

    return activation(forward, lambda middle, dy: jnp.where(middle, dy / 6, 0))


@constructor
def hard_tanh(low: float = -1.0, high: float = 1.0) -> Layer:
    """Hard tanh: x cut off below `low` and above `high`.

    Forward ``y = low where x <= low, high where x >= high, else x``; backward
    ``dx = dy where low < x < high, else 0``. Saved: y, which lies between them just where x does.

    Raises `fnn.InputError` unless `low` is below `high`. Source: Collobert 2004, Large Scale
    Machine Learning (thesis, Paris 6), chapter 6.

    >>> import jax.numpy as jnp
    >>> hard_tanh().apply((), (), jnp.array([-4.0, 0.5, 4.0]))[0]
    Array([-1. ,  0.5,  1. ], dtype=float32)
    """
    if not low < high:
        raise InputError("low below high", f"{describe(low)} and {describe(high)}", "swap the two")
    return _clip(low, high)


@constructor
def relu6() -> Layer:
    """ReLU6: ``min(max(x, 0), 6)``, which 8 bits can hold.

    Forward ``y = 0 where x <= 0, 6 where x >= 6, else x``; backward
    ``dx = dy where 0 < x < 6, else 0``. Saved: y. Source: Krizhevsky 2010, Convolutional Deep
    Belief Networks on CIFAR-10, section 2.

    >>> import jax.numpy as jnp
    >>> relu6().apply((), (), jnp.array([-4.0, 3.0, 9.0]))[0]
    Array([0., 3., 6.], dtype=float32)
    """
    return _clip(0, 6)


@constructor
def hard_silu() -> Layer:
    """Hard SiLU (hard swish): x times its hard sigmoid.

    Forward ``y = x h`` with ``h = 0 where x <= -3, 1 where x >= 3, else (x + 3) / 6``; backward
    ``dx = 0 where x <= -3, dy where x >= 3, else dy (2 x + 3) / 6``. Saved: x. Source: Howard et
    al. 2019, arXiv:1905.02244, section 5.2.

    >>> import jax.numpy as jnp
    >>> hard_silu().apply((), (), jnp.array([-4.0, 0.0, 4.0]))[0]
    Array([-0.,  0.,  4.], dtype=float32)
    """

    def forward(x: Any) -> tuple[Any, Any]:
        return x * ((_clipped(x, -3, 3) + 3) / 6), x

    def backward(x: Any, dy: Any) -> Any:
        slope = (2 * x + 3) / 6
        return dy * jnp.where(x <= -3, 0, jnp.where(x >= 3, 1, slope)).astype(x.dtype)

    return activation(forward, backward)


def _clip(low: float, high: float) -> Layer:
    def forward(x: Any) -> tuple[Any, Any]:
        y = _clipped(x, low, high)
        return y, y

    # The bounds as y has them: a float32 y is compared with a float32 bound.
    return activation(forward, lambda y, dy: jnp.where((y > low) & (y < high), dy, 0))


def _clipped(x: Any, low: float, high: float) -> Any:
    """Cut x off; unlike `jnp.clip` with the slopes of this file at its kinks, by autodiff too."""
    return jnp.where(x <= low, low, jnp.where(x >= high, high, x))
