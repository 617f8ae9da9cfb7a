"""Cases of noise while training."""

from __future__ import annotations

import fnn
from tests.cases.case import LayerCase

RATE, DEVIATION = 0.3, 0.4

LAYERS = [
    LayerCase("dropout", lambda: fnn.dropout(RATE), lambda p, s, x: x),
    LayerCase(
        "spatial_dropout",
        lambda: fnn.spatial_dropout(RATE),
        lambda p, s, x: x,
        {"plain": (3, 2, 2, 4), "rows": (3, 4)},
    ),
    LayerCase("gaussian_noise", lambda: fnn.gaussian_noise(DEVIATION), lambda p, s, x: x),
]
