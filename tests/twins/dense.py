"""Twins of dense layers."""

from __future__ import annotations

import torch

from tests.cases.case import WIDTH
from tests.twins.twin import Twin


def converted(layer, weights):
    params = {"weight": weights["weight"].T}
    return params | ({"bias": weights["bias"]} if "bias" in weights else {}), ()


TWINS = [
    Twin("dense", lambda x: torch.nn.Linear(WIDTH, 3), converted),
    Twin("dense-no-bias", lambda x: torch.nn.Linear(WIDTH, 3, bias=False), converted),
]
