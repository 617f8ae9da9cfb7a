"""Losses of classes: a prediction (..., K) and a label (...) or a distribution (..., K)."""

from __future__ import annotations

import functools
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.arrays import as_labels, as_target, rectified
from fnn._core.description import constructor
from fnn._core.elementary import exp, expm1, exponentials
from fnn._core.errors import InputError, describe
from fnn._core.precision import downcast, upcast
from fnn._core.sums import if_finite
from fnn._core.tree import shape_witness
from fnn._core.types import Array, Cotangent, Prediction, Residuals, Scalar, Target, Unchecked
from fnn.losses._loss import (
    Loss,
    LossCheck,
    check_classes,
    check_numbers,
    check_real,
    check_signs,
    ignoring,
    of_forward,
    outputs,
    over_outputs,
    scaled,
)


@constructor
def zero_one(*, ignore_index: int | None = None) -> Loss:
    """0-1 loss: 1 for a wrong answer, 0 for a right one; its derivative is zero.

    The derivative is zero almost everywhere, so no gradient descends on this loss; use it as a
    metric. A prediction that is NaN is no answer: its value is NaN.

    Forward:   v = 1 where argmax_k y_k != t, for labels t; argmax_k y_k != argmax_k t_k for
        distributions; v_b = sum_o 1 where t_bo y_bo <= 0 for labels -1 and +1
    Backward:  dy = 0

    Args:
        ignore_index: a label that does not count, as in `cross_entropy`.
    Shapes:    y (..., K), t (...) of integers or (..., K) of floats, v (...); or y, t (B, ...), v
        (B,) for labels -1 and +1, of integers where there are more than two axes
    Saves:     nothing but the shape
    Raises:    InputError for targets that fit none of these; under jit their value is NaN.

    >>> import jax.numpy as jnp
    >>> zero_one().apply(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1]))
    Array([0., 1.], dtype=float32)

    """
    loss = of_forward(_zero_one_forward, _zero_backward, _check_answers)
    return ignoring(loss, ignore_index, _label_check(ignore_index))


def mistakes(prediction: Prediction, target: Target) -> tuple[Array, Scalar]:
    """Return the number of wrong answers in each value of `zero_one`, and of all answers in it.

    Args:
        prediction: scores (..., K), or (B, ...) for labels -1 and +1.
        target: integer labels (...), distributions (..., K) of floats, or labels -1 and +1
            (B, ...).
    """
    _check_answers(prediction, target)
    known = ~jnp.isnan(prediction)
    dtype = upcast(prediction).dtype
    if np.ndim(target) < prediction.ndim:
        label = as_labels(target)
        answered = known.all(-1) & (label >= 0) & (label < prediction.shape[-1])
        wrong = prediction.argmax(-1).astype(label.dtype) != label
        return jnp.where(answered, wrong.astype(dtype), jnp.nan), 1
    t = as_target(target)
    if t.dtype == bool:
        t = jnp.where(t, 1, -1)
    if not _may_be_shares(prediction, t):
        return over_outputs(_wrong_signs(prediction, t, known)), outputs(prediction)
    known_row = known.all(-1) & (t >= 0).all(-1)
    other = (prediction.argmax(-1) != t.argmax(-1)).astype(dtype)
    other = jnp.where(known_row, other, jnp.nan)
    if prediction.ndim > 2:
        return other, 1
    # No distribution over two classes or more consists of -1 and +1 alone.
    signs = (jnp.abs(t) == 1).all(-1)
    wrong_signs = _wrong_signs(prediction, t, known).sum(-1)
    return jnp.where(signs, wrong_signs, other), jnp.where(signs, outputs(prediction), 1)


def _wrong_signs(prediction: Array, t: Array, known: Array) -> Array:
    """Return 1 where a sign is wrong, NaN where there is no answer, or no sign."""
    y = upcast(prediction)
    wrong = (y * t.astype(y.dtype) <= 0).astype(y.dtype)
    return jnp.where(known & (jnp.abs(t) == 1), wrong, jnp.nan)


def _may_be_shares(prediction: Array, target: Array) -> bool:
    """Say whether a target in the shape of the prediction may be a distribution."""
    floats = jnp.issubdtype(target.dtype, jnp.floating)
    return bool(floats and prediction.ndim > 1 and prediction.shape[-1] > 1)


def _zero_one_forward(prediction: Prediction, target: Target, /) -> tuple[Array, Residuals]:
    """Return the wrong answers, and the shape of the prediction."""
    return mistakes(prediction, target)[0], shape_witness(prediction)


def _zero_backward(witness: Residuals, dvalues: Array, /) -> Cotangent:
    """Return zeros in the shape of the prediction."""
    del dvalues
    return jnp.zeros(witness.shape[1:], witness.dtype)


def _check_answers(prediction: Prediction, target: Target) -> None:
    """Raise unless the target is labels, distributions, or signs."""
    check.floating(prediction)
    check_real(target, "target")
    if prediction.ndim != np.ndim(target):
        check_classes(prediction, target)
        return
    check_numbers(prediction, target)
    dtype = check_real(target, "target")
    if jnp.issubdtype(dtype, jnp.bool_):
        return
    if not jnp.issubdtype(dtype, jnp.floating) or prediction.ndim < 2 or prediction.shape[-1] < 2:
        check_signs(target)
        return

    def wrong(t: Unchecked) -> Unchecked:
        signs = (np.abs(t) == 1).all(-1, keepdims=True) & (t.ndim == 2)
        return ~(t >= 0) & ~signs

    check.values(
        target,
        wrong,
        "labels -1 and +1, or probabilities of 0 or more",
        "give signs of more than two axes as integers",
    )


@constructor
def nll(*, ignore_index: int | None = None) -> Loss:
    """Negative log-likelihood of log-probabilities, as `fnn.log_softmax` gives them.

    Forward:   v = -sum_k t_k y_k, with 0 (-inf) = 0; for a label -y_t
    Backward:  dy_k = -t_k dv

    Args:
        ignore_index: a label that does not count, as in `cross_entropy`.
    Shapes:    y (..., K), t (...) of integers in 0..K-1 or (..., K) of floats, v (...)
    Saves:     t
    Raises:    InputError as `cross_entropy` does.

    >>> import jax.numpy as jnp
    >>> nll().apply(jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([0])).round(4)
    Array([1.3863], dtype=float32)

    """
    loss = of_forward(_nll_forward, _nll_backward, check_classes)
    return ignoring(loss, ignore_index, _label_check(ignore_index))


def _nll_forward(prediction: Prediction, target: Target, /) -> tuple[Array, Residuals]:
    """Return values and residuals of `nll`."""
    check_classes(prediction, target)
    t = _widened(prediction, target)
    return -_expected(upcast(prediction), t), (t, shape_witness(prediction))


def _nll_backward(residuals: Residuals, dvalues: Array, /) -> Cotangent:
    """Return ``-t dv``, of a label -dv in its place."""
    target, witness = residuals
    *rows, classes = witness.shape[1:]
    if target.ndim > len(rows):
        return downcast(scaled(-target, dvalues), witness).astype(witness.dtype)
    each = jnp.arange(classes, dtype=target.dtype).reshape((1,) * target.ndim + (-1,))
    return jnp.where(target[..., None] == each, -dvalues.astype(witness.dtype)[..., None], 0)


@constructor
def cross_entropy(label_smoothing: float = 0.0, *, ignore_index: int | None = None) -> Loss:
    """Cross-entropy of logits: softmax and negative log-likelihood in one.

    Forward:   v = -sum_k s_k log_softmax(y)_k, s = (1 - a) t + a / K, a the label smoothing, t the
        one-hot label or the distribution given
    Backward:  dy_k = (softmax(y)_k sum_j s_j - s_k) dv

    A class whose logit is -inf is masked: it has no share of the smoothing, K being the number of
    the others, and where t gives it nothing it adds nothing. Under jit a label out of range makes
    its value NaN.

    Args:
        label_smoothing: a, the share of the label to spread over all classes, in [0, 1).
        ignore_index: a label that does not count, such as -100 or that of the padding: its value
            and gradient are 0, and the mean of an objective is over the others: its weight is 0,
            whatever weight the example has. In a mean of your own, `counted` of the loss tells
            which count.
    Shapes:    y (..., K), t (...) of integers in 0..K-1 or (..., K) of floats, v (...)
    Saves:     the slope
    Raises:    InputError for labels out of range or of a floating type, for a target that is
        neither (...) nor (..., K), for a distribution together with an ignore_index, and for an a
        outside [0, 1).
    Source:    Szegedy et al. 2015, arXiv:1512.00567, section 7, for a.

    >>> import jax.numpy as jnp
    >>> loss = cross_entropy()
    >>> values, slope = loss.forward(jnp.zeros((1, 2)), jnp.array([1]))
    >>> values, loss.backward(slope, jnp.ones(1))
    (Array([0.6931472], dtype=float32), Array([[ 0.5, -0.5]], dtype=float32))

    """
    check_smoothing(label_smoothing)
    forward = functools.partial(_cross_entropy_forward, label_smoothing)
    loss = of_forward(forward, _of_slope, check_classes)
    return ignoring(loss, ignore_index, _label_check(ignore_index))


def check_smoothing(label_smoothing: Unchecked) -> None:
    """Raise unless a label smoothing is in [0, 1).

    Args:
        label_smoothing: the share of the label to spread over all classes.
    """
    check.number(
        label_smoothing,
        "label_smoothing",
        least=0,
        below=1,
        remedy="pass the share of the label to spread, such as 0.1",
    )


def _cross_entropy_forward(
    label_smoothing: float, prediction: Prediction, target: Target, /
) -> tuple[Array, Residuals]:
    """Return values and slope of `cross_entropy`."""
    check_classes(prediction, target)
    y, t = upcast(prediction), _widened(prediction, target)
    top, e, total_e = exponentials(y)
    log_sum = jnp.log(total_e)
    values = _expected_cost(y, top, log_sum, t)
    share, total = _shares(t, y)
    if not check.is_zero(label_smoothing):
        a = jnp.asarray(label_smoothing, y.dtype)
        mean, others = _mean_of_others(y, top)
        values = (1 - a) * values + a * (log_sum - mean)[..., 0]
        share = (1 - a) * share + jnp.where(y == -jnp.inf, 0, a / others)
        total = (1 - a) * total + a
    return values, downcast(e * (total / total_e) - share, prediction)


def _expected_cost(y: Array, top: Array, log_sum: Array, target: Array) -> Array:
    """Return ``-sum_k t_k log_softmax(y)_k``, with 0 inf = 0; NaN for a label out of range."""
    if target.ndim == y.ndim:
        return _expected(-(y - top - log_sum), target)
    return (log_sum - (_expected(y, target)[..., None] - top))[..., 0]


def _mean_of_others(y: Array, top: Array) -> tuple[Array, Array]:
    """Return the mean of ``y - top`` over the classes that are not masked, and their number."""

    def of_all(y: Array, top: Array) -> tuple[Array, Array]:
        mean = (y - top).sum(-1, keepdims=True) / y.shape[-1]
        return mean, jnp.full_like(mean, y.shape[-1])

    def of_some(y: Array, top: Array) -> tuple[Array, Array]:
        masked = y == -jnp.inf
        others = (~masked).sum(-1, keepdims=True).astype(y.dtype)
        return jnp.where(masked, 0, y - top).sum(-1, keepdims=True) / others, others

    found: tuple[Array, Array] = if_finite(of_all, of_some, y, top)
    return found


@constructor
def kl_divergence() -> Loss:
    """Kullback-Leibler divergence of a distribution t from the softmax of logits y.

    The cross-entropy less the entropy of t, so that it is 0 where softmax(y) = t.

    Forward:   v = sum_k t_k (log t_k - log_softmax(y)_k), with 0 log 0 = 0, also where the logit is
        -inf
    Backward:  dy_k = (softmax(y)_k sum_j t_j - t_k) dv

    Shapes:    y, t (..., K), v (...)
    Saves:     the slope
    Raises:    InputError for a target that is no distribution (..., K) of floats, and for
        probabilities below 0.
    Source:    Kullback and Leibler 1951, doi:10.1214/aoms/1177729694, eq. 2.4.

    >>> import jax.numpy as jnp
    >>> kl_divergence().apply(jnp.zeros((2, 2)), jnp.array([[1.0, 0.0], [0.5, 0.5]]))
    Array([0.6931472, 0.       ], dtype=float32)
    """
    return of_forward(_kl_forward, _of_slope, _check_distributions)


def _kl_forward(prediction: Prediction, target: Target, /) -> tuple[Array, Residuals]:
    """Return values and slope of `kl_divergence`."""
    _check_distributions(prediction, target)
    y, share = upcast(prediction), _widened(prediction, target)
    top, e, total_e = exponentials(y)
    costs = jnp.where(share == 0, 0, share * (y + -top - jnp.log(total_e)))
    values = (jax.scipy.special.xlogy(share, share) - costs).sum(-1)
    slope = e * (share.sum(-1, keepdims=True) / total_e) - share
    return values, downcast(slope, prediction)


def _check_distributions(prediction: Prediction, target: Target) -> None:
    """Raise unless the target is distributions in the shape of the logits."""
    check.floating(prediction)
    shape, dtype = tuple(prediction.shape), check_real(target, "target")
    if not shape or np.shape(target) != shape or not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(
            f"distributions of shape {shape or '(..., K)'}",
            f"a target {dtype} of shape {np.shape(target)}",
            "use losses.cross_entropy for labels, which differs by nothing there",
        )
    check.values(
        target,
        lambda t: ~(t >= 0),
        "probabilities of 0 or more",
        "give probabilities, not their logarithms",
    )


@constructor
def focal(
    gamma: float = 2.0,
    weights: tuple[float, ...] | None = None,
    *,
    ignore_index: int | None = None,
) -> Loss:
    """Focal loss: cross-entropy that counts an example less, the surer the model is of its label.

    Forward:   v = -sum_k t_k a_k q_k^gamma log p_k, p = softmax(y), q = 1 - p
    Backward:  dy_k = (g_k - p_k sum_j g_j) dv,
        g_k = t_k a_k (gamma q_k^(gamma - 1) p_k log p_k - q_k^gamma)

    Args:
        gamma: how much less, 0 or more; with 0 it is `cross_entropy`.
        weights: a, one for each class, 0 or more; None for 1 each.
        ignore_index: a label that does not count, as in `cross_entropy`.
    Shapes:    y (..., K), t (...) of integers in 0..K-1 or (..., K) of floats, v (...)
    Saves:     the slope
    Raises:    InputError as `cross_entropy` does, for a gamma below 0, and for weights that are no
        tuple of K numbers of 0 or more.
    Source:    Lin et al. 2017, arXiv:1708.02002, eqs. 4 and 5, for a softmax in place of a sigmoid.

    >>> import jax.numpy as jnp
    >>> focal(2.0).apply(jnp.zeros((1, 2)), jnp.array([1]))  # a quarter of log(2)
    Array([0.1732868], dtype=float32)

    """
    check.number(gamma, "gamma", least=0, remedy="0 is cross_entropy, 2 is usual")
    if weights is not None:
        if not isinstance(weights, tuple) or not weights:
            raise InputError(
                "weights that are a tuple of numbers of 0 or more",
                describe(weights),
                "give one to each class, as in weights=(0.25, 0.75)",
            )
        for weight in weights:
            check.number(weight, "weights", least=0)
    forward = functools.partial(_focal_forward, gamma, weights)
    checked = functools.partial(_check_weighted, weights)
    loss = of_forward(forward, _of_slope, checked)
    return ignoring(loss, ignore_index, functools.partial(checked, ignore_index=ignore_index))


def _check_weighted(
    weights: tuple[float, ...] | None,
    prediction: Prediction,
    target: Target,
    *,
    ignore_index: int | None = None,
) -> None:
    """Raise unless the target is classes, as many as there are weights."""
    check_classes(prediction, target, ignore_index=ignore_index)
    if weights is not None and prediction.shape[-1] != len(weights):
        raise InputError(
            f"logits of {len(weights)} classes, as there are weights",
            describe(prediction),
            "give one weight to each class",
        )


def _focal_forward(
    gamma: float, weights: tuple[float, ...] | None, prediction: Prediction, target: Target, /
) -> tuple[Array, Residuals]:
    """Return values and slope of `focal`."""
    _check_weighted(weights, prediction, target)
    y, t = upcast(prediction), _widened(prediction, target)
    log_p = jax.nn.log_softmax(y, -1)
    share, _ = _shares(t, y)
    if weights is not None:
        share = share * jnp.asarray(weights, y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))
    given = share != 0
    # What counts nothing is kept away from infinite costs, here and in the derivative.
    cost, slope = _discounted(gamma, jnp.where(given, log_p, -1))
    g = jnp.where(given, share * slope, 0)
    values = jnp.where(given, share * cost, 0).sum(-1)
    if t.ndim < y.ndim:
        values = jnp.where((t >= 0) & (t < y.shape[-1]), values, jnp.nan)
    return values, downcast(g - jnp.exp(log_p) * g.sum(-1, keepdims=True), prediction)


def _discounted(gamma: float, log_p: Array) -> tuple[Array, Array]:
    """Return ``-q^gamma log p``, and its derivative in ``log p``."""
    # 1 - p, without the cancellation of p close to 1.
    p, q = exp(log_p), -expm1(log_p)
    rate = jnp.asarray(gamma, q.dtype)
    doubt = jnp.ones_like(q) if check.is_zero(gamma) else jnp.power(q, rate)
    # log(p) / q is -1 in the limit q = 0, where q^(gamma - 1) may have none.
    sure = q == 0
    ratio = jnp.where(sure, -1, log_p / jnp.where(sure, 1, q))
    rising = jnp.where(p == 0, 0, p * ratio)
    return -doubt * log_p, doubt * (rate * rising - 1)


def _expected(values: Array, target: Array) -> Array:
    """Return ``sum_k t_k values_k``, with 0 inf = 0; for a label ``values_t``, NaN out of range."""
    if target.ndim == values.ndim:
        return jnp.where(target == 0, 0, target * values).sum(-1)
    # take_along_axis fills with NaN beyond the end, and would count a negative label from it.
    label = jnp.where(target < 0, values.shape[-1], target)
    return jnp.take_along_axis(values, label[..., None], -1, mode="fill")[..., 0]


def _widened(prediction: Array, target: Target) -> Array:
    """Return labels in 32 bits or more, or a distribution in float32 or better."""
    t = as_target(target)
    return t.astype(upcast(prediction).dtype) if t.ndim == prediction.ndim else as_labels(t)


def _shares(target: Array, y: Array) -> tuple[Array, Array]:
    """Return a distribution (..., K) and its sum (..., 1), of a label without summing."""
    if target.ndim == y.ndim:
        return target, target.sum(-1, keepdims=True)
    known = (target >= 0) & (target < y.shape[-1])
    return jax.nn.one_hot(target, y.shape[-1], dtype=y.dtype), known[..., None].astype(y.dtype)


def _of_slope(slope: Residuals, dvalues: Array, /) -> Cotangent:
    """Return the slope times dv, in its dtype."""
    return downcast(scaled(slope, dvalues), slope)


def _label_check(ignore_index: int | None) -> LossCheck:
    """Return what raises for bad labels, one of which is ignored."""
    return functools.partial(check_classes, ignore_index=ignore_index)


Rivals: TypeAlias = Literal["all", "best"]


@constructor
def multiclass_hinge(
    margin: float = 1.0, *, rivals: Rivals = "all", ignore_index: int | None = None
) -> Loss:
    """Multiclass hinge: no loss where the label scores `margin` more than all other classes.

    A class whose score is -inf is masked, and no rival.

    Forward:   v = sum_k h_k for all rivals, max_k h_k for the best,
        h_k = max(0, margin - y_t + y_k) for the classes k other than the label t
    Backward:  dy_k = dv for each class that has h_k > 0 (and is the best rival, the first of
        equals), dy_t = -sum_k dy_k, 0 elsewhere; at the kink h_k = 0 it is 0

    Args:
        margin: by how much a label should win, > 0.
        rivals: ``"all"`` (Weston and Watkins; PyTorch's ``MultiMarginLoss`` is v / K), or
            ``"best"``, the one class that scores best besides t (Crammer and Singer).
        ignore_index: a label that does not count, as in `cross_entropy`.
    Shapes:    y (..., K), t (...) of integers in 0..K-1, v (...)
    Saves:     the slope
    Raises:    InputError for labels that are out of range or no integers, for a margin that is not
        positive, for other rivals, and for fewer than two classes.
    Source:    Weston and Watkins 1999; Crammer and Singer 2001, JMLR 2, eq. 4.

    >>> import jax.numpy as jnp
    >>> scores, label = jnp.array([[1.0, 0.5, 2.0]]), jnp.array([0])
    >>> multiclass_hinge().apply(scores, label)
    Array([2.5], dtype=float32)
    >>> multiclass_hinge(rivals="best").apply(scores, label)
    Array([2.], dtype=float32)

    """
    check.number(margin, "margin", above=0, remedy="it is by how much a label should win")
    check.one_of(rivals, "rivals", get_args(Rivals))
    forward = functools.partial(_multiclass_hinge_forward, margin, rivals)
    loss = of_forward(forward, _of_slope, _check_rivals)
    return ignoring(loss, ignore_index, functools.partial(_check_rivals, ignore_index=ignore_index))


def _multiclass_hinge_forward(
    margin: float, rivals: Rivals, prediction: Prediction, target: Target, /
) -> tuple[Array, Residuals]:
    """Return values and slope of `multiclass_hinge`."""
    _check_rivals(prediction, target)
    y, t = upcast(prediction), as_labels(target)
    classes = y.shape[-1]
    label = jax.nn.one_hot(t, classes, dtype=bool)
    # An own score that is NaN, for a label out of range, makes the value NaN. The difference comes
    # first: a margin added to a large score is lost.
    gaps = y - _expected(y, t)[..., None] + jnp.asarray(margin, y.dtype)
    if rivals == "best":
        best = jnp.where(label, -jnp.inf, y).argmax(-1)
        gaps = jnp.where(jax.nn.one_hot(best, classes, dtype=bool), gaps, 0)
    gaps = rectified(jnp.where(label | (y == -jnp.inf), 0, gaps))
    # A comparison takes NaN for no rival.
    rising = jnp.where(jnp.isnan(gaps), gaps, (gaps > 0).astype(y.dtype))
    falling = jnp.where(label, rising.sum(-1, keepdims=True), 0)
    return gaps.sum(-1), downcast(rising - falling, prediction)


def _check_rivals(
    prediction: Prediction, target: Target, *, ignore_index: int | None = None
) -> None:
    """Raise unless the target is labels of two classes or more."""
    check_classes(prediction, target, distributions=False, ignore_index=ignore_index)
    if prediction.shape[-1] < 2:
        raise InputError(
            "scores of 2 or more classes",
            describe(prediction),
            "use losses.hinge for one score",
        )
