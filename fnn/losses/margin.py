"""The hinge of classes: the label should win by a margin."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp

from fnn.errors import InputError, describe
from fnn.layer import Array, PyTree
from fnn.losses.classes import check_classes, expected
from fnn.losses.loss import Loss, from_forward
from fnn.origin import constructor

Rivals: TypeAlias = Literal["all", "best"]


@constructor
def multiclass_hinge(margin: float = 1.0, *, rivals: Rivals = "all") -> Loss:
    """Hinge loss of scores: no loss where the label scores `margin` more than every other class.

    With ``h_k = max(0, margin - y_t + y_k)`` for the classes k other than the label t, forward is

    - ``v = sum_k h_k`` for rivals ``"all"``: Weston and Watkins 1999. PyTorch's
      ``MultiMarginLoss`` is ``v / K``.
    - ``v = max_k h_k`` for rivals ``"best"``, the one class that scores best besides t: Crammer and
      Singer 2001, JMLR 2, eq. 4.

    Backward ``dy_k = dv`` for each class k that has ``h_k > 0`` (and is the best rival, the first
    of equals), ``dy_t = -sum_k dy_k``, and 0 elsewhere; at the kink h_k = 0 it is 0. y (..., K),
    t (...) integers in 0..K-1, v (...). Saved: the slope.

    Raises `fnn.InputError` for labels that are out of range or no integers, for a margin that is
    not positive, for other rivals, and for fewer than two classes.

    >>> import jax.numpy as jnp
    >>> scores, label = jnp.array([[1.0, 0.5, 2.0]]), jnp.array([0])
    >>> multiclass_hinge().apply(scores, label)
    Array([2.5], dtype=float32)
    >>> multiclass_hinge(rivals="best").apply(scores, label)
    Array([2.], dtype=float32)
    """
    where = "losses.multiclass_hinge"
    if not margin > 0:
        raise InputError(
            where, "a margin above 0", describe(margin), "it is by how much a label should win"
        )
    if rivals not in get_args(Rivals):
        raise InputError(
            where, "rivals 'all' or 'best'", describe(rivals), "pass one of these names"
        )

    def check(prediction: Any, target: Any) -> None:
        check_classes(where, prediction, target, distributions=False)
        if prediction.shape[-1] < 2:
            raise InputError(
                where,
                "scores of 2 or more classes",
                describe(prediction),
                "use losses.hinge for one score",
            )

    def forward(prediction: Any, target: Any, /) -> tuple[Array, PyTree]:
        check(prediction, target)
        classes = prediction.shape[-1]
        label = jax.nn.one_hot(target, classes, dtype=bool)
        # An own score that is NaN, for a label out of range, makes the value NaN.
        gaps = margin - expected(prediction, target)[..., None] + prediction
        if rivals == "best":
            best = jnp.where(label, -jnp.inf, prediction).argmax(-1)
            gaps = jnp.where(jax.nn.one_hot(best, classes, dtype=bool), gaps, 0)
        gaps = jax.nn.relu(jnp.where(label, 0, gaps))
        rising = (gaps > 0).astype(prediction.dtype)
        falling = jnp.where(label, rising.sum(-1, keepdims=True), 0)
        return gaps.sum(-1), rising - falling

    def backward(slope: PyTree, dvalues: Any, /) -> Any:
        return slope * dvalues[..., None]

    return from_forward(forward, backward, check)
