"""A loss of a plain function."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fnn._core import check as checks
from fnn._core.arrays import as_target
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.precision import upcast
from fnn._core.tree import combine, inexact_leaves
from fnn._core.types import Array, Cotangent, Prediction, Residuals, Target
from fnn.losses._loss import Loss, LossCheck, cover


@constructor
def autodiff(
    function: Callable[[Prediction, Target], Array], check: LossCheck | None = None
) -> Loss:
    """Loss of a plain function, whose gradient `jax.vjp` supplies.

    Floating values are handed to the function in float32 or better, those of the target in the
    precision of the prediction. Derive the gradient when the loss is settled, and put it on trial
    with `fnn.check_loss`.

    Forward:   v = function(y, t)
    Backward:  dy = J^T dv by autodiff; 0 where dv is 0, whatever J is there

    Args:
        function: ``(prediction, target) -> values`` of `jax.numpy`, one value for each example;
            prediction and target may be trees. The mean over examples is not its task.
        check: ``(prediction, target) -> None``, or raises `fnn.InputError`; None for no check but
            that of the values.
    Shapes:    y and t (B, ...) or trees of such, v (B, ...)
    Saves:     what `jax.vjp` saves
    Raises:    InputError for what is no function, for a prediction without floating values, and for
        a function that returns something else than floating values, one for each example.

    >>> import fnn, jax.numpy as jnp
    >>> fourth_power = autodiff(lambda y, t: ((y - t) ** 4).sum(-1))
    >>> y, t = jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[0.0, 0.0], [0.0, 1.0]])
    >>> values, residuals = fourth_power.forward(y, t)
    >>> values, fourth_power.backward(residuals, jnp.array([1.0, 0.0]))
    (Array([17.,  1.], dtype=float32), Array([[ 4., 32.],
           [ 0.,  0.]], dtype=float32))

    """
    takes = "prediction, target"
    checks.function(function, "function", "pass one of a prediction and a target", takes=takes)
    if check is not None:
        checks.function(check, "check", "pass one that raises for bad input", takes=takes)

    def values_of(prediction: Prediction, target: Target) -> Array:
        values = function(*_widened(prediction, target))
        _check_values(values, prediction, target)
        return values

    def check_pair(prediction: Prediction, target: Target) -> None:
        if check is not None:
            check(prediction, target)
        jax.eval_shape(values_of, prediction, target)

    def apply(prediction: Prediction, target: Target, /) -> Array:
        if check is not None:
            check(prediction, target)
        return values_of(prediction, target)

    def forward(prediction: Prediction, target: Target, /) -> tuple[Array, Residuals]:
        if check is not None:
            check(prediction, target)
        floats = inexact_leaves(prediction)
        values, pull_back = jax.vjp(lambda y: values_of(combine(y, prediction), target), floats)
        return values, pull_back

    def backward(residuals: Residuals, dvalues: Array, /) -> Cotangent:
        (dprediction,) = residuals(dvalues)
        # 0 times an infinite slope would be NaN.
        return jax.tree.map(lambda leaf: cover(leaf, dvalues != 0), dprediction)

    return Loss(apply, forward, backward, check_pair)


def _widened(prediction: Prediction, target: Target) -> tuple[Prediction, Target]:
    """Return both in one precision, float32 or better, what is no floating value as it is."""
    wide = jax.tree.map(upcast, inexact_leaves(prediction))
    floats = jax.tree.leaves(wide)
    if not floats:
        raise InputError(
            "a prediction of floating values", describe(prediction), "end the model with a layer"
        )
    dtype = max((leaf.dtype for leaf in floats), key=lambda dtype: dtype.itemsize)
    target = jax.tree.map(as_target, target)
    same = jax.tree.map(lambda leaf: leaf.astype(dtype), inexact_leaves(target))
    return combine(wide, prediction), combine(same, target)


def _check_values(values: Array, prediction: Prediction, target: Target) -> None:
    """Raise unless there is one floating value for each example."""
    leaves = jax.tree.leaves((prediction, target))
    lengths = {jnp.shape(leaf)[0] for leaf in leaves if jnp.shape(leaf)}
    found = isinstance(values, jax.Array) and jnp.issubdtype(values.dtype, jnp.floating)
    if not found or not values.shape or values.shape[0] not in lengths:
        raise InputError(
            "a function to floating values (B, ...), one for each example",
            describe(values),
            "sum over the axes of one example only: fnn.losses.mean is taken of the values",
        )
