"""Layers of noise: their statistics."""

from __future__ import annotations

import jax
import jax.numpy as jnp

import fnn
from tests.cases.noise import RATE


def test_dropout_drops_its_rate_and_keeps_the_mean():
    # k = 5 standard errors: a false alarm once in 1.7 million seeds, and the seed is fixed.
    n = 40_000
    y, _ = fnn.dropout(RATE).apply((), (), jnp.ones(n), key=jax.random.key(5), train=True)
    error = 5 * (RATE * (1 - RATE) / n) ** 0.5
    assert abs(float((y == 0).mean()) - RATE) < error
    assert abs(float(y.mean()) - 1) < error / (1 - RATE)
