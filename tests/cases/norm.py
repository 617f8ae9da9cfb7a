"""Cases of normalisation."""

from __future__ import annotations

import numpy as np

import fnn
from tests.cases.case import ANY_SHAPE, LayerCase

MOMENTUM, EPSILON = 0.7, 1e-3

LAYERS = [
    LayerCase(
        "batch_norm",
        lambda: fnn.batch_norm(MOMENTUM, EPSILON),
        lambda p, s, x: p["scale"] * (x - s["mean"]) / np.sqrt(s["var"] + EPSILON) + p["shift"],
        ANY_SHAPE,
        bent=True,
    ),
]
