"""Cases of noise while training."""

from __future__ import annotations

import fnn
from tests.cases.case import LayerCase

RATE = 0.3

LAYERS = [
    LayerCase("dropout", lambda: fnn.dropout(RATE), lambda p, s, x: x),
]
