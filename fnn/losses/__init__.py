"""Losses, value and derivative side by side.

A loss compares a prediction with a target and gives one value per example::

    apply    :: (prediction, target) -> values
    forward  :: (prediction, target) -> values, residuals
    backward :: (residuals, dvalues) -> dprediction
    check    :: (prediction, target) -> None, or raises fnn.InputError

Losses of numbers (`squared_error` to `binary_cross_entropy`) take prediction and target of one
shape (B, ...) and sum over all axes but the first: values are (B,). Losses of classes
(`cross_entropy`, `nll`) take a prediction (..., K), and a target that is an integer label (...) or
a distribution (..., K): one value per label, (...), so (B,) for one label an example and (B, T)
for a sequence of them. `linear_cross_entropy` takes a `fnn.LinearHead` in place of its logits. The
objective is the `mean` over all values.

No factor is hidden: `squared_error` is the sum of squares, without 1/2 and without 1/O. `check`
runs inside `apply`; what only values can tell, such as a label out of range, it sees outside jit
alone. Under jit a label outside 0..K-1 makes its value NaN. `fnn.fit` and `fnn.evaluate` check the
whole data beforehand.
"""

from typing import TYPE_CHECKING

from fnn.losses.classes import cross_entropy, focal, kl_divergence, nll, zero_one
from fnn.losses.loss import Loss, mean
from fnn.on_demand import on_demand

if TYPE_CHECKING:
    from fnn.losses.alignment import ctc
    from fnn.losses.chunked import linear_cross_entropy
    from fnn.losses.margin import multiclass_hinge
    from fnn.losses.numbers import (
        absolute_error,
        binary_cross_entropy,
        cosine_distance,
        hinge,
        huber,
        logistic,
        poisson,
        squared_error,
    )
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "alignment": "ctc",
            "chunked": "linear_cross_entropy",
            "margin": "multiclass_hinge",
            "numbers": (
                "absolute_error binary_cross_entropy cosine_distance hinge huber logistic poisson "
                "squared_error"
            ),
        },
    )

__all__ = [
    "Loss",
    "absolute_error",
    "binary_cross_entropy",
    "cosine_distance",
    "cross_entropy",
    "ctc",
    "focal",
    "hinge",
    "huber",
    "kl_divergence",
    "linear_cross_entropy",
    "logistic",
    "mean",
    "multiclass_hinge",
    "nll",
    "poisson",
    "squared_error",
    "zero_one",
]
