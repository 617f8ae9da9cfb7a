"""Losses of numbers: prediction and target (B, ...), summed over all axes but the first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.precision import wide_dtype
from fnn._core.types import Array, PyTree
from fnn.losses._loss import Loss, check_numbers, check_signs, of_forward


@constructor
def squared_error() -> Loss:
    """L2 loss: the sum of squared differences.

    Forward ``v_b = sum_o (y_bo - t_bo)^2``; backward ``dy_bo = 2 (y_bo - t_bo) dv_b``.
    y and t (B, ...), v (B,). Saved: the slope 2 (y - t).

    Raises `fnn.InputError` for shapes that differ.

    >>> import jax.numpy as jnp
    >>> squared_error().apply(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]]))
    Array([5.], dtype=float32)
    """

    def error(y: Array, t: Array) -> tuple[Array, Array]:
        return jnp.square(y - t), 2 * (y - t)

    return _of_numbers(error)


@constructor
def absolute_error() -> Loss:
    """L1 loss: the sum of absolute differences.

    Forward ``v_b = sum_o |y_bo - t_bo|``; backward ``dy_bo = sign(y_bo - t_bo) dv_b``, zero where
    y = t. y and t (B, ...), v (B,). Saved: the sign.

    Raises `fnn.InputError` for shapes that differ.

    >>> import jax.numpy as jnp
    >>> absolute_error().apply(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]]))
    Array([3.], dtype=float32)
    """

    def error(y: Array, t: Array) -> tuple[Array, Array]:
        return jnp.abs(y - t), jnp.sign(y - t)

    return _of_numbers(error)


@constructor
def huber(delta: float = 1.0) -> Loss:
    """Huber loss: L2 for small differences, L1 for large ones.

    Forward, with ``e = y_bo - t_bo``, ``v_b = sum_o e^2 / 2 where |e| <= delta, else
    delta (|e| - delta / 2)``; backward ``dy_bo = clip(e, -delta, delta) dv_b``.
    y and t (B, ...), v (B,). Saved: the clipped difference.

    Raises `fnn.InputError` for shapes that differ, and for a delta that is not positive. Source:
    Huber 1964, doi:10.1214/aoms/1177703732, section 5.

    >>> import jax.numpy as jnp
    >>> huber().apply(jnp.array([[0.0, 2.0]]), jnp.array([[1.0, 5.0]]))
    Array([3.], dtype=float32)
    """
    if not delta > 0:
        raise InputError("a delta above 0", describe(delta), "it is where the parabola ends")

    def error(y: Array, t: Array) -> tuple[Array, Array]:
        e = y - t
        size = jnp.abs(e)
        value = jnp.where(size <= delta, e * e / 2, delta * (size - delta / 2))
        return value, jnp.clip(e, -delta, delta)

    return _of_numbers(error)


@constructor
def logistic() -> Loss:
    """Logistic loss of a margin, for labels -1 and +1.

    Forward ``v_b = sum_o log(1 + exp(-t_bo y_bo))``; backward
    ``dy_bo = -t_bo sigmoid(-t_bo y_bo) dv_b``. y and t (B, ...), v (B,). Saved: the slope.

    Raises `fnn.InputError` for shapes that differ, and for labels other than -1 and +1.

    >>> import jax.numpy as jnp
    >>> logistic().apply(jnp.array([[0.0]]), jnp.array([[1]]))
    Array([0.6931472], dtype=float32)
    """

    def error(y: Array, t: Array) -> tuple[Array, Array]:
        return jax.nn.softplus(-t * y), -t * jax.nn.sigmoid(-t * y)

    return _of_numbers(error, check_signs)


@constructor
def hinge() -> Loss:
    """Hinge loss of a margin, for labels -1 and +1: no loss beyond a margin of 1.

    Forward ``v_b = sum_o max(0, 1 - t_bo y_bo)``; backward ``dy_bo = -t_bo dv_b where
    t_bo y_bo < 1, else 0``; at the kink it is 0. y and t (B, ...), v (B,). Saved: the slope.

    Raises `fnn.InputError` for shapes that differ, and for labels other than -1 and +1. Source:
    Cortes and Vapnik 1995, doi:10.1007/BF00994018.

    >>> import jax.numpy as jnp
    >>> hinge().apply(jnp.array([[0.5], [2.0]]), jnp.array([[1], [1]]))
    Array([0.5, 0. ], dtype=float32)
    """

    def error(y: Array, t: Array) -> tuple[Array, Array]:
        missing = 1 - t * y
        return jax.nn.relu(missing), jnp.where(missing > 0, -t, 0)

    return _of_numbers(error, check_signs)


@constructor
def binary_cross_entropy() -> Loss:
    """Binary cross-entropy of a logit y with a probability t in [0, 1].

    Forward ``v_b = sum_o log(1 + exp(y_bo)) - t_bo y_bo``, which is
    ``-t log(p) - (1 - t) log(1 - p)`` with ``p = sigmoid(y)``; backward
    ``dy_bo = (sigmoid(y_bo) - t_bo) dv_b``. y and t (B, ...), v (B,). Saved: the slope.

    Raises `fnn.InputError` for shapes that differ, and for targets outside [0, 1].

    >>> import jax.numpy as jnp
    >>> binary_cross_entropy().apply(jnp.array([[0.0]]), jnp.array([[1.0]]))
    Array([0.6931472], dtype=float32)
    """

    def error(y: Array, t: Array) -> tuple[Array, Array]:
        # log(1 + exp(y)) - t y, from terms that do not cancel when y is large.
        value = (1 - t) * jax.nn.softplus(y) + t * jax.nn.softplus(-y)
        return value, jax.nn.sigmoid(y) - t

    def check_pair(target: Any) -> None:
        check.values(
            target,
            lambda t: (t < 0) | (t > 1),
            "targets in [0, 1]",
            "give the probability of the label 1",
        )

    return _of_numbers(error, check_pair)


@constructor
def poisson() -> Loss:
    """Poisson loss: negative log-likelihood of counts t with log-rate y, up to a constant.

    Forward ``v_b = sum_o exp(y_bo) - t_bo y_bo``, which leaves out ``log(t_bo!)``; backward
    ``dy_bo = (exp(y_bo) - t_bo) dv_b``, 0 at ``y = log(t)``. y and t (B, ...), v (B,). Saved: the
    slope.

    Raises `fnn.InputError` for shapes that differ, and for counts below 0.

    >>> import jax.numpy as jnp
    >>> poisson().apply(jnp.array([[0.0, 1.0]]), jnp.array([[3, 1]]))
    Array([2.7182817], dtype=float32)
    """

    def error(y: Array, t: Array) -> tuple[Array, Array]:
        rate = jnp.exp(y)
        return rate - t * y, rate - t

    def check_pair(target: Any) -> None:
        check.values(
            target,
            lambda t: t < 0,
            "counts of 0 or more",
            "use losses.squared_error for numbers of both signs",
        )

    return _of_numbers(error, check_pair)


@constructor
def cosine_distance() -> Loss:
    """Cosine distance: 1 minus the cosine of the angle between prediction and target.

    Forward ``v = 1 - c`` with ``c = sum_i y_i t_i / (|y| |t|)``; backward
    ``dy = (c y / |y| - t / |t|) / |y| dv``. Where y or t is zero there is no angle: v is 1 and dy
    is 0. y and t (..., C), v (...). Saved: the slope.

    Raises `fnn.InputError` for shapes that differ.

    >>> import jax.numpy as jnp
    >>> cosine_distance().apply(jnp.array([[3.0, 0.0], [0.0, 1.0]]), jnp.array([[-1.0, 0], [2, 0]]))
    Array([2., 1.], dtype=float32)
    """

    def check_pair(prediction: Any, target: Any) -> None:
        check_numbers(prediction, target)

    def forward(prediction: Any, target: Any, /) -> tuple[Array, PyTree]:
        check_pair(prediction, target)
        wide = wide_dtype(prediction.dtype)
        y, size = _direction(prediction.astype(wide))
        t, _ = _direction(jnp.asarray(target).astype(wide))
        cosine = (y * t).sum(-1, keepdims=True)
        slope = jnp.where(size > 0, (cosine * y - t) / jnp.where(size > 0, size, 1), 0)
        return (1 - cosine[..., 0]).astype(prediction.dtype), slope.astype(prediction.dtype)

    def backward(slope: PyTree, dvalues: Any, /) -> Any:
        return slope * dvalues[..., None]

    return of_forward(forward, backward, check_pair)


def _direction(x: Array) -> tuple[Array, Array]:
    """Return ``x / |x|`` and ``|x|`` along the last axis, zeros for zeros."""
    # Squares of numbers near 1 neither overflow nor vanish. The scale cancels out of x / |x|, so
    # that its derivative may be left out.
    scale = jax.lax.stop_gradient(jnp.abs(x).max(-1, keepdims=True))
    scale = jnp.where(scale > 0, scale, 1)
    scaled = x / scale
    square = jnp.square(scaled).sum(-1, keepdims=True)
    length = jnp.sqrt(jnp.where(square > 0, square, 1))
    return jnp.where(square > 0, scaled / length, 0), jnp.where(square > 0, scale * length, 0)


def _of_numbers(
    error: Callable[[Array, Array], tuple[Array, Array]],
    check_target: Callable[[Any], None] = lambda target: None,
) -> Loss:
    """Make a loss from ``error(y, t) -> value, slope``, both for each number by itself."""

    def check_pair(prediction: Any, target: Any) -> None:
        check_numbers(prediction, target)
        check_target(target)

    def forward(prediction: Any, target: Any, /) -> tuple[Array, PyTree]:
        check_pair(prediction, target)
        value, slope = error(prediction, jnp.asarray(target, prediction.dtype))
        return value.sum(tuple(range(1, value.ndim))), slope

    def backward(slope: PyTree, dvalues: Any, /) -> Any:
        return slope * dvalues.reshape(dvalues.shape + (1,) * (slope.ndim - 1))

    return of_forward(forward, backward, check_pair)
