"""Twins of normalization."""

from __future__ import annotations

import torch

from fnn.interop._torch_layers import batch_norm, norm
from tests.cases.case import WIDTH
from tests.cases.norm import EPSILON, GROUPS, MOMENTUM
from tests.twins.twin import Twin, channels_first


def images(case, module, convert=norm):
    """A twin whose channels come second."""
    return Twin(case, module, convert, lambda x: (channels_first(x),), channels_first)


class WithoutBias(torch.nn.GroupNorm):
    """A group norm with a weight and no bias, which PyTorch has no option for."""

    def __init__(self, *args):
        super().__init__(*args)
        self.bias = None


TWINS = [
    Twin("batch_norm", lambda x: torch.nn.BatchNorm1d(WIDTH, EPSILON, 1 - MOMENTUM), batch_norm),
    images(
        "batch_norm-images-plain",
        lambda x: torch.nn.BatchNorm2d(4, EPSILON, 1 - MOMENTUM, affine=False),
        batch_norm,
    ),
    Twin(
        "batch_norm-untracked",
        lambda x: torch.nn.BatchNorm1d(WIDTH, EPSILON, track_running_stats=False),
        norm,
    ),
    Twin("layer_norm", lambda x: torch.nn.LayerNorm(WIDTH, EPSILON), norm),
    Twin("layer_norm-plain", lambda x: torch.nn.LayerNorm(WIDTH, EPSILON, False), norm),
    Twin("rms_norm", lambda x: torch.nn.RMSNorm(WIDTH, EPSILON), norm),
    Twin("rms_norm-no-scale", lambda x: torch.nn.RMSNorm(WIDTH, EPSILON, False), norm),
    images("group_norm", lambda x: torch.nn.GroupNorm(GROUPS, 4, EPSILON)),
    images("group_norm-no-shift", lambda x: WithoutBias(GROUPS, 4, EPSILON)),
    images("instance_norm", lambda x: torch.nn.InstanceNorm2d(4, EPSILON, affine=True)),
    images("instance_norm-plain", lambda x: torch.nn.InstanceNorm1d(4, EPSILON)),
]
