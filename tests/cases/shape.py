"""Cases of layers that move numbers."""

from __future__ import annotations

import numpy as np

import fnn
from tests.cases.case import LayerCase

LAYERS = [
    LayerCase("flatten", fnn.flatten, lambda p, s, x: np.stack([a.ravel() for a in x])),
]
