"""Twins of hard activations."""

from __future__ import annotations

import torch

from tests.cases.hard import HIGH, LOW
from tests.twins.twin import Twin

TWINS = [
    Twin(
        "hard_sigmoid",
        lambda x: torch.nn.Hardsigmoid(),
        # Its own backward has 1/6 in float32, whatever the dtype of x; this is its definition.
        call=lambda module, x: torch.nn.functional.relu6(x + 3) / 6,
    ),
    Twin("hard_tanh", lambda x: torch.nn.Hardtanh(LOW, HIGH)),
    Twin("hard_silu", lambda x: torch.nn.Hardswish()),
    Twin("relu6", lambda x: torch.nn.ReLU6()),
]
