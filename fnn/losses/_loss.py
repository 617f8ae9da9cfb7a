"""The contract of a loss, the mean over examples, and the checks that losses share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import Described
from fnn._core.errors import InputError, entry
from fnn._core.types import Array, PyTree


class LossApply(Protocol):
    """``(prediction, target) -> values``."""

    def __call__(self, prediction: Any, target: Any, /) -> Array: ...


class LossForward(Protocol):
    """``(prediction, target) -> values, residuals``."""

    def __call__(self, prediction: Any, target: Any, /) -> tuple[Array, PyTree]: ...


class LossBackward(Protocol):
    """``(residuals, dvalues) -> dprediction``."""

    def __call__(self, residuals: PyTree, dvalues: Any, /) -> Any: ...


class LossCheck(Protocol):
    """``(prediction, target) -> None``, or raises `fnn.InputError`; shapes of prediction do."""

    def __call__(self, prediction: Any, target: Any, /) -> None: ...


@dataclass(frozen=True, eq=False, repr=False)
class Loss(Described):
    """Loss: an immutable record of four pure functions.

    Args:
        apply: ``(prediction, target) -> values``.
        forward: the same, and the residuals that `backward` needs.
        backward: ``(residuals, dvalues) -> dprediction``.
        check: ``(prediction, target) -> None``, or raises `fnn.InputError`.
        call: the call of the `constructor` that made it.

    >>> import fnn
    >>> fnn.losses.huber(0.5)
    huber(0.5)

    """

    functions: ClassVar[tuple[str, ...]] = ("apply", "forward", "backward", "check")
    apply: LossApply
    forward: LossForward
    backward: LossBackward
    check: LossCheck


@entry
def mean(values: Any, weights: Any = None) -> tuple[Array, Array]:
    """Weighted mean over examples, with its derivative beside it.

    Forward ``sum_b w_b v_b / sum_b w_b``; derivative ``w_b / sum_b w_b``. A mask is a weight of 0
    or 1. values and weights have one shape. When all weights are zero the mean is NaN.

    Raises `fnn.InputError` for weights of another shape.

    >>> import jax.numpy as jnp
    >>> mean(jnp.array([1.0, 5.0]), jnp.array([1.0, 3.0]))
    (Array(4., dtype=float32), Array([0.25, 0.75], dtype=float32))
    """
    if weights is None:
        return values.mean(), jnp.full(values.shape, 1 / values.size, values.dtype)
    if jnp.shape(weights) != values.shape:
        raise InputError(
            f"weights of shape {values.shape}, one for each value",
            str(jnp.shape(weights)),
            "reshape the weights",
        )
    share = jnp.asarray(weights, values.dtype)
    share = share / share.sum()
    return (share * values).sum(), share


def of_forward(forward: LossForward, backward: LossBackward, check: LossCheck) -> Loss:
    """Make the loss whose `apply` is `forward` without the residuals."""
    return Loss(lambda prediction, target: forward(prediction, target)[0], forward, backward, check)


def check_numbers(prediction: Any, target: Any) -> None:
    """Raise unless prediction and target are numbers of one shape (B, ...)."""
    check.floating(prediction)
    if prediction.ndim < 1 or prediction.shape != jnp.shape(target):
        raise InputError(
            f"prediction and target of one shape (B, ...), here {tuple(prediction.shape)}",
            f"a target of shape {jnp.shape(target)}",
            "reshape the target, as in target[:, None] for one output",
        )


def check_signs(target: Any) -> None:
    """Raise unless the labels, where known, are -1 and +1."""
    check.values(
        target,
        lambda t: (t != 1) & (t != -1),
        "labels -1 and +1",
        "map labels 0 and 1 with 2 * label - 1",
    )
