"""Losses of classes: a prediction (..., K) and a label (...) or a distribution (..., K)."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.tree import shape_witness
from fnn._core.types import Array, PyTree
from fnn.losses._loss import Loss, check_numbers, check_signs, of_forward


@constructor
def zero_one() -> Loss:
    """0-1 loss: 1 for a wrong answer, 0 for a right one; its derivative is zero.

    Forward, for a prediction (..., K) and integer labels (...): ``v = 1 where
    argmax_k y_k != t``; for a prediction and labels -1 and +1 of one shape (B, ...):
    ``v_b = sum_o 1 where t_bo y_bo <= 0``. Backward ``dy = 0``: the derivative is zero almost
    everywhere, so no gradient descends on this loss; use it as a metric.

    Raises `fnn.InputError` for labels that fit neither.

    >>> import jax.numpy as jnp
    >>> zero_one().apply(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1]))
    Array([0., 1.], dtype=float32)
    """

    def check_pair(prediction: Any, target: Any) -> None:
        if prediction.ndim == jnp.ndim(target):
            check_numbers(prediction, target)
            check_signs(target)
        else:
            check_classes(prediction, target)

    def forward(prediction: Any, target: Any, /) -> tuple[Array, PyTree]:
        check_pair(prediction, target)
        if prediction.ndim == jnp.ndim(target):
            wrong = prediction * jnp.asarray(target, prediction.dtype) <= 0
            values = wrong.astype(prediction.dtype).sum(tuple(range(1, prediction.ndim)))
        else:
            guess = prediction.argmax(-1)
            values = (guess != jnp.asarray(target, guess.dtype)).astype(prediction.dtype)
        return values, shape_witness(prediction)

    def backward(witness: PyTree, dvalues: Any, /) -> Any:
        del dvalues
        return jnp.zeros(witness.shape[1:], witness.dtype)

    return of_forward(forward, backward, check_pair)


@constructor
def nll() -> Loss:
    """Negative log-likelihood of log-probabilities, as `fnn.log_softmax` gives them.

    Forward ``v = -sum_k t_k y_k``, for an integer label ``-y_t``; backward ``dy_k = -t_k dv``.
    y (..., K), t (...) or (..., K), v (...). Saved: t.

    Raises `fnn.InputError` as `cross_entropy` does.

    >>> import jax.numpy as jnp
    >>> nll().apply(jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([0])).round(4)
    Array([1.3863], dtype=float32)
    """

    def check_pair(prediction: Any, target: Any) -> None:
        check_classes(prediction, target)

    def forward(prediction: Any, target: Any, /) -> tuple[Array, PyTree]:
        check_pair(prediction, target)
        return -expected(prediction, target), (jnp.asarray(target), shape_witness(prediction))

    def backward(residuals: PyTree, dvalues: Any, /) -> Any:
        target, witness = residuals
        return _spread(target, -dvalues, witness.shape[-1])

    return of_forward(forward, backward, check_pair)


@constructor
def cross_entropy(label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy of logits: softmax and negative log-likelihood in one.

    Forward ``v = -sum_k s_k log_softmax(y)_k`` with ``s = (1 - a) t + a / K``, a being
    `label_smoothing` and t the one-hot label or the distribution given; backward
    ``dy_k = (softmax(y)_k sum_j s_j - s_k) dv``. y (..., K), t (...) integers in 0..K-1 or (..., K)
    floats, v (...). Saved: the slope.

    Raises `fnn.InputError` for labels out of range or of a floating type, for a target that is
    neither (...) nor (..., K), and for an `a` outside [0, 1). Source for a: Szegedy et al. 2015,
    arXiv:1512.00567, section 7.

    >>> import jax.numpy as jnp
    >>> loss = cross_entropy()
    >>> values, slope = loss.forward(jnp.zeros((1, 2)), jnp.array([1]))
    >>> values, loss.backward(slope, jnp.ones(1))
    (Array([0.6931472], dtype=float32), Array([[ 0.5, -0.5]], dtype=float32))
    """
    if not 0 <= label_smoothing < 1:
        raise InputError(
            "a label_smoothing in [0, 1)",
            describe(label_smoothing),
            "pass the share of the label to spread, such as 0.1",
        )

    def check_pair(prediction: Any, target: Any) -> None:
        check_classes(prediction, target)

    def forward(prediction: Any, target: Any, /) -> tuple[Array, PyTree]:
        check_pair(prediction, target)
        log_probability = jax.nn.log_softmax(prediction, -1)
        values = -expected(log_probability, target)
        share = _distribution(target, prediction.shape[-1], prediction.dtype)
        total = _total(target, share)
        if label_smoothing:
            values = (1 - label_smoothing) * values - label_smoothing * log_probability.mean(-1)
            share = (1 - label_smoothing) * share + label_smoothing / prediction.shape[-1]
            total = (1 - label_smoothing) * total + label_smoothing
        return values, jnp.exp(log_probability) * total - share

    def backward(slope: PyTree, dvalues: Any, /) -> Any:
        return slope * dvalues[..., None]

    return of_forward(forward, backward, check_pair)


@constructor
def kl_divergence() -> Loss:
    """Kullback-Leibler divergence of a distribution t from the softmax of logits y.

    Forward ``v = sum_k t_k (log t_k - log_softmax(y)_k)``, with ``0 log 0 = 0``: the cross-entropy
    less the entropy of t, so that it is 0 where softmax(y) = t. Backward
    ``dy_k = (softmax(y)_k sum_j t_j - t_k) dv``. y and t (..., K), v (...). Saved: the slope.

    Raises `fnn.InputError` for a target that is no distribution (..., K) of floats, and for
    probabilities below 0. Source: Kullback and Leibler 1951, doi:10.1214/aoms/1177729694, eq. 2.4.

    >>> import jax.numpy as jnp
    >>> kl_divergence().apply(jnp.zeros((2, 2)), jnp.array([[1.0, 0.0], [0.5, 0.5]]))
    Array([0.6931472, 0.       ], dtype=float32)
    """

    def check_pair(prediction: Any, target: Any) -> None:
        check.floating(prediction)
        shape = tuple(prediction.shape)
        floats = jnp.issubdtype(jnp.asarray(target).dtype, jnp.floating)
        if not shape or jnp.shape(target) != shape or not floats:
            raise InputError(
                f"distributions of shape {shape or '(..., K)'}",
                f"a target {describe(jnp.asarray(target))}",
                "use losses.cross_entropy for labels, which differs by nothing there",
            )
        check.values(
            target,
            lambda t: t < 0,
            "probabilities of 0 or more",
            "give probabilities, not their logarithms",
        )

    def forward(prediction: Any, target: Any, /) -> tuple[Array, PyTree]:
        check_pair(prediction, target)
        share = jnp.asarray(target).astype(prediction.dtype)
        log_probability = jax.nn.log_softmax(prediction, -1)
        values = (jax.scipy.special.xlogy(share, share) - share * log_probability).sum(-1)
        return values, jnp.exp(log_probability) * share.sum(-1, keepdims=True) - share

    def backward(slope: PyTree, dvalues: Any, /) -> Any:
        return slope * dvalues[..., None]

    return of_forward(forward, backward, check_pair)


@constructor
def focal(gamma: float = 2.0, weights: tuple[float, ...] | None = None) -> Loss:
    """Focal loss: cross-entropy that counts an example less, the surer the model is of its label.

    Forward ``v = -sum_k t_k a_k q_k^gamma log p_k`` with ``p = softmax(y)``, ``q = 1 - p``, t the
    one-hot label or the distribution given, and a the `weights` of the classes (1 when None).
    Backward, with ``g_k = t_k a_k (gamma q_k^(gamma - 1) p_k log p_k - q_k^gamma)``,
    ``dy_k = (g_k - p_k sum_j g_j) dv``. A gamma of 0 is `cross_entropy`. y (..., K), t (...)
    integers in 0..K-1 or (..., K) floats, v (...). Saved: the slope.

    Raises `fnn.InputError` as `cross_entropy` does, for a gamma below 0, and for weights that are
    not K numbers of 0 or more. Source: Lin et al. 2017, arXiv:1708.02002, eqs. 4 and 5, for a
    softmax in place of a sigmoid.

    >>> import jax.numpy as jnp
    >>> focal(2.0).apply(jnp.zeros((1, 2)), jnp.array([1]))  # a quarter of log(2)
    Array([0.1732868], dtype=float32)
    """
    if not gamma >= 0:
        raise InputError("a gamma of 0 or more", describe(gamma), "0 is cross_entropy, 2 is usual")
    if weights is not None and not (
        isinstance(weights, tuple) and weights and all(weight >= 0 for weight in weights)
    ):
        raise InputError(
            "weights that are a tuple of numbers of 0 or more",
            describe(weights),
            "give one to each class, as in weights=(0.25, 0.75)",
        )

    def check_pair(prediction: Any, target: Any) -> None:
        check_classes(prediction, target)
        if weights is not None and prediction.shape[-1] != len(weights):
            raise InputError(
                f"logits of {len(weights)} classes, as there are weights",
                describe(prediction),
                "give one weight to each class",
            )

    def forward(prediction: Any, target: Any, /) -> tuple[Array, PyTree]:
        check_pair(prediction, target)
        log_p = jax.nn.log_softmax(prediction, -1)
        # 1 - p, without the cancellation of p close to 1.
        p, q = jnp.exp(log_p), -jnp.expm1(log_p)
        doubt = jnp.power(q, jnp.asarray(gamma, q.dtype)) if gamma else jnp.ones_like(q)
        # log(p) / q is -1 in the limit q = 0, where q^(gamma - 1) may have none.
        sure = q == 0
        ratio = jnp.where(sure, -1, log_p / jnp.where(sure, 1, q))
        costs, slopes = -doubt * log_p, doubt * (gamma * p * ratio - 1)
        if weights is not None:
            scale = jnp.asarray(weights, q.dtype).reshape((1,) * (q.ndim - 1) + (-1,))
            costs, slopes = scale * costs, scale * slopes
        slopes = _distribution(target, q.shape[-1], q.dtype) * slopes
        return expected(costs, target), slopes - p * slopes.sum(-1, keepdims=True)

    def backward(slope: PyTree, dvalues: Any, /) -> Any:
        return slope * dvalues[..., None]

    return of_forward(forward, backward, check_pair)


def expected(values: Array, target: Any) -> Array:
    """Return ``sum_k t_k values_k``, for an integer label ``values_t``, NaN out of range."""
    target = jnp.asarray(target)
    if target.ndim == values.ndim:
        return (target.astype(values.dtype) * values).sum(-1)
    # take_along_axis fills with NaN beyond the end, and would count a negative label from it.
    label = jnp.where(target < 0, values.shape[-1], target)
    return jnp.take_along_axis(values, label[..., None], -1, mode="fill")[..., 0]


def _distribution(target: Any, classes: int, dtype: Any) -> Array:
    target = jnp.asarray(target)
    if jnp.issubdtype(target.dtype, jnp.integer):
        return jax.nn.one_hot(target, classes, dtype=dtype)
    return target.astype(dtype)


def _total(target: Any, share: Array) -> Array:
    """Return ``sum_k t_k`` (..., 1), without a sum where t is a label."""
    target = jnp.asarray(target)
    if target.ndim == share.ndim:
        return share.sum(-1, keepdims=True)
    return ((target >= 0) & (target < share.shape[-1]))[..., None].astype(share.dtype)


def _spread(target: Any, values: Array, classes: int) -> Array:
    """Return ``t_k v`` (..., K): of a label, v in its place and 0 in all others."""
    target = jnp.asarray(target)
    if target.ndim > values.ndim:
        return target.astype(values.dtype) * values[..., None]
    label = jnp.where(target < 0, classes, target)
    places = (*jnp.indices(values.shape, sparse=True), label)
    zeros = jnp.zeros((*values.shape, classes), values.dtype)
    return zeros.at[places].set(values, mode="drop")


def check_classes(prediction: Any, target: Any, *, distributions: bool = True) -> None:
    """Raise unless the target is labels, or distributions where they are allowed."""
    check.floating(prediction)
    shape, dtype = tuple(prediction.shape), jnp.asarray(target).dtype
    classes = shape[-1] if shape else 0
    same = jnp.shape(target) == shape and shape and jnp.issubdtype(dtype, jnp.floating)
    if distributions and same:
        return
    if jnp.shape(target) != shape[:-1] or not shape or not jnp.issubdtype(dtype, jnp.integer):
        other = f" or distributions of shape {shape}" if distributions else ""
        raise InputError(
            f"integer labels of shape {shape[:-1]}{other}",
            f"a target {describe(jnp.asarray(target))}",
            "convert labels with target.astype('int32'), and give one to each row of logits",
        )
    check.values(
        target,
        lambda t: (t < 0) | (t >= classes),
        f"labels in 0..{classes - 1}",
        "widen the last layer, or count the labels from 0",
    )


Rivals: TypeAlias = Literal["all", "best"]


@constructor
def multiclass_hinge(margin: float = 1.0, *, rivals: Rivals = "all") -> Loss:
    """Multiclass hinge: no loss where the label scores `margin` more than all other classes.

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
    if not margin > 0:
        raise InputError(
            "a margin above 0", describe(margin), "it is by how much a label should win"
        )
    if rivals not in get_args(Rivals):
        raise InputError("rivals 'all' or 'best'", describe(rivals), "pass one of these names")

    def check_pair(prediction: Any, target: Any) -> None:
        check_classes(prediction, target, distributions=False)
        if prediction.shape[-1] < 2:
            raise InputError(
                "scores of 2 or more classes",
                describe(prediction),
                "use losses.hinge for one score",
            )

    def forward(prediction: Any, target: Any, /) -> tuple[Array, PyTree]:
        check_pair(prediction, target)
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

    return of_forward(forward, backward, check_pair)
