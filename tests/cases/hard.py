"""Cases of hard activations."""

from __future__ import annotations

import fnn
from tests.cases.activation import each
from tests.cases.case import LayerCase

LOW, HIGH = -0.3, 0.8


def hard_sigmoid(x: float) -> float:
    return min(max(x / 6 + 0.5, 0), 1)


# Three times as wide as other inputs, for both kinks to matter.
def wide(random, shape):
    return 3 * random.normal(size=shape)


LAYERS = [
    LayerCase("hard_sigmoid", fnn.hard_sigmoid, each(hard_sigmoid), draw=wide),
    LayerCase(
        "hard_tanh",
        lambda: fnn.hard_tanh(LOW, HIGH),
        each(lambda x: min(max(x, LOW), HIGH)),
    ),
    LayerCase("hard_silu", fnn.hard_silu, each(lambda x: x * hard_sigmoid(x)), draw=wide),
    LayerCase("relu6", fnn.relu6, each(lambda x: min(max(x, 0), 6)), draw=wide, kink=True),
]
