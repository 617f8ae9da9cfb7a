"""Twins of normalisation."""

from __future__ import annotations

import torch

from fnn import torch_layers
from tests.cases.case import WIDTH
from tests.cases.norm import EPSILON, MOMENTUM
from tests.twins.twin import Twin

TWINS = [
    Twin(
        "batch_norm",
        lambda x: torch.nn.BatchNorm1d(WIDTH, EPSILON, 1 - MOMENTUM),
        torch_layers.batch_norm,
    ),
]
