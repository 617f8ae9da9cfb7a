"""Cases of dense layers."""

from __future__ import annotations

import jax
import numpy as np

import fnn
from tests.cases.case import ANY_SHAPE, LayerCase

NORMAL = jax.nn.initializers.normal(0.5)

LAYERS = [
    LayerCase(
        "dense",
        lambda: fnn.dense(3, initializer=NORMAL),
        lambda p, s, x: np.einsum("...i,io->...o", x, p["weight"]) + p["bias"],
        ANY_SHAPE,
    ),
    LayerCase(
        "dense-no-bias",
        lambda: fnn.dense(3, bias=False),
        lambda p, s, x: np.einsum("...i,io->...o", x, p["weight"]),
    ),
]
