"""Twins of convolutions."""

from __future__ import annotations

import torch

from fnn.interop._torch_layers import conv
from tests.cases.conv import UNEVEN
from tests.twins.twin import Twin, channels_first


def images(case, module, convert=conv):
    """A twin whose channels come second."""
    return Twin(case, module, convert, lambda x: (channels_first(x),), channels_first)


def padded(call, padding):
    """Run a module on x with zeros around: PyTorch pads all sides alike."""
    pairs = [number for pair in reversed(padding) for number in pair]
    return lambda module, x: call(module, torch.nn.functional.pad(x, pairs))


def run(module, x):
    return module(x)


def cut(module, x):
    """Run a transposed convolution of more places, and leave out those that padding cuts off."""
    return module(x)[:, :, 1:, :-1]


TWINS = [
    images("conv", lambda x: torch.nn.Conv2d(2, 3, 3, padding="same")),
    images(
        "conv-stride-groups",
        lambda x: torch.nn.Conv2d(4, 4, (3, 2), (2, 1), 0, (1, 2), 2, bias=False),
    )._replace(call=padded(run, UNEVEN)),
    images("conv-wide-groups", lambda x: torch.nn.Conv1d(12, 4, 2, padding=1, groups=2)),
    images("conv-1-axis-same-even", lambda x: torch.nn.Conv1d(1, 3, 2))._replace(
        call=padded(run, ((0, 1),))
    ),
    images("conv-3-axes-same-stride", lambda x: torch.nn.Conv3d(2, 2, 3, 2))._replace(
        call=padded(run, ((0, 1), (1, 1), (0, 1)))
    ),
    images("conv-same-even-stride", lambda x: torch.nn.Conv2d(2, 3, (2, 4), (2, 3)))._replace(
        call=padded(run, ((0, 1), (1, 2)))
    ),
    images(
        "depthwise_conv-same-even-stride",
        lambda x: torch.nn.Conv2d(3, 3, 4, 2, groups=3, bias=False),
    )._replace(call=padded(run, ((1, 2), (1, 1)))),
    images("depthwise_conv", lambda x: torch.nn.Conv2d(3, 6, 2, 2, groups=3)),
    images(
        "conv_transpose",
        lambda x: torch.nn.ConvTranspose2d(6, 4, (2, 3), (2, 3), dilation=(2, 1), groups=2),
    )._replace(call=cut),
    images(
        "conv_transpose-same",
        lambda x: torch.nn.ConvTranspose1d(2, 3, 3, 2, bias=False),
    )._replace(call=lambda module, x: module(x)[:, :, :-1]),
    images("conv_transpose-same-even", lambda x: torch.nn.ConvTranspose1d(2, 3, 6, 3))._replace(
        call=lambda module, x: module(x)[:, :, 1:-2]
    ),
]
