"""Cases of layers that move numbers."""

from __future__ import annotations

import numpy as np

import fnn
from tests.cases.case import LayerCase

LAYERS = [
    LayerCase(
        "class_token",
        fnn.networks.class_token,
        lambda p, s, x: np.concatenate([np.broadcast_to(p["weight"], (2, 1, 3)), x], 1),
        {"plain": (2, 4, 3)},
    ),
    LayerCase(
        "first_token", fnn.networks.first_token, lambda p, s, x: x[:, 0], {"plain": (2, 4, 3)}
    ),
    LayerCase("flatten", fnn.flatten, lambda p, s, x: np.stack([a.ravel() for a in x])),
    LayerCase(
        "reshape",
        lambda: fnn.reshape(3, -1, 2),
        lambda p, s, x: np.stack([a.ravel().reshape(3, 2, 2) for a in x]),
        {"plain": (2, 3, 4), "flat": (2, 12)},
    ),
    LayerCase(
        "reshape-whole",
        lambda: fnn.serial(fnn.dense(1), fnn.reshape()),
        lambda p, s, x: (x @ p[0]["weight"] + p[0]["bias"])[:, 0],
        {"plain": (4, 3)},
    ),
]
