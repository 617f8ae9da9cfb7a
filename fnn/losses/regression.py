"""Losses of numbers: prediction and target (B, ...), summed over all axes but the first."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.arrays import as_target, rectified
from fnn._core.description import constructor
from fnn._core.elementary import exp, log1p_decay, sigmoid, softplus
from fnn._core.precision import downcast, upcast
from fnn._core.sums import if_finite, sum_of_product
from fnn._core.tree import shape_witness
from fnn._core.types import Array, Cotangent, Prediction, Residuals, Scalar, Target
from fnn.losses._loss import (
    Loss,
    check_numbers,
    check_signs,
    of_forward,
    over_outputs,
    scaled,
)


@constructor
def squared_error() -> Loss:
    """L2 loss: the sum of squared differences.

    Forward:   v_b = sum_o (y_bo - t_bo)^2
    Backward:  dy_bo = 2 (y_bo - t_bo) dv_b

    Shapes:    y, t (B, ...), v (B,)
    Saves:     the slope 2 (y - t)
    Raises:    InputError for shapes that differ.

    >>> import jax.numpy as jnp
    >>> squared_error().apply(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]]))
    Array([5.], dtype=float32)
    """
    return _elementwise(lambda y, t: (jnp.square(y - t), 2 * (y - t)))


@constructor
def absolute_error() -> Loss:
    """L1 loss: the sum of absolute differences.

    Forward:   v_b = sum_o |y_bo - t_bo|
    Backward:  dy_bo = sign(y_bo - t_bo) dv_b, zero where y = t

    Shapes:    y, t (B, ...), v (B,)
    Saves:     the sign
    Raises:    InputError for shapes that differ.

    >>> import jax.numpy as jnp
    >>> absolute_error().apply(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]]))
    Array([3.], dtype=float32)
    """
    return _elementwise(lambda y, t: (jnp.abs(y - t), jnp.sign(y - t)))


@constructor
def huber(delta: float = 1.0) -> Loss:
    """Huber loss: L2 for small differences, L1 for large ones.

    Forward:   v_b = sum_o e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2), e = y_bo - t_bo
    Backward:  dy_bo = clip(e, -delta, delta) dv_b

    Args:
        delta: the difference at which the parabola ends, > 0.
    Shapes:    y, t (B, ...), v (B,)
    Saves:     the clipped difference
    Raises:    InputError for shapes that differ, and for a delta that is not positive.
    Source:    Huber 1964, doi:10.1214/aoms/1177703732, section 5.

    >>> import jax.numpy as jnp
    >>> huber().apply(jnp.array([[0.0, 2.0]]), jnp.array([[1.0, 5.0]]))
    Array([3.], dtype=float32)

    """
    check.number(delta, "delta", above=0, remedy="it is where the parabola ends")
    return _elementwise(functools.partial(_huber, delta))


def _huber(delta: Scalar, y: Array, t: Array) -> tuple[Array, Array]:
    """Return value and slope; the square of a large difference, which overflows, is not taken."""
    e, most = y - t, jnp.asarray(delta, y.dtype)
    size = jnp.abs(e)
    near = jnp.square(jnp.minimum(size, most)) / 2
    return jnp.where(size <= most, near, most * (size - most / 2)), jnp.clip(e, -most, most)


@constructor
def logistic() -> Loss:
    """Logistic loss of a margin, for labels -1 and +1.

    Forward:   v_b = sum_o log(1 + exp(-t_bo y_bo))
    Backward:  dy_bo = -t_bo sigmoid(-t_bo y_bo) dv_b

    Shapes:    y, t (B, ...), v (B,)
    Saves:     the slope
    Raises:    InputError for shapes that differ, and for labels other than -1 and +1.

    >>> import jax.numpy as jnp
    >>> logistic().apply(jnp.array([[0.0]]), jnp.array([[1]]))
    Array([0.6931472], dtype=float32)
    """
    return _elementwise(lambda y, t: (softplus(-t * y), -t * sigmoid(-t * y)), check_signs)


@constructor
def hinge() -> Loss:
    """Hinge loss of a margin, for labels -1 and +1: no loss beyond a margin of 1.

    Forward:   v_b = sum_o max(0, 1 - t_bo y_bo)
    Backward:  dy_bo = -t_bo dv_b where t_bo y_bo < 1, else 0; at the kink it is 0

    Shapes:    y, t (B, ...), v (B,)
    Saves:     the slope
    Raises:    InputError for shapes that differ, and for labels other than -1 and +1.
    Source:    Cortes and Vapnik 1995, doi:10.1007/BF00994018.

    >>> import jax.numpy as jnp
    >>> hinge().apply(jnp.array([[0.5], [2.0]]), jnp.array([[1], [1]]))
    Array([0.5, 0. ], dtype=float32)
    """
    return _elementwise(_hinge, check_signs)


def _hinge(y: Array, t: Array) -> tuple[Array, Array]:
    """Return value and slope of `hinge`."""
    missing = 1 - t * y
    slope = jnp.where(missing > 0, -t, 0)
    # A comparison takes NaN for no loss.
    return rectified(missing), jnp.where(jnp.isnan(missing), missing, slope)


@constructor
def binary_cross_entropy() -> Loss:
    """Binary cross-entropy of a logit y with a probability t in [0, 1].

    A logit of -inf or inf is a sure answer: its value is 0 where that is right.

    Forward:   v_b = sum_o log(1 + exp(y_bo)) - t_bo y_bo
             = sum_o -t_bo log(p_bo) - (1 - t_bo) log(1 - p_bo), p = sigmoid(y)
    Backward:  dy_bo = (sigmoid(y_bo) - t_bo) dv_b

    Shapes:    y, t (B, ...), v (B,)
    Saves:     the slope
    Raises:    InputError for shapes that differ, and for targets outside [0, 1].

    >>> import jax.numpy as jnp
    >>> binary_cross_entropy().apply(jnp.array([[0.0]]), jnp.array([[1.0]]))
    Array([0.6931472], dtype=float32)
    """
    return _elementwise(_binary_cross_entropy, _check_probabilities)


def _binary_cross_entropy(y: Array, t: Array) -> tuple[Array, Array]:
    """Return value and slope of `binary_cross_entropy`."""
    # (1 - t) softplus(y) + t softplus(-y), of one logarithm and of terms that do not cancel when y
    # is large; 0 times infinity is 0.
    positive = y > 0
    distance, wrong = jnp.where(positive, y, -y), jnp.where(positive, 1 - t, t)
    near = log1p_decay(distance)
    return jnp.where(wrong == 0, near, wrong * distance + near), sigmoid(y) - t


def _check_probabilities(target: Target) -> None:
    """Raise unless the targets, where known, are in [0, 1]."""
    check.values(
        target,
        lambda t: ~((t >= 0) & (t <= 1)),
        "targets in [0, 1]",
        "give the probability of the label 1",
    )


@constructor
def poisson() -> Loss:
    """Poisson loss: negative log-likelihood of counts t with log-rate y, up to a constant.

    Forward:   v_b = sum_o exp(y_bo) - t_bo y_bo, which leaves out log(t_bo!)
    Backward:  dy_bo = (exp(y_bo) - t_bo) dv_b, 0 at y = log(t)

    Shapes:    y, t (B, ...), v (B,)
    Saves:     the slope
    Raises:    InputError for shapes that differ, and for counts below 0.

    >>> import jax.numpy as jnp
    >>> poisson().apply(jnp.array([[0.0, 1.0]]), jnp.array([[3, 1]]))
    Array([2.7182817], dtype=float32)
    """
    return _elementwise(_poisson, _check_counts)


def _poisson(y: Array, t: Array) -> tuple[Array, Array]:
    """Return value and slope of `poisson`."""
    rate = exp(y)
    # A log-rate of -inf expects nothing: right for a count of 0. The choice comes last, as that of
    # `softplus` does.
    return jnp.where(t == 0, rate, rate - t * y), rate - t


def _check_counts(target: Target) -> None:
    """Raise unless the counts, where known, are 0 or more."""
    check.values(
        target,
        lambda t: ~(t >= 0),
        "counts of 0 or more",
        "use losses.squared_error for numbers of both signs",
    )


@constructor
def cosine_distance() -> Loss:
    """Cosine distance: 1 minus the cosine of the angle between prediction and target.

    Where y or t is zero there is no angle: v is 1 and dy is 0.

    Forward:   v = 1 - c, c = sum_i y_i t_i / (|y| |t|)
    Backward:  dy = (c y / |y| - t / |t|) / |y| dv

    Shapes:    y, t (..., C), v (...)
    Saves:     the slope
    Raises:    InputError for shapes that differ.

    >>> import jax.numpy as jnp
    >>> cosine_distance().apply(jnp.array([[3.0, 0.0], [0.0, 1.0]]), jnp.array([[-1.0, 0], [2, 0]]))
    Array([2., 1.], dtype=float32)
    """
    return of_forward(_cosine_forward, _slope_backward, check_numbers)


def _cosine_forward(prediction: Prediction, target: Target, /) -> tuple[Array, Residuals]:
    """Return values and residuals of `cosine_distance`."""
    check_numbers(prediction, target)
    y = upcast(prediction)
    t = as_target(target).astype(y.dtype)
    sums: _Products = if_finite(_products, _scaled_products, y, t)
    y_inverse, t_inverse = _inverse_root(sums.yy), _inverse_root(sums.tt)
    cosine = sums.yt * y_inverse * t_inverse
    y, t = y * sums.y_factor, t * sums.t_factor
    slope = (cosine * y_inverse * y - t_inverse * t) * (y_inverse * sums.y_factor)
    slope = jnp.where(y_inverse == 0, 0, slope)
    return 1 - cosine[..., 0], (slope, shape_witness(prediction))


class _Products(NamedTuple):
    """What y and t are multiplied by, and the sums of the products of that, each (..., 1)."""

    y_factor: Array
    t_factor: Array
    yy: Array
    tt: Array
    yt: Array


def _products(y: Array, t: Array) -> _Products:
    """Return the products of y and t as they are, NaN where they are very large or small."""
    yy, tt, yt = (sum_of_product(a, b, -1) for a, b in ((y, y), (t, t), (y, t)))
    moderate = (jnp.minimum(yy, tt) > 1e-18) & (jnp.maximum(yy, tt) < 1e18)
    one = jnp.where(moderate, jnp.ones_like(yy), jnp.nan)
    return _Products(one, one, yy, tt, yt)


def _scaled_products(y: Array, t: Array) -> _Products:
    """Return the products of what is near 1: they neither overflow nor vanish."""
    y_factor, t_factor = _inverse_size(y), _inverse_size(t)
    return _products(y * y_factor, t * t_factor)._replace(y_factor=y_factor, t_factor=t_factor)


def _inverse_size(x: Array) -> Array:
    """Return 1 over the largest size along the last axis; 1 for zeros.

    It cancels out of x / |x|, so that its derivative may be left out.
    """
    size = jax.lax.stop_gradient(jnp.abs(x).max(-1, keepdims=True, initial=0))
    return 1 / jnp.where(size == 0, 1, size)


def _inverse_root(square: Array) -> Array:
    """Return ``1 / sqrt(square)``, 0 for 0."""
    zero = square == 0
    return jnp.where(zero, 0, 1 / jnp.sqrt(jnp.where(zero, 1, square)))


def _elementwise(
    error: Callable[[Array, Array], tuple[Array, Array]],
    check_target: Callable[[Target], None] = lambda target: None,
) -> Loss:
    """Make a loss from ``error(y, t) -> value, slope``, both for each entry by itself."""

    def check_pair(prediction: Prediction, target: Target) -> None:
        check_numbers(prediction, target)
        check_target(target)

    def forward(prediction: Prediction, target: Target, /) -> tuple[Array, Residuals]:
        check_pair(prediction, target)
        y = upcast(prediction)
        value, slope = error(y, as_target(target).astype(y.dtype))
        return over_outputs(value), (slope, shape_witness(prediction))

    return of_forward(forward, _slope_backward, check_pair)


def _slope_backward(residuals: Residuals, dvalues: Array, /) -> Cotangent:
    """Return the slope times dv, in the dtype of the prediction."""
    slope, witness = residuals
    return downcast(scaled(slope, dvalues), witness)
