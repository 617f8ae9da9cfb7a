"""Twins of pooling and upsampling."""

from __future__ import annotations

import torch
from torch.nn import functional

from tests.twins.twin import Twin, channels_first


def images(case, module, call=lambda module, x: module(x), out=channels_first):
    """A twin whose channels come second."""
    return Twin(case, module, into=lambda x: (channels_first(x),), out=out, call=call)


def below(module, x):
    """Pool an x with what is smaller than all numbers around: PyTorch pads all sides alike."""
    return module(functional.pad(x, (0, 1, 1, 2), value=-torch.inf))


def one_position(y):
    """Give a global pool the axes that PyTorch keeps."""
    return y[..., None, None]


TWINS = [
    images("max_pool", lambda x: torch.nn.MaxPool2d((2, 3))),
    images("max_pool-overlapping", lambda x: torch.nn.MaxPool2d(3, (2, 1)), below),
    images("max_pool-gaps", lambda x: torch.nn.MaxPool1d(2, 3)),
    images("average_pool", lambda x: torch.nn.AvgPool1d(3, 2, 1, count_include_pad=False)),
    images("average_pool-count-padding", lambda x: torch.nn.AvgPool2d((2, 3), (2, 4), 1)),
    images("max_pool-ceil", lambda x: torch.nn.MaxPool2d((3, 2), (2, 3), 1, ceil_mode=True)),
    images(
        "average_pool-ceil-count-padding",
        lambda x: torch.nn.AvgPool2d((3, 2), (2, 3), 1, ceil_mode=True),
    ),
    images("global_max_pool", lambda x: torch.nn.AdaptiveMaxPool2d(1), out=one_position),
    images("global_average_pool", lambda x: torch.nn.AdaptiveAvgPool2d(1), out=one_position),
    images("adaptive_average_pool", lambda x: torch.nn.AdaptiveAvgPool2d((3, 2))),
    images("adaptive_max_pool", lambda x: torch.nn.AdaptiveMaxPool2d((3, 2))),
    images("upsample", lambda x: torch.nn.Upsample(scale_factor=(2, 3))),
    images("upsample-linear", lambda x: torch.nn.Upsample(scale_factor=(2, 3), mode="bilinear")),
]
