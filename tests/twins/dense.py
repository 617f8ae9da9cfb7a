"""Twins of dense layers."""

from __future__ import annotations

import torch

from fnn.interop import _torch_layers as torch_layers
from tests.cases.case import WIDTH
from tests.twins.twin import Twin

TWINS = [
    Twin("dense", lambda x: torch.nn.Linear(WIDTH, 3), torch_layers.dense),
    Twin("dense-no-bias", lambda x: torch.nn.Linear(WIDTH, 3, bias=False), torch_layers.dense),
]
