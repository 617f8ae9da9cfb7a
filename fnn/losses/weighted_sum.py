"""Several losses of several heads, added up."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, at, describe
from fnn._core.sums import sum_of_product
from fnn._core.types import Array, Cotangent, Prediction, Residuals, Scalar, Target, Unchecked
from fnn.losses._loss import Loss, left_out, require_loss


@constructor
def weighted_sum(losses: Mapping[str, Loss], weights: Mapping[str, Scalar] | None = None) -> Loss:
    """Weighted sum of losses (multi-task loss), one for each head of a model.

    A head is a part of a prediction that is a dict, as ``fnn.parallel(digit=..., image=...)`` makes
    it. A head with several values for an example, such as one for each label of a sequence, counts
    with their mean. A target that a loss ignores adds 0; an example counts unless all of its
    targets are ignored. To give one prediction to two losses, pass it on twice:
    ``fnn.parallel(a=fnn.identity(), b=fnn.identity())``.

    Forward:   v_b = sum_k w_k m_kb, m_kb the mean of the values of head k for example b that count
    Backward:  dy_k is the backward of loss k, of dv_kb... = w_k dv_b / (number that count), where
        they do

    Args:
        losses: k: the loss of each head by its name.
        weights: w: the weight of each head by its name, a finite number, 1 where it has none; None
            for 1 everywhere.
    Shapes:    y a dict of what the losses take; t a dict likewise, in which a head may be left out
        whose loss takes no target (it is handed None); v (B,)
    Saves:     what the losses save, and which values count
    Raises:    InputError for no losses, for what is no loss or no number, for weights or targets of
        heads that there are none of, and for a prediction of other heads.

    >>> import fnn, jax.numpy as jnp
    >>> loss = weighted_sum(
    ...     {"place": fnn.losses.squared_error(), "label": fnn.losses.cross_entropy()},
    ...     weights={"place": 0.5},
    ... )
    >>> y = {"place": jnp.array([[2.0]]), "label": jnp.array([[0.0, 0.0]])}
    >>> loss.apply(y, {"place": jnp.array([[0.0]]), "label": jnp.array([1])})
    Array([2.6931472], dtype=float32)

    """
    _check_losses(losses, weights)
    scale = {name: (weights or {}).get(name, 1.0) for name in losses}

    def check_pair(prediction: Prediction, target: Target) -> None:
        _check_heads(losses, prediction, target)
        for name, loss in losses.items():
            with at(name):
                loss.check(prediction[name], target.get(name))

    def apply(prediction: Prediction, target: Target, /) -> Array:
        _check_heads(losses, prediction, target)
        total = []
        for name, loss in losses.items():
            with at(name):
                values = loss.apply(prediction[name], target.get(name))
                total.append(_weighted(scale[name], values, _share(loss, values, target.get(name))))
        return _sum(total)

    def forward(prediction: Prediction, target: Target, /) -> tuple[Array, Residuals]:
        _check_heads(losses, prediction, target)
        total, saved = [], {}
        for name, loss in losses.items():
            with at(name):
                values, residuals = loss.forward(prediction[name], target.get(name))
                share = _share(loss, values, target.get(name))
                total.append(_weighted(scale[name], values, share))
                saved[name] = residuals, share
        return _sum(total), saved

    def backward(saved: Residuals, dvalues: Array, /) -> Cotangent:
        dprediction = {}
        for name, loss in losses.items():
            residuals, share = saved[name]
            dv = _over(dvalues.astype(share.dtype), share) * share
            dprediction[name] = loss.backward(residuals, jnp.asarray(scale[name], dv.dtype) * dv)
        return dprediction

    def counted(target: Target, /) -> Array:
        _check_names(losses, "target", target)
        found = [loss.counted(target.get(name)) for name, loss in losses.items() if loss.counted]
        return functools.reduce(jnp.logical_or, [_any(counts) for counts in found])

    all_may_ignore = all(loss.counted is not None for loss in losses.values())
    return Loss(apply, forward, backward, check_pair, counted if all_may_ignore else None)


def _share(loss: Loss, values: Array, target: Target) -> Array:
    """Return the share of each value in the mean of its example, 0 where it does not count."""
    if loss.counted is None:
        return jnp.full(values.shape, 1 / max(math.prod(values.shape[1:]), 1), values.dtype)
    counts = loss.counted(target).astype(values.dtype)
    number = counts.sum(tuple(range(1, counts.ndim)))
    return counts / _over(jnp.maximum(number, 1), counts)


def _weighted(weight: Scalar, values: Array, share: Array) -> Array:
    """Return the weight times the mean of the values of each example."""
    mean = sum_of_product(values, share, tuple(range(1, values.ndim))).reshape(values.shape[:1])
    factor = jnp.asarray(weight, mean.dtype)
    return left_out(factor, factor * mean)


def _sum(total: list[Array]) -> Array:
    """Return the sum over heads, in the widest of their dtypes."""
    dtype = functools.reduce(jnp.promote_types, (values.dtype for values in total))
    wide = [values.astype(dtype) for values in total]
    check.same_shape(wide, [wide[0]] * len(wide), "give every head one batch of examples")
    return sum(wide[1:], wide[0])


def _over(examples: Array, values: Array) -> Array:
    """Return one number for each example, with the axes of the values."""
    return examples.reshape(examples.shape + (1,) * (values.ndim - examples.ndim))


def _any(counts: Array) -> Array:
    """Return which examples have a value that counts."""
    return counts.any(tuple(range(1, counts.ndim)))


def _check_losses(losses: Unchecked, weights: Unchecked) -> None:
    """Raise unless there are losses by name, and numbers by some of these names."""
    if not isinstance(losses, Mapping) or not losses:
        raise InputError(
            "losses by the names of their heads",
            describe(losses),
            'pass a dict, as in {"label": fnn.losses.cross_entropy()}',
        )
    for loss in losses.values():
        require_loss(loss)
    if weights is None:
        return
    if not isinstance(weights, Mapping) or not set(weights) <= set(losses):
        raise InputError(
            f"weights of {', '.join(losses)}",
            describe(weights if not isinstance(weights, Mapping) else sorted(weights)),
            "name heads that have a loss",
        )
    for name, weight in weights.items():
        check.number(weight, f"the weight of {name!r}")


def _check_heads(losses: Mapping[str, Loss], prediction: Unchecked, target: Unchecked) -> None:
    """Raise unless a prediction has the heads that the losses have, and the target no others."""
    _check_names(losses, "prediction", prediction)
    _check_names(losses, "target", target)


def _check_names(losses: Mapping[str, Loss], name: str, given: Unchecked) -> None:
    """Raise unless a part of a batch is a dict of heads: a prediction of all of them."""
    names = set(given) if isinstance(given, dict) else None
    if names is None or not names <= set(losses) or (name == "prediction" and names != set(losses)):
        raise InputError(
            f"a {name} that is a dict of {', '.join(losses)}",
            describe(given) if names is None else f"a dict of {', '.join(map(str, given))}",
            "name the heads as the losses, as in fnn.parallel(label=...)",
        )
