"""Softmax: logits of classes turned into probabilities, along one axis.

Of bfloat16 and float16 the sums, and all between x and y, are float32. A logit of -inf rules its
class out; where all are -inf, y is NaN. The largest and the sum of a row are added with the sign
changed: a difference XLA for CPUs would compute in one slow kernel with them, and write
(log-softmax of 512x1000 in training 0.6 of the time).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.elementary import exponentials
from fnn._core.precision import downcast, upcast, wide_dtype
from fnn._core.sums import if_finite, sum_of_product
from fnn._core.types import Array, Cotangent, Input, Output, Residuals
from fnn.combinators._parts import check_axis
from fnn.layer import Layer
from fnn.layers.activation.piecewise import activation


@constructor
def softmax(axis: int = -1) -> Layer:
    """Softmax: logits turned into probabilities, positive and of sum 1 along an axis.

    The backward is the whole Jacobian, not the shortcut that holds in front of a cross-entropy: for
    that one train on logits with `fnn.losses.cross_entropy`.

    Forward:   y_k = exp(x_k) / sum_j exp(x_j)
    Backward:  dx_k = y_k (dy_k - sum_j dy_j y_j); where y_j is 0, as for a logit of -inf, dy_j does
        not count, even if it is NaN

    Args:
        axis: the axis of the classes.
    Shapes:    x, y (...)
    Saves:     y
    Raises:    InputError for x without that axis, and for x of integers.
    Source:    Bridle 1990, section 3.

    >>> import jax.numpy as jnp
    >>> softmax().apply((), (), jnp.array([0.0, 0.0]))[0]
    Array([0.5, 0.5], dtype=float32)
    """
    check.axis(axis)

    def forward(x: Input) -> tuple[Output, Residuals]:
        check_axis(axis, x)
        if not x.size:
            return x, x
        wide = upcast(x)
        # Not `exponentials`, which a large softmax takes 1.1 to 1.2 times as long with.
        e = jnp.exp(wide + -jax.lax.stop_gradient(wide.max(axis, keepdims=True)))
        y = downcast(e / e.sum(axis, keepdims=True), x)
        return y, y

    def backward(y: Residuals, dy: Cotangent) -> Cotangent:
        y, wide = upcast(y), upcast(dy)
        of_all = functools.partial(sum_of_product, axes=axis)
        of_some = functools.partial(_where_not_0, axis=axis)
        total = if_finite(of_all, of_some, y, wide)
        return downcast(jnp.where(y == 0, 0, y * (wide + -total)), dy)

    return activation(forward, backward, positionwise=axis == -1)


def _where_not_0(y: Array, dy: Array, axis: int) -> Array:
    return jnp.where(y == 0, 0, y * dy).sum(axis, keepdims=True)


@constructor
def log_softmax(axis: int = -1) -> Layer:
    """Log-softmax: logits turned into log-probabilities, without overflow.

    Forward:   y_k = x_k - log(sum_j exp(x_j))
    Backward:  dx_k = dy_k - p_k sum_j dy_j, p = exp(y)

    Args:
        axis: the axis of the classes.
    Shapes:    x, y (...)
    Saves:     p; of bfloat16 and float16 x, as a small p would be rounded to few digits
    Raises:    InputError for x without that axis, and for x of integers.

    >>> import jax.numpy as jnp
    >>> log_softmax().apply((), (), jnp.array([0.0, 1000.0]))[0]
    Array([-1000.,     0.], dtype=float32)
    """
    check.axis(axis)

    def forward(x: Input) -> tuple[Output, Residuals]:
        check_axis(axis, x)
        if not x.size:
            return x, x
        wide = upcast(x)
        top, e, total = exponentials(wide, axis)
        y = downcast(wide + -top - jnp.log(total), x)
        return y, x if _is_half(x) else e * (1 / total)

    def backward(saved: Residuals, dy: Cotangent) -> Cotangent:
        wide = upcast(dy)
        if not dy.size:
            return dy
        p = jax.nn.softmax(upcast(saved), axis) if _is_half(saved) else saved
        return downcast(wide + p * -wide.sum(axis, keepdims=True), dy)

    return activation(forward, backward, positionwise=axis == -1)


def _is_half(x: Input) -> bool:
    """Say whether an array has 16 bits an element."""
    return wide_dtype(x.dtype) != x.dtype
