"""Twins of hard activations."""

from __future__ import annotations

import torch

from tests.cases.hard import HIGH, LOW
from tests.twins.twin import Twin


class Hardsigmoid(torch.nn.Module):
    """That of PyTorch by its definition: its own gradient has a slope of 1 / 6 in float32."""

    def forward(self, x):
        return torch.nn.functional.relu6(x + 3) / 6


TWINS = [
    Twin("hard_sigmoid", lambda x: Hardsigmoid()),
    Twin("hard_tanh", lambda x: torch.nn.Hardtanh(LOW, HIGH)),
    Twin("hard_silu", lambda x: torch.nn.Hardswish()),
    Twin("relu6", lambda x: torch.nn.ReLU6()),
]
