"""Losses, value and derivative side by side.

A loss compares a prediction with a target and gives one value per example::

    apply    :: (prediction, target) -> values
    forward  :: (prediction, target) -> values, residuals
    backward :: (residuals, dvalues) -> dprediction
    check    :: (prediction, target) -> None, or raises fnn.InputError
    counted  :: (target) -> booleans, False where an `ignore_index` stands; None where all count

Values are float32 or better, whatever the precision of the prediction; its gradient has the dtype
of the prediction.

Losses of numbers (`squared_error` to `binary_cross_entropy`) take prediction and target of one
shape (B, ...) and sum over all axes but the first: values are (B,). Losses of classes
(`cross_entropy`, `nll`) take a prediction (..., K), and a target that is an integer label (...) or
a distribution (..., K): one value per label, (...), so (B,) for one label an example and (B, T)
for a sequence of them. `linear_cross_entropy` takes a `fnn.LinearHead` in place of its logits. The
objective is the `mean` over all values that count: the weight of a value is that of its example,
and 0 where the loss ignores the target. What has the weight 0 is left out, be it infinite or NaN.

No factor is hidden: `squared_error` is the sum of squares, without 1/2 and without 1/O. `check`
runs inside `apply`; what only values can tell, such as a label out of range, it sees outside jit
alone. Under jit a label outside 0..K-1 makes its value NaN. `fnn.fit` and `fnn.evaluate` check the
whole data beforehand.
"""

from fnn._core.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__)
