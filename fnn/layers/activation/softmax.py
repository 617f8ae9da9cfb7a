"""Softmax: scores of classes turned into probabilities, along one axis.

x, y, dy and dx have one shape, (...). Of bfloat16 and float16 the sums, and all between x and y,
are float32. Both raise `fnn.InputError` for an x of integers, or without the axis.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.precision import downcast, upcast
from fnn.layer import Layer
from fnn.layers.activation.piecewise import activation


@constructor
def softmax(axis: int = -1) -> Layer:
    """Softmax: scores turned into probabilities, positive and of sum 1 along an axis.

    Forward ``y_k = exp(x_k) / sum_j exp(x_j)``; backward ``dx_k = y_k (dy_k - sum_j dy_j y_j)``,
    the whole Jacobian, not the shortcut that holds in front of a cross-entropy (for that one train
    on scores with `fnn.losses.cross_entropy`). Saved: y. Source: Bridle 1990, section 3.

    >>> import jax.numpy as jnp
    >>> softmax().apply((), (), jnp.array([0.0, 0.0]))[0]
    Array([0.5, 0.5], dtype=float32)
    """

    def forward(x: Any) -> tuple[Any, Any]:
        _check_axis(axis, x)
        y = downcast(jax.nn.softmax(upcast(x), axis), x)
        return y, y

    def backward(y: Any, dy: Any) -> Any:
        y, wide = upcast(y), upcast(dy)
        return downcast(y * (wide - (wide * y).sum(axis, keepdims=True)), dy)

    return activation(forward, backward)


@constructor
def log_softmax(axis: int = -1) -> Layer:
    """Log-softmax: scores turned into log-probabilities, without overflow.

    Forward ``y_k = x_k - log(sum_j exp(x_j))``; backward ``dx_k = dy_k - exp(y_k) sum_j dy_j``.
    Saved: y.

    >>> import jax.numpy as jnp
    >>> log_softmax().apply((), (), jnp.array([0.0, 1000.0]))[0]
    Array([-1000.,     0.], dtype=float32)
    """

    def forward(x: Any) -> tuple[Any, Any]:
        _check_axis(axis, x)
        y = downcast(jax.nn.log_softmax(upcast(x), axis), x)
        return y, y

    def backward(y: Any, dy: Any) -> Any:
        wide = upcast(dy)
        total = wide.sum(axis, keepdims=True)
        return downcast(wide - jnp.exp(upcast(y)) * total, dy)

    return activation(forward, backward)


def _check_axis(axis: int, x: Any) -> None:
    if not check.is_count(axis, -x.ndim) or axis >= x.ndim:
        raise InputError(f"an axis in {-x.ndim}..{x.ndim - 1}", describe(axis), "name an axis of x")
