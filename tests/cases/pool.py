"""Cases of pooling and upsampling."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import fnn
from tests.cases.case import LayerCase

ROWS = {"plain": (2, 7, 3), "batch-1": (1, 6, 1)}


def pooled(x: Any, windows: Any, function: Any) -> Any:
    """Take one element of y after the other; `windows` are the starts and ends along each axis."""
    y = np.empty((len(x), *map(len, windows), x.shape[-1]))
    for p in np.ndindex(*map(len, windows)):
        inside = tuple(slice(*axis[i]) for axis, i in zip(windows, p, strict=True))
        seen = x[(slice(None), *inside)]
        y[(slice(None), *p)] = function(seen, tuple(range(1, x.ndim - 1)))
    return y


def bounds(n: int, size: int, stride: int, low: int, high: int) -> Any:
    starts = range(-low, n + high - size + 1, stride)
    return [(max(start, 0), min(start + size, n)) for start in starts]


def ceil_starts(n: int, size: int, stride: int, low: int, high: int) -> list[int]:
    """Return where windows start: in x or before it, until one reaches the end of the padding."""
    starts = [-low]
    while starts[-1] + size < n + high and starts[-1] + stride < n:
        starts.append(starts[-1] + stride)
    return starts


def ceil(n: int, size: int, stride: int, low: int, high: int) -> Any:
    starts = ceil_starts(n, size, stride, low, high)
    return [(max(start, 0), min(start + size, n)) for start in starts]


def counted(n: int, size: int, stride: int, pad: int) -> Any:
    """Return what counts in each window: x and its padding, not what is beyond."""
    starts = np.array(ceil_starts(n, size, stride, pad, pad))
    return np.minimum(starts + size, n + pad) - starts


def adaptive(n: int, m: int) -> Any:
    return [(int(np.floor(p * n / m)), int(np.ceil((p + 1) * n / m))) for p in range(m)]


def interpolated(x: Any, factor: int) -> Any:
    """Interpolate along the second axis."""
    n = x.shape[1]
    rows = []
    for p in range(n * factor):
        at = min(max((p + 0.5) / factor - 0.5, 0), n - 1)
        left = int(np.floor(at))
        right = min(left + 1, n - 1)
        rows.append((1 - (at - left)) * x[:, left] + (at - left) * x[:, right])
    return np.stack(rows, 1)


def bilinear(x: Any, first: int, second: int) -> Any:
    once = interpolated(x, first)
    return interpolated(once.swapaxes(1, 2), second).swapaxes(1, 2)


def repeated(x: Any, *factors: int) -> Any:
    y = np.empty(
        (len(x), *(n * f for n, f in zip(x.shape[1:-1], factors, strict=True)), x.shape[-1])
    )
    for p in itertools.product(*map(range, y.shape[1:-1])):
        y[(slice(None), *p)] = x[(slice(None), *(i // f for i, f in zip(p, factors, strict=True)))]
    return y


LAYERS = [
    LayerCase(
        "max_pool",
        lambda: fnn.max_pool((2, 3), padding="VALID"),
        lambda p, s, x: pooled(
            x, [bounds(x.shape[1], 2, 2, 0, 0), bounds(x.shape[2], 3, 3, 0, 0)], np.max
        ),
        {"plain": (2, 4, 7, 3), "batch-1": (1, 2, 3, 1)},
        kink=True,
    ),
    LayerCase(
        "max_pool-overlapping",
        lambda: fnn.max_pool(3, stride=(2, 1), padding=((1, 2), (0, 1))),
        lambda p, s, x: pooled(
            x, [bounds(x.shape[1], 3, 2, 1, 2), bounds(x.shape[2], 3, 1, 0, 1)], np.max
        ),
        {"plain": (2, 5, 4, 2)},
        kink=True,
    ),
    LayerCase(
        "max_pool-gaps",
        lambda: fnn.max_pool(2, stride=3, padding="VALID"),
        lambda p, s, x: pooled(x, [bounds(x.shape[1], 2, 3, 0, 0)], np.max),
        ROWS,
        kink=True,
    ),
    LayerCase(
        "average_pool",
        lambda: fnn.average_pool(3, stride=2),
        lambda p, s, x: pooled(x, [bounds(x.shape[1], 3, 2, *low_high(x.shape[1]))], np.mean),
        ROWS,
    ),
    LayerCase(
        "average_pool-count-padding",
        lambda: fnn.average_pool((2, 3), stride=(2, 4), padding=1, count_padding=True),
        lambda p, s, x: (
            pooled(x, [bounds(x.shape[1], 2, 2, 1, 1), bounds(x.shape[2], 3, 4, 1, 1)], np.sum) / 6
        ),
        {"plain": (2, 4, 6, 3)},
    ),
    LayerCase(
        "max_pool-ceil",
        lambda: fnn.max_pool((3, 2), stride=(2, 3), padding=1, ceil_mode=True),
        lambda p, s, x: pooled(
            x, [ceil(x.shape[1], 3, 2, 1, 1), ceil(x.shape[2], 2, 3, 1, 1)], np.max
        ),
        {"plain": (2, 6, 5, 2), "batch-1": (1, 2, 1, 1)},
        kink=True,
    ),
    LayerCase(
        "average_pool-ceil",
        lambda: fnn.average_pool(3, stride=2, padding=((1, 0),), ceil_mode=True),
        lambda p, s, x: pooled(x, [ceil(x.shape[1], 3, 2, 1, 0)], np.mean),
        ROWS,
    ),
    LayerCase(
        "average_pool-ceil-count-padding",
        lambda: fnn.average_pool(
            (3, 2), stride=(2, 3), padding=1, ceil_mode=True, count_padding=True
        ),
        lambda p, s, x: (
            pooled(x, [ceil(x.shape[1], 3, 2, 1, 1), ceil(x.shape[2], 2, 3, 1, 1)], np.sum)
            / counted(x.shape[1], 3, 2, 1)[:, None, None]
            / counted(x.shape[2], 2, 3, 1)[:, None]
        ),
        {"plain": (2, 6, 5, 2)},
    ),
    LayerCase(
        "global_max_pool",
        lambda: fnn.global_max_pool(),
        lambda p, s, x: x.max(tuple(range(1, x.ndim - 1))),
        {"plain": (2, 3, 2, 4), "rows": (2, 20, 3)},
        kink=True,
    ),
    LayerCase(
        "global_average_pool",
        lambda: fnn.global_average_pool(),
        lambda p, s, x: x.mean(tuple(range(1, x.ndim - 1))),
        {"plain": (2, 3, 2, 4)},
    ),
    LayerCase(
        "adaptive_average_pool",
        lambda: fnn.adaptive_average_pool((3, 2)),
        lambda p, s, x: pooled(x, [adaptive(x.shape[1], 3), adaptive(x.shape[2], 2)], np.mean),
        {"plain": (2, 5, 4, 3)},
    ),
    LayerCase(
        "adaptive_max_pool",
        lambda: fnn.adaptive_max_pool((3, 2)),
        lambda p, s, x: pooled(x, [adaptive(x.shape[1], 3), adaptive(x.shape[2], 2)], np.max),
        {"plain": (2, 5, 4, 3)},
        kink=True,
    ),
    LayerCase(
        "upsample",
        lambda: fnn.upsample((2, 3)),
        lambda p, s, x: repeated(x, 2, 3),
        {"plain": (2, 2, 3, 3)},
    ),
    LayerCase(
        "upsample-linear",
        lambda: fnn.upsample((2, 3), method="linear"),
        lambda p, s, x: bilinear(x, 2, 3),
        {"plain": (2, 2, 3, 2), "batch-1": (1, 1, 4, 1)},
    ),
]


def low_high(n: int) -> tuple[int, int]:
    """Return the padding of SAME for a window of 3 and a stride of 2."""
    total = max((-(-n // 2) - 1) * 2 + 3 - n, 0)
    return total // 2, total - total // 2
