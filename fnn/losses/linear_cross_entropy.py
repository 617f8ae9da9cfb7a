"""Cross-entropy over many classes, whose logits are never there all at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.arrays import as_labels
from fnn._core.description import constructor
from fnn._core.elementary import exp
from fnn._core.errors import InputError, describe
from fnn._core.linear_head import LinearHead
from fnn._core.mesh import scan
from fnn._core.precision import wide_dtype
from fnn._core.sums import leading_sum
from fnn._core.types import Array, Cotangent, Prediction, Residuals, Target
from fnn.losses._loss import Loss, check_classes, ignoring, left_out
from fnn.losses.classification import check_smoothing

Carry = TypeVar("Carry")


class _Options(NamedTuple):
    """The arguments of the constructor."""

    chunk: int
    label_smoothing: float

    @property
    def smooths(self) -> bool:
        """Whether classes other than the label have a share."""
        return not check.is_zero(self.label_smoothing)


class _Sums(NamedTuple):
    """What is carried from chunk to chunk, one for each row."""

    top: Array  # the largest logit so far
    total: Array  # the sum of the exponentials of logits less the largest
    own: Array  # the logit of the label
    every: Array  # the sum of all logits, where they are smoothed
    classes: Array  # the number of those that are not masked, where they are smoothed


@constructor
def linear_cross_entropy(
    chunk: int = 1024, label_smoothing: float = 0.0, *, ignore_index: int | None = None
) -> Loss:
    """Cross-entropy of the logits of a `fnn.linear_head`, `chunk` classes at a time.

    The same as `cross_entropy` of z = x W + b, without the room for z: the maximum and the sum of
    the exponentials are carried from chunk to chunk, and backward computes the logits again. Padded
    rows get the label `ignore_index`, or any label and the weight 0. By autodiff too each chunk is
    computed again rather than kept.

    Forward:   v = l - sum_k s_k z_k, l = log sum_k exp(z_k), s = (1 - a) onehot(t) + a / K
    Backward:  dx_n = sum_k g_nk W_:k, dW_:k = sum_n x_n g_nk, db_k = sum_n g_nk,
        g_nk = (exp(z_nk - l_n) - s_nk) dv_n

    Args:
        chunk: how many classes at a time, 1 or more; of N rows of features, N chunk logits are
            there at once.
        label_smoothing: a, as in `cross_entropy`, in [0, 1); K counts the classes not masked.
        ignore_index: a label that does not count, as in `cross_entropy`.
    Shapes:    x (..., I), W (I, K) and b (K,) or None in a `LinearHead`, t (...) of integers in
        0..K-1, v (...)
    Saves:     the prediction, t and l
    Raises:    InputError for a prediction that is no `LinearHead`, labels as in `cross_entropy`, a
        chunk below 1, and an a outside [0, 1).
    Source:    Milakov and Gimelshein 2018, arXiv:1805.02867, algorithm 3, for l; Wijmans et al.
        2024, arXiv:2411.09009, for the logits computed again.

    >>> import fnn, jax.numpy as jnp
    >>> head = fnn.LinearHead(jnp.ones((1, 2)), jnp.array([[1.0, 2.0, 3.0], [0.0, 1.0, 2.0]]))
    >>> linear_cross_entropy(chunk=2).apply(head, jnp.array([0]))
    Array([4.1429315], dtype=float32)
    >>> fnn.losses.cross_entropy().apply(head.logits, jnp.array([0]))
    Array([4.1429315], dtype=float32)

    """
    check.count(chunk, "chunk")
    check_smoothing(label_smoothing)
    options = _Options(chunk, label_smoothing)

    def apply(prediction: Prediction, target: Target, /) -> Array:
        return _forward(options, _forgetting, prediction, target)[0]

    def forward(prediction: Prediction, target: Target, /) -> tuple[Array, Residuals]:
        return _forward(options, lambda step: step, prediction, target)

    def backward(residuals: Residuals, dvalues: Array, /) -> Cotangent:
        return _backward(options, residuals, dvalues)

    loss = Loss(apply, forward, backward, _check_pair)
    return ignoring(loss, ignore_index, functools.partial(_check_pair, ignore_index=ignore_index))


def _check_pair(prediction: Prediction, target: Target, *, ignore_index: int | None = None) -> None:
    """Raise unless a head of consistent shapes has labels among its classes."""
    if not isinstance(prediction, LinearHead):
        raise InputError(
            "a LinearHead",
            describe(prediction),
            "end the model with fnn.linear_head(classes), or use losses.cross_entropy",
        )
    features, weight, bias = prediction
    check.floating(features)
    check.shape(features, "... I", name="features")
    check.shape(weight, "I K", name="weight", I=features.shape[-1])
    if bias is not None:
        check.shape(bias, "K", name="bias", K=weight.shape[-1])
    logits = jax.ShapeDtypeStruct((*features.shape[:-1], weight.shape[-1]), features.dtype)
    check_classes(logits, target, distributions=False, ignore_index=ignore_index)


Step = Callable[[Carry, Array, int], Carry]


def _forward(
    options: _Options,
    wrap: Callable[[Step[_Sums]], Step[_Sums]],
    prediction: Prediction,
    target: Target,
) -> tuple[Array, Residuals]:
    """Return values and residuals; `wrap` is put around the step from chunk to chunk."""
    _check_pair(prediction, target)
    label, head = as_labels(target), _flat(prediction)
    rows, count, dtype = label.ravel(), head.weight.shape[-1], wide_dtype(head.features.dtype)
    zeros = jnp.zeros(rows.shape, dtype)
    # Not -inf, from which a chunk of classes ruled out, all -inf, would subtract itself.
    start = _Sums(jnp.full(rows.shape, jnp.finfo(dtype).min), zeros, zeros, zeros, zeros)
    step = wrap(functools.partial(_add_chunk, options.smooths, head, rows))
    sums = _over_chunks(step, start, count, options.chunk)
    log_sum = sums.top + jnp.log(sums.total)
    expected, classes = sums.own, sums.classes if options.smooths else None
    if classes is not None:
        a = jnp.asarray(options.label_smoothing, dtype)
        expected = (1 - a) * expected + a / classes * sums.every
    unknown = (rows < 0) | (rows >= count)
    values = log_sum - jnp.where(unknown, jnp.nan, expected)
    return values.reshape(label.shape), (prediction, label, log_sum, classes)


def _add_chunk(
    smooths: bool, head: LinearHead, label: Array, sums: _Sums, start: Array, width: int
) -> _Sums:
    """Add some classes to the sums of all rows."""
    top, total, own, every, classes = sums
    z = _logits(head, start, width)
    # l does not depend on the maximum, so that its derivative may be left out.
    new = jax.lax.stop_gradient(jnp.maximum(top, z.max(-1)))
    total = total * jnp.exp(top - new) + jnp.exp(z - new[:, None]).sum(-1)
    own = own + jnp.where(_is_label(label, start, width), z, 0).sum(-1)
    if smooths:
        there = z != -jnp.inf
        every = every + jnp.where(there, z, 0).sum(-1)
        classes = classes + there.sum(-1).astype(z.dtype)
    return _Sums(new, total, own, every, classes)


def _backward(options: _Options, residuals: Residuals, dvalues: Array) -> LinearHead:
    """Return the gradient in the head, its logits computed again."""
    prediction, label, log_sum, classes = residuals
    head, dtype = _flat(prediction), prediction.features.dtype
    dvalues = dvalues.ravel().astype(log_sum.dtype)
    # Rows that do not count may hold anything.
    head = head._replace(features=jnp.where(dvalues[:, None] == 0, 0, head.features))
    # The slope is stored in the dtype of the features: in half precision as a number near 1.
    scale = jnp.ones((), log_sum.dtype)
    if log_sum.dtype != dtype:
        scale = jnp.abs(dvalues).max(initial=0)
        scale = jnp.where(scale == 0, 1, scale)
    given = _Given(options, head, label.ravel(), log_sum, classes, dvalues / scale)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, wide_dtype(a.dtype)), head)
    zeros = zeros._replace(weight=jnp.zeros_like(head.weight))
    step = functools.partial(_gradient_chunk, given, scale)
    grads = _over_chunks(step, zeros, head.weight.shape[-1], options.chunk)
    features = (grads.features * scale).astype(dtype).reshape(prediction.features.shape)
    bias = None if head.bias is None else grads.bias.astype(head.bias.dtype)
    return grads._replace(features=features, bias=bias)


class _Given(NamedTuple):
    """What backward reads in every chunk; dvalues are scaled."""

    options: _Options
    head: LinearHead
    label: Array
    log_sum: Array
    classes: Array | None
    dvalues: Array


def _gradient_chunk(
    given: _Given, scale: Array, grads: LinearHead, start: Array, width: int
) -> LinearHead:
    """Put the gradient of some classes' weights in place, and add to that of the features."""
    options, head, label, log_sum, classes, dvalues = given
    wide, dtype = log_sum.dtype, head.features.dtype
    z = _logits(head, start, width)
    share = _is_label(label, start, width).astype(wide)
    if classes is not None:
        a = jnp.asarray(options.label_smoothing, wide)
        uniform = jnp.where(z != -jnp.inf, a / classes[:, None], 0)
        share = (1 - a) * share + uniform
    slope = left_out(dvalues[:, None], (exp(z - log_sum[:, None]) - share) * dvalues[:, None])
    g = slope.astype(dtype)
    weight = jax.lax.dynamic_slice_in_dim(head.weight, start, width, 1)
    dfeatures = grads.features + jnp.matmul(g, weight.T, preferred_element_type=wide)
    products = jnp.matmul(head.features.T, g, preferred_element_type=wide) * scale
    products = products.astype(head.weight.dtype)
    dweight = jax.lax.dynamic_update_slice_in_dim(grads.weight, products, start, 1)
    dbias = grads.bias
    if dbias is not None:
        sums = (leading_sum(slope) * scale).astype(dbias.dtype)
        dbias = jax.lax.dynamic_update_slice_in_dim(dbias, sums, start, 0)
    return LinearHead(dfeatures, dweight, dbias)


def _flat(head: LinearHead) -> LinearHead:
    """Return the head of all rows of features on one axis: (N, I)."""
    return head._replace(features=head.features.reshape(-1, head.features.shape[-1]))


def _logits(head: LinearHead, start: Array, width: int) -> Array:
    """Return the logits (N, width) of a range of classes."""
    dtype = wide_dtype(head.features.dtype)
    weight = jax.lax.dynamic_slice_in_dim(head.weight, start, width, 1)
    logits = jnp.matmul(head.features, weight, preferred_element_type=dtype)
    if head.bias is None:
        return logits
    return logits + jax.lax.dynamic_slice_in_dim(head.bias, start, width, 0)[None].astype(dtype)


def _is_label(label: Array, start: Array, width: int) -> Array:
    """Return booleans (N, width) that are True at each row's label."""
    return (label.astype(jnp.int32) - start)[:, None] == jnp.arange(width, dtype=jnp.int32)[None]


def _over_chunks(step: Step[Carry], carry: Carry, classes: int, chunk: int) -> Carry:
    """Run ``step(carry, start, width)`` over consecutive ranges of classes, the last one ragged."""
    full, rest = divmod(classes, chunk)
    if full:
        starts = chunk * jnp.arange(full, dtype=jnp.int32)
        carry, _ = scan(lambda c, start: (step(c, start, chunk), None), carry, starts)
    return step(carry, jnp.int32(full * chunk), rest) if rest else carry


def _forgetting(step: Step[_Sums]) -> Step[_Sums]:
    """Let autodiff compute a step again, where it would keep all logits."""
    return jax.checkpoint(step, static_argnums=(2,))
