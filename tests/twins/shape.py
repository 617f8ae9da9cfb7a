"""Twins of layers that move numbers."""

from __future__ import annotations

import torch

from tests.twins.twin import Twin

TWINS = [
    Twin("flatten", lambda x: torch.nn.Flatten()),
    Twin(
        "reshape",
        lambda x: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Unflatten(1, (3, -1, 2))),
    ),
]
