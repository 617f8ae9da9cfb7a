"""Cases of convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np

import fnn
from tests.cases.case import LayerCase

UNEVEN = ((0, 2), (1, 0))


def convolved(
    x: Any, weight: Any, stride: Any, padding: Any, dilation: Any = (1, 1), groups: int = 1
) -> Any:
    """Take one element of y after the other."""
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    kernel, (within, outputs) = weight.shape[:-2], weight.shape[-2:]
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    places = [(n - k) // s + 1 for n, k, s in zip(padded.shape[1:-1], span, stride, strict=True)]
    y = np.zeros((len(x), *places, outputs))
    for p in np.ndindex(*places):
        for k in np.ndindex(*kernel):
            at = tuple(pi * s + ki * d for pi, s, ki, d in zip(p, stride, k, dilation, strict=True))
            for o in range(outputs):
                first = o // (outputs // groups) * within
                seen = padded[(slice(None), *at, slice(first, first + within))]
                y[(slice(None), *p, o)] += seen @ weight[(*k, slice(None), o)]
    return y


def scattered(x: Any, weight: Any, stride: Any, cut: Any, space: Any, dilation: Any) -> Any:
    """Add a window to y for one element of x after the other, in one group; then cut y out."""
    *kernel, outputs, _ = weight.shape
    full = np.zeros((len(x), *(n + 20 for n in space), outputs))
    for p in np.ndindex(*x.shape[1:-1]):
        for k in np.ndindex(*kernel):
            at = tuple(pi * s + ki * d for pi, s, ki, d in zip(p, stride, k, dilation, strict=True))
            full[(slice(None), *at)] += x[(slice(None), *p)] @ weight[k].T
    inside = tuple(slice(low, low + n) for low, n in zip(cut, space, strict=True))
    return full[(slice(None), *inside)]


def transposed_in_groups(x: Any, weight: Any) -> Any:
    halves = [
        scattered(part, w, (2, 3), (1, 0), (6, 8), (2, 1))
        for part, w in zip(np.split(x, 2, -1), np.split(weight, 2, -1), strict=True)
    ]
    return np.concatenate(halves, -1)


LAYERS = [
    LayerCase(
        "conv",
        lambda: fnn.conv(3, 3),
        lambda p, s, x: convolved(x, p["weight"], (1, 1), ((1, 1), (1, 1))) + p["bias"],
        {"plain": (2, 4, 3, 2), "batch-1": (1, 2, 5, 2)},
    ),
    LayerCase(
        "conv-stride-groups",
        lambda: fnn.conv(
            4, (3, 2), stride=(2, 1), padding=UNEVEN, dilation=(1, 2), groups=2, bias=False
        ),
        lambda p, s, x: convolved(x, p["weight"], (2, 1), UNEVEN, (1, 2), 2),
        {"plain": (2, 4, 4, 4)},
    ),
    LayerCase(
        "conv-wide-groups",
        lambda: fnn.conv(4, 2, padding=1, groups=2),
        lambda p, s, x: convolved(x, p["weight"], (1,), ((1, 1),), (1,), 2) + p["bias"],
        {"plain": (2, 3, 12)},
    ),
    LayerCase(
        "conv-1-axis-same-even",
        lambda: fnn.conv(3, 2),
        lambda p, s, x: convolved(x, p["weight"], (1,), ((0, 1),), (1,)) + p["bias"],
        {"plain": (3, 5, 1)},
    ),
    LayerCase(
        "conv-3-axes-same-stride",
        lambda: fnn.conv(2, 3, stride=2),
        lambda p, s, x: (
            convolved(x, p["weight"], (2, 2, 2), ((0, 1), (1, 1), (0, 1)), (1, 1, 1)) + p["bias"]
        ),
        {"plain": (1, 2, 3, 4, 2)},
    ),
    LayerCase(
        "conv-same-even-stride",
        lambda: fnn.conv(3, (2, 4), stride=(2, 3)),
        lambda p, s, x: convolved(x, p["weight"], (2, 3), ((0, 1), (1, 2)), (1, 1)) + p["bias"],
        {"plain": (2, 5, 4, 2)},
    ),
    LayerCase(
        "depthwise_conv-same-even-stride",
        lambda: fnn.depthwise_conv(4, stride=2, bias=False),
        lambda p, s, x: convolved(x, p["weight"], (2, 2), ((1, 2), (1, 1)), (1, 1), 3),
        {"plain": (2, 5, 6, 3)},
    ),
    LayerCase(
        "depthwise_conv",
        lambda: fnn.depthwise_conv(2, multiplier=2, stride=2, padding="VALID"),
        lambda p, s, x: convolved(x, p["weight"], (2, 2), ((0, 0), (0, 0)), (1, 1), 3) + p["bias"],
        {"plain": (2, 4, 5, 3)},
    ),
    LayerCase(
        "conv_transpose",
        lambda: fnn.conv_transpose(
            4,
            (2, 3),
            stride=(2, 3),
            padding=((1, 0), (0, 2)),
            dilation=(2, 1),
            output_padding=(0, 1),
            groups=2,
        ),
        lambda p, s, x: transposed_in_groups(x, p["weight"]) + p["bias"],
        {"plain": (2, 3, 3, 6)},
    ),
    LayerCase(
        "conv_transpose-same",
        lambda: fnn.conv_transpose(3, 3, stride=2, bias=False),
        lambda p, s, x: scattered(x, p["weight"], (2,), (0,), (2 * x.shape[1],), (1,)),
        {"plain": (2, 4, 2), "batch-1": (1, 1, 2)},
    ),
    LayerCase(
        "conv_transpose-same-even",
        lambda: fnn.conv_transpose(3, 6, stride=3),
        lambda p, s, x: scattered(x, p["weight"], (3,), (1,), (3 * x.shape[1],), (1,)) + p["bias"],
        {"plain": (2, 4, 2)},
    ),
]
