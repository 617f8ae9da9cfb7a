"""Cases of plain functions as layers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import fnn
from tests.cases.case import LayerCase


def bell(x):
    return jnp.exp(-x * x)


def bell_backward(x, dy):
    return -2 * x * jnp.exp(-x * x) * dy


def halves(x):
    """A function to a tree."""
    return {"first": x[..., :2], "rest": jnp.sin(x[..., 2:])}


LAYERS = [
    LayerCase(
        "function", lambda: fnn.from_function(bell, bell_backward), lambda p, s, x: np.exp(-x * x)
    ),
    LayerCase("function-auto", lambda: fnn.from_function(bell), lambda p, s, x: np.exp(-x * x)),
    LayerCase("function-tree", lambda: fnn.from_function(halves)),
]
