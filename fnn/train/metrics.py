"""Metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from fnn._core.errors import entry
from fnn._core.types import Array
from fnn.losses import Loss, zero_one

Metric: TypeAlias = Callable[[Any, Any], Array] | Loss


Metrics: TypeAlias = Mapping[str, Metric]


@entry
def accuracy(prediction: Any, target: Any) -> Array:
    """Accuracy: 1 for every right answer, 0 for every wrong one; 1 minus `fnn.losses.zero_one`.

    >>> import jax.numpy as jnp
    >>> accuracy(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1]))
    Array([1., 0.], dtype=float32)
    """
    return 1 - zero_one().apply(prediction, target)
