"""Cross-entropy over many classes, whose logits are never there all at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.linear_head import LinearHead
from fnn._core.precision import wide_dtype
from fnn._core.types import Array, PyTree
from fnn.losses._loss import Loss
from fnn.losses.classification import check_classes


@constructor
def linear_cross_entropy(chunk: int = 1024, label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy of the logits of a `fnn.linear_head`, `chunk` classes at a time.

    The same as `cross_entropy` of ``z = x W + b``, without the room for z. Forward
    ``v = l - sum_k s_k z_k`` with ``l = log sum_k exp(z_k)``, the maximum and the sum of the
    exponentials being carried from chunk to chunk, and ``s = (1 - a) onehot(t) + a / K``. Backward,
    of logits computed again, ``g_nk = (exp(z_nk - l_n) - s_nk) dv_n``, ``dx_n = sum_k g_nk W_:k``,
    ``dW_:k = sum_n x_n g_nk``, ``db_k = sum_n g_nk``.

    The prediction is a `LinearHead` of features (..., I), weight (I, K) and bias (K,) or None; t
    (...) integers in 0..K-1, v (...). Saved: the prediction and l; of the N rows of features,
    N `chunk` logits are there at a time. Padded rows get a label, and the weight 0. By autodiff too
    each chunk is computed again rather than kept.

    Raises `fnn.InputError` for a prediction that is no `LinearHead`, labels as in `cross_entropy`,
    a chunk below 1, and an `a` outside [0, 1). Sources: Milakov and Gimelshein 2018,
    arXiv:1805.02867, algorithm 3, for l; Wijmans et al. 2024, arXiv:2411.09009, for the logits
    computed again.

    >>> import fnn, jax.numpy as jnp
    >>> head = fnn.LinearHead(jnp.ones((1, 2)), jnp.array([[1.0, 2.0, 3.0], [0.0, 1.0, 2.0]]))
    >>> linear_cross_entropy(chunk=2).apply(head, jnp.array([0]))
    Array([4.1429315], dtype=float32)
    >>> fnn.losses.cross_entropy().apply(head.logits, jnp.array([0]))
    Array([4.1429315], dtype=float32)
    """
    if not check.is_count(chunk, 1):
        raise InputError("a chunk of 1 or more classes", describe(chunk), "pass an int")
    if not 0 <= label_smoothing < 1:
        raise InputError(
            "a label_smoothing in [0, 1)",
            describe(label_smoothing),
            "pass the share of the label to spread, such as 0.1",
        )

    def check_pair(prediction: Any, target: Any) -> None:
        if not isinstance(prediction, LinearHead):
            raise InputError(
                "a LinearHead",
                describe(prediction),
                "end the model with fnn.linear_head(classes), or use losses.cross_entropy",
            )
        features, weight = prediction.features, prediction.weight
        check.floating(features)
        logits = (*features.shape[:-1], weight.shape[-1])
        check_classes(jax.ShapeDtypeStruct(logits, features.dtype), target, distributions=False)

    def normalizer(head: LinearHead, label: Array, rule: Callable[[Any], Any]) -> tuple[Any, Array]:
        """Return l and ``sum_k s_k z_k``; `rule` wraps the step from chunk to chunk."""
        rows, classes, dtype = len(label), head.weight.shape[-1], wide_dtype(head.features.dtype)

        def step(carry: Any, start: Any, width: int) -> Any:
            top, total, own, every = carry
            z = _logits(head, start, width)
            # l does not depend on the maximum, so that its derivative may be left out.
            new = jax.lax.stop_gradient(jnp.maximum(top, z.max(-1)))
            total = total * jnp.exp(top - new) + jnp.exp(z - new[:, None]).sum(-1)
            own = own + jnp.where(_is_label(label, start, width), z, 0).sum(-1)
            return new, total, own, every + z.sum(-1) if label_smoothing else every

        zeros = jnp.zeros(rows, dtype)
        # Not -inf, from which a chunk of classes ruled out, all -inf, would subtract itself.
        lowest = jnp.full(rows, jnp.finfo(dtype).min)
        top, total, own, every = _over_chunks(
            rule(step), (lowest, zeros, zeros, zeros), classes, chunk
        )
        expected = (1 - label_smoothing) * own
        if label_smoothing:
            expected = expected + label_smoothing / classes * every
        unknown = (label < 0) | (label >= classes)
        return top + jnp.log(total), jnp.where(unknown, jnp.nan, expected)

    def run(prediction: Any, target: Any, rule: Callable[[Any], Any]) -> tuple[Array, PyTree]:
        check_pair(prediction, target)
        label = jnp.asarray(target)
        log_sum, expected = normalizer(_flat(prediction), label.ravel(), rule)
        values = (log_sum - expected).reshape(label.shape).astype(prediction.features.dtype)
        return values, (prediction, label, log_sum)

    def apply(prediction: Any, target: Any, /) -> Array:
        return run(prediction, target, _forgetting)[0]

    def forward(prediction: Any, target: Any, /) -> tuple[Array, PyTree]:
        return run(prediction, target, lambda step: step)

    def backward(residuals: PyTree, dvalues: Any, /) -> Any:
        prediction, label, log_sum = residuals
        head, label = _flat(prediction), label.ravel()
        classes, dtype = head.weight.shape[-1], head.features.dtype
        dvalues = dvalues.ravel().astype(log_sum.dtype)

        def step(carry: Any, start: Any, width: int) -> Any:
            dfeatures, dweight, dbias = carry
            probability = jnp.exp(_logits(head, start, width) - log_sum[:, None])
            share = jnp.where(_is_label(label, start, width), 1 - label_smoothing, 0)
            share = share.astype(log_sum.dtype) + label_smoothing / classes
            wide = (probability - share) * dvalues[:, None]
            g = wide.astype(dtype)
            weight = jax.lax.dynamic_slice_in_dim(head.weight, start, width, 1)
            dfeatures = dfeatures + jnp.matmul(g, weight.T, preferred_element_type=dfeatures.dtype)
            dweight = jax.lax.dynamic_update_slice_in_dim(dweight, head.features.T @ g, start, 1)
            if dbias is not None:
                sums = wide.sum(0).astype(dtype)
                dbias = jax.lax.dynamic_update_slice_in_dim(dbias, sums, start, 0)
            return dfeatures, dweight, dbias

        zeros = jax.tree.map(jnp.zeros_like, head)
        zeros = zeros._replace(features=zeros.features.astype(log_sum.dtype))
        dfeatures, dweight, dbias = _over_chunks(step, tuple(zeros), classes, chunk)
        dfeatures = dfeatures.reshape(prediction.features.shape).astype(dtype)
        return LinearHead(dfeatures, dweight, dbias)

    return Loss(apply, forward, backward, check_pair)


def _flat(head: LinearHead) -> LinearHead:
    """Return the head of all rows of features on one axis: (N, I)."""
    return head._replace(features=head.features.reshape(-1, head.features.shape[-1]))


def _logits(head: LinearHead, start: Any, width: int) -> Array:
    """Return the logits (N, width) of a range of classes."""
    dtype = wide_dtype(head.features.dtype)
    weight = jax.lax.dynamic_slice_in_dim(head.weight, start, width, 1)
    logits = jnp.matmul(head.features, weight, preferred_element_type=dtype)
    if head.bias is None:
        return logits
    return logits + jax.lax.dynamic_slice_in_dim(head.bias, start, width, 0)[None].astype(dtype)


def _is_label(label: Array, start: Any, width: int) -> Array:
    """Return booleans (N, width) that are True at each row's label."""
    return (label.astype(jnp.int32) - start)[:, None] == jnp.arange(width, dtype=jnp.int32)[None]


def _over_chunks(step: Callable[..., Any], carry: Any, classes: int, chunk: int) -> Any:
    """Run ``step(carry, start, width)`` over consecutive ranges of classes, the last one ragged."""
    full, rest = divmod(classes, chunk)
    if full:
        starts = chunk * jnp.arange(full, dtype=jnp.int32)
        carry, _ = jax.lax.scan(lambda c, start: (step(c, start, chunk), None), carry, starts)
    return step(carry, jnp.int32(full * chunk), rest) if rest else carry


def _forgetting(step: Callable[..., Any]) -> Callable[..., Any]:
    """Let autodiff compute a step again, where it would keep all logits."""
    return jax.checkpoint(step, static_argnums=(2,))
