"""The contract of a loss, the mean over examples, and what all losses share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.arrays import as_arrays, as_labels, of_numpy
from fnn._core.description import Described
from fnn._core.errors import InputError, describe, entry, naming
from fnn._core.linear_head import LinearHead
from fnn._core.precision import upcast, wide_dtype
from fnn._core.types import Array, Cotangent, Prediction, Residuals, Target, Unchecked
from fnn.combinators.sequence import Sequence


class LossApply(Protocol):
    """``(prediction, target) -> values``."""

    def __call__(self, prediction: Prediction, target: Target, /) -> Array: ...


class LossForward(Protocol):
    """``(prediction, target) -> values, residuals``."""

    def __call__(self, prediction: Prediction, target: Target, /) -> tuple[Array, Residuals]: ...


class LossBackward(Protocol):
    """``(residuals, dvalues) -> dprediction``."""

    def __call__(self, residuals: Residuals, dvalues: Array, /) -> Cotangent: ...


class LossCheck(Protocol):
    """``(prediction, target) -> None``, or raises `fnn.InputError`; shapes of prediction do."""

    def __call__(self, prediction: Prediction, target: Target, /) -> None: ...


class LossCounted(Protocol):
    """``(target) -> booleans``, one for each value: True where it counts."""

    def __call__(self, target: Target, /) -> Array: ...


# The arguments of the functions of a loss.
_TAKES = {
    "apply": "prediction, target",
    "forward": "prediction, target",
    "backward": "residuals, dvalues",
    "check": "prediction, target",
    "counted": "target",
}


@dataclass(frozen=True, eq=False, repr=False)
class Loss(Described):
    """Loss: an immutable record of pure functions.

    Args:
        apply: ``(prediction, target) -> values``.
        forward: the same, and the residuals that `backward` needs.
        backward: ``(residuals, dvalues) -> dprediction``.
        check: ``(prediction, target) -> None``, or raises `fnn.InputError`.
        counted: ``(target) -> booleans``, one for each value: False where an `ignore_index` stands,
            so that the mean leaves it out; None where all count.
        call: the call of the `constructor` that made it.
    Raises:    InputError for what is no function, and one of other arguments.

    >>> import fnn
    >>> fnn.losses.huber(0.5)
    huber(0.5)

    """

    functions: ClassVar[tuple[str, ...]] = ("apply", "forward", "backward", "check", "counted")
    apply: LossApply
    forward: LossForward
    backward: LossBackward
    check: LossCheck
    counted: LossCounted | None = None

    def __post_init__(self) -> None:
        for name, takes in _TAKES.items() if self.call is None else ():
            if name != "counted" or self.counted is not None:
                remedy = "pass a function, see fnn.losses.Loss"
                check.function(getattr(self, name), name, remedy, takes=takes)


@entry
def mean(values: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Return the weighted mean over examples, with its derivative beside it.

    In float32 or better. A mask is a weight of 0 or 1; what has the weight 0 is left out, be it
    infinite or NaN, and where all weights are 0 mean and derivative are 0. Under jit a negative
    weight makes the mean NaN.

    Forward:   m = sum_b w_b v_b / sum_b w_b
    Backward:  dv_b = w_b / sum_b w_b

    Args:
        values: any number of them, in any shape.
        weights: finite, 0 or more, in the shape of the values; None where all count alike.
    Shapes:    values, weights and the derivative (...), the mean ()
    Raises:    InputError for no values, for weights of another shape, and outside jit for negative
        ones.

    >>> import jax.numpy as jnp
    >>> mean(jnp.array([1.0, 5.0]), jnp.array([1.0, 3.0]))
    (Array(4., dtype=float32), Array([0.25, 0.75], dtype=float32))

    """
    check.floating(values, "values")
    if not values.size:
        raise InputError("at least one value", describe(values), "leave out empty batches")
    if weights is None:
        return upcast(values).mean(), jnp.full(values.shape, 1 / values.size, values.dtype)
    w = checked_weights(weights, values)
    # The sum of the largest weights would overflow.
    w = w * jnp.where(w.max() > 1e30, 2.0**-64, 1)
    total = w.sum()
    share = w / jnp.where(total == 0, 1, total)
    return left_out(share, share * upcast(values)).sum(), share.astype(values.dtype)


def checked_weights(weights: Unchecked, values: Array) -> Array:
    """Return weights in float32 or better, one for each value; NaN for those below 0."""
    if np.shape(weights) != values.shape:
        raise InputError(
            f"weights of shape {values.shape}, one for each value",
            str(np.shape(weights)),
            "reshape the weights, or repeat that of an example for each of its values",
        )
    check_weights(weights)
    w = jnp.asarray(weights).astype(wide_dtype(values.dtype))
    return jnp.where(w < 0, jnp.nan, w)


def check_weights(weights: Unchecked) -> None:
    """Raise unless weights are real numbers and, where known, finite and 0 or more."""
    check_real(weights, "weights")
    check.values(
        weights,
        lambda w: ~((w >= 0) & (w < np.inf)),
        "finite weights of 0 or more",
        "0 leaves an example out; to push away from one, negate its value in a loss of your own",
        name="weights",
    )


def require_loss(value: Unchecked) -> None:
    """Raise unless a value is a loss.

    Args:
        value: what may be one.
    """
    if not isinstance(value, Loss):
        remedy = "pass one, as in fnn.losses.cross_entropy()"
        if callable(value):
            remedy += "; of a formula of your own fnn.losses.autodiff(formula)"
        raise InputError("a Loss", describe(value), remedy)


def counted_weights(loss: Loss, target: Target, weights: Array | None) -> Array | None:
    """Return the weights of a batch, 0 where the loss ignores the target."""
    if loss.counted is None:
        return weights
    counted = loss.counted(target)
    if weights is None:
        return counted.astype(jnp.result_type(float))
    with naming("fnn.losses.mean"):
        w = checked_weights(weights, counted.astype(jnp.result_type(float)))
    return jnp.where(counted, w, 0)


def left_out(factor: Array, product: Array) -> Array:
    """Return a product, 0 where the factor is 0 and the other is not finite."""
    return jnp.where((factor == 0) & ~jnp.isfinite(product), 0, product)


def scaled(slope: Array, dvalues: Array) -> Array:
    """Return ``slope dv``, in float32 or better; where dv is 0 it is 0, whatever the slope is."""
    dv = dvalues.reshape(dvalues.shape + (1,) * (slope.ndim - dvalues.ndim))
    dv = dv.astype(wide_dtype(slope.dtype))
    return left_out(dv, upcast(slope) * dv)


def cover(prediction: Prediction, counted: Array) -> Prediction:
    """Return a prediction with zeros where it does not count: nothing there reaches the loss.

    Args:
        prediction: an array, a `fnn.Sequence` or a `LinearHead`; of others nothing is covered.
        counted: booleans in the shape of the values, which are those of the first axes.

    >>> cover(jnp.array([[1.0], [jnp.nan]]), jnp.array([True, False]))
    Array([[1.],
           [0.]], dtype=float32)

    """
    if isinstance(prediction, Sequence):
        return prediction._replace(values=cover(prediction.values, counted))
    if isinstance(prediction, LinearHead):
        return prediction._replace(features=cover(prediction.features, counted))
    fits = hasattr(prediction, "dtype") and prediction.shape[: counted.ndim] == counted.shape
    if not fits:
        return prediction
    where = counted.reshape(counted.shape + (1,) * (prediction.ndim - counted.ndim))
    return jnp.where(where, prediction, 0)


def of_forward(forward: LossForward, backward: LossBackward, check: LossCheck) -> Loss:
    """Make the loss whose `apply` is `forward` without the residuals."""
    return Loss(lambda prediction, target: forward(prediction, target)[0], forward, backward, check)


def ignoring(loss: Loss, ignore_index: int | None, check: LossCheck) -> Loss:
    """Make the loss of labels that ignores one: its value is 0, and so is its gradient.

    Args:
        loss: a loss of labels, to which an ignored one looks like class 0.
        ignore_index: the label; None for the loss as it is.
        check: what raises for bad labels, the ignored one aside.

    """
    if ignore_index is None:
        return loss
    if not isinstance(ignore_index, int | np.integer) or isinstance(ignore_index, bool):
        raise InputError("ignore_index of an int", describe(ignore_index), "pass -100, say")
    if not -(2**31) <= ignore_index < 2**31:
        raise InputError("ignore_index of 32 bits", describe(ignore_index), "pass -100, say")
    ignored = int(ignore_index)

    def counted(target: Target, /) -> Array:
        return as_labels(target) != ignored

    def given(prediction: Prediction, target: Target) -> tuple[Prediction, Array, Array]:
        check(prediction, target)
        label = as_labels(target)
        counts = label != ignored
        return cover(prediction, counts), jnp.where(counts, label, 0), counts

    def apply(prediction: Prediction, target: Target, /) -> Array:
        prediction, label, counts = given(prediction, target)
        return jnp.where(counts, loss.apply(prediction, label), 0)

    def forward(prediction: Prediction, target: Target, /) -> tuple[Array, Residuals]:
        prediction, label, counts = given(prediction, target)
        values, residuals = loss.forward(prediction, label)
        return jnp.where(counts, values, 0), (residuals, counts)

    def backward(saved: Residuals, dvalues: Array, /) -> Cotangent:
        residuals, counts = saved
        return loss.backward(residuals, jnp.where(counts, dvalues, 0))

    return Loss(apply, forward, backward, check, counted)


def check_real(x: Unchecked, name: str) -> np.dtype[Any]:
    """Return the dtype of an array, or raise unless it is one of real numbers or booleans."""
    x = as_arrays(of_numpy(x, name), name)
    real = (jnp.floating, jnp.integer, jnp.bool_)
    if not any(jnp.issubdtype(x.dtype, kind) for kind in real):
        raise InputError(f"{name} of real numbers", describe(x), "convert it first")
    return np.dtype(x.dtype)


def check_numbers(prediction: Prediction, target: Target) -> None:
    """Raise unless prediction and target are numbers of one shape (B, ...)."""
    check.floating(prediction)
    check_real(target, "target")
    if prediction.ndim < 1 or prediction.shape != np.shape(target):
        raise InputError(
            f"prediction and target of one shape (B, ...), here {tuple(prediction.shape)}",
            f"a target of shape {np.shape(target)}",
            "reshape the target, as in target[:, None] for one output",
        )


def check_signs(target: Target) -> None:
    """Raise unless the labels, where known, are -1 and +1."""
    check.values(
        target,
        lambda t: (t != 1) & (t != -1),
        "labels -1 and +1",
        "map labels 0 and 1 with 2 * label - 1",
    )


def check_classes(
    prediction: Prediction,
    target: Target,
    *,
    distributions: bool = True,
    ignore_index: int | None = None,
) -> None:
    """Raise unless the target is labels, or distributions where they are allowed."""
    check.floating(prediction)
    shape, dtype = tuple(prediction.shape), check_real(target, "target")
    classes = shape[-1] if shape else 0
    distributions = distributions and ignore_index is None
    same = np.shape(target) == shape and shape and jnp.issubdtype(dtype, jnp.floating)
    if distributions and same:
        return
    if np.shape(target) != shape[:-1] or not shape or not jnp.issubdtype(dtype, jnp.integer):
        other = f" or distributions of shape {shape}" if distributions else ""
        raise InputError(
            f"integer labels of shape {shape[:-1]}{other}",
            f"a target {describe(target if hasattr(target, 'dtype') else np.asarray(target))}",
            "convert labels with target.astype('int32'), and give one to each row of logits",
        )
    check.values(
        target,
        lambda t: ((t < 0) | (t >= classes)) & (t != ignore_index),
        f"labels in 0..{classes - 1}",
        "widen the last layer, count the labels from 0, or pass ignore_index=",
    )


def over_outputs(values: Array) -> Array:
    """Return the sum over all axes but the first."""
    return values.sum(tuple(range(1, values.ndim)))


def outputs(prediction: Prediction) -> int:
    """Return how many entries a prediction has for each example."""
    return math.prod(prediction.shape[1:])
