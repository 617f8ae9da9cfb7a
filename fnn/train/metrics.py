"""Metrics: what is measured of predictions, one value for each example."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn._core.precision import upcast
from fnn._core.types import Array, Prediction, Target, Unchecked
from fnn.losses import Loss, zero_one
from fnn.losses.classification import mistakes

Metric: TypeAlias = Callable[[Prediction, Target], Array] | Loss


Metrics: TypeAlias = Mapping[str, Metric]


@entry
def accuracy(prediction: Prediction, target: Target) -> Array:
    """Return the accuracy: 1 for every right answer, 0 for every wrong one.

    It is 1 minus `fnn.losses.zero_one`, for the same targets; of the labels -1 and +1 of several
    outputs it is the fraction that is right. A prediction that is NaN gives NaN.

    Args:
        prediction: scores (..., K), or (B, ...) for labels -1 and +1.
        target: integer labels (...), distributions (..., K) of floats, or labels -1 and +1
            (B, ...).
    Raises:    InputError for targets that fit none of these; under jit their value is NaN.

    >>> import jax.numpy as jnp
    >>> accuracy(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1]))
    Array([1., 0.], dtype=float32)

    """
    wrong, answers = mistakes(prediction, target)
    return 1 - wrong / jnp.asarray(answers, wrong.dtype)


def check_metrics(metrics: Unchecked) -> Metrics:
    """Return metrics, none for None, or raise unless they are functions or losses by name.

    Args:
        metrics: what is checked; None for none.
    """
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        raise InputError(
            "metrics by name", describe(metrics), 'pass a dict, as in {"accuracy": fnn.accuracy}'
        )
    for name, metric in metrics.items():
        if not isinstance(name, str) or name == "loss":
            raise InputError(
                "metrics with names of their own", repr(name), "'loss' is the loss: rename it"
            )
        if not isinstance(metric, Loss):
            remedy = "pass a function or a loss"
            check.function(metric, f"metric {name!r}", remedy, takes="prediction, target")
    return metrics


def checks_of(metrics: Metrics) -> Iterator[Callable[[Prediction, Target], None]]:
    """Yield what raises for targets that the metrics of fnn do not take.

    Args:
        metrics: functions or losses by name.
    """
    for metric in metrics.values():
        if isinstance(metric, Loss):
            yield metric.check
        elif metric is accuracy:
            yield zero_one().check


def values_of(name: str, metric: Metric, prediction: Prediction, target: Target) -> Array:
    """Return the values of a metric in float32 or better, one or more for each example.

    Args:
        name: what an error calls the metric.
        metric: a function of predictions and targets, or a loss.
        prediction: (B, ...), an array or a tree of arrays.
        target: (B, ...), an array or a tree of arrays.
    Raises:    InputError for what is no array of real numbers, and for other numbers of them.
    """
    values: Unchecked = (
        metric.apply(prediction, target) if isinstance(metric, Loss) else metric(prediction, target)
    )
    expected = f"metric {name!r} to give one value for each example"
    remedy = "do not take the mean: it is taken over all data, with the weights"
    dtype = getattr(values, "dtype", None)
    if dtype is None or jnp.issubdtype(dtype, jnp.complexfloating):
        raise InputError(expected, describe(values), remedy)
    shape = np.shape(values)
    examples = np.shape(_first_leaf(target))
    if not shape or (examples and shape[0] != examples[0]):
        raise InputError(expected, describe(values), remedy)
    if not jnp.issubdtype(dtype, jnp.floating):
        return jnp.asarray(values).astype(jnp.result_type(float))
    return upcast(values)


def _first_leaf(tree: Target) -> Unchecked:
    """Return the first array of a tree."""
    return jax.tree.leaves(tree)[0]
