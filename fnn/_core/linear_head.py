"""Logits that a layer leaves to a loss: the type that both speak."""

from __future__ import annotations

from typing import NamedTuple

from fnn._core.types import Array


class LinearHead(NamedTuple):
    """Linear head: logits not yet computed.

    Args:
        features: (..., I).
        weight: (I, K).
        bias: (K,), or None.

    >>> import jax.numpy as jnp
    >>> LinearHead(jnp.array([[1.0, 1.0]]), jnp.eye(2), jnp.array([0.0, 2.0])).logits
    Array([[1., 3.]], dtype=float32)

    """

    features: Array
    weight: Array
    bias: Array | None = None

    @property
    def logits(self) -> Array:
        """The logits (..., K), all of them at once."""
        y = self.features @ self.weight
        return y if self.bias is None else y + self.bias.reshape((1,) * (y.ndim - 1) + (-1,))
