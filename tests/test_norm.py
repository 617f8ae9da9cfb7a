"""Normalisation in training: what the table of layers cannot say."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import fnn
from fnn.gradient.check import moved_place
from tests.cases.norm import EPSILON, MOMENTUM
from tests.test_layers import assert_close

SHAPES = {"plain": (4, 5), "batch-1": (1, 5), "images": (2, 3, 4, 5)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_batch_norm_in_training_is_the_formula_of_the_docstring(shape):
    with jax.enable_x64(True):
        layer = fnn.batch_norm(MOMENTUM, EPSILON)
        x = jax.random.normal(jax.random.key(3), shape, "float64")
        params, state = moved_place(layer, x, jax.random.key(5))
        results = layer.apply(params, state, x, train=True)
        p, s, x = jax.tree.map(np.asarray, (params, state, x))
        axes, m = tuple(range(x.ndim - 1)), MOMENTUM
        mean = x.sum(axes) / x[..., 0].size
        var = ((x - mean) ** 2).sum(axes) / x[..., 0].size
        y = p["scale"] * (x - mean) / np.sqrt(var + EPSILON) + p["shift"]
        running = {"mean": m * s["mean"] + (1 - m) * mean, "var": m * s["var"] + (1 - m) * var}
        assert_close(results, (y, running), x.dtype, x.size)
