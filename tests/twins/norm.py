"""Twins of normalisation."""

from __future__ import annotations

import torch

from tests.cases.case import WIDTH
from tests.cases.norm import EPSILON, MOMENTUM
from tests.twins.twin import Twin


def batch_norm(layer, weights):
    params = {"scale": weights["weight"], "shift": weights["bias"]}
    return params, {"mean": weights["running_mean"], "var": weights["running_var"]}


TWINS = [
    Twin(
        "batch_norm",
        lambda x: torch.nn.BatchNorm1d(WIDTH, EPSILON, 1 - MOMENTUM),
        batch_norm,
    ),
]
