"""Cases of normalization."""

from __future__ import annotations

from typing import Any

import numpy as np

import fnn
from tests.cases.case import ANY_SHAPE, WIDTH, LayerCase

MOMENTUM, EPSILON, GROUPS = 0.7, 1e-3, 2
IMAGES = {"plain": (2, 2, 3, 4), "batch-1": (1, 3, 4)}


def normal(x: Any, axis: Any) -> Any:
    mean = x.mean(axis, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(axis, keepdims=True) + EPSILON)


def group_normal(x: Any) -> Any:
    """One example and one group of channels after the other."""
    width = x.shape[-1] // GROUPS
    y = np.empty_like(x)
    for b in range(len(x)):
        for c in range(0, x.shape[-1], width):
            y[b, ..., c : c + width] = normal(x[b, ..., c : c + width], None)
    return y


LAYERS = [
    LayerCase(
        "batch_norm",
        lambda: fnn.batch_norm(momentum=MOMENTUM, epsilon=EPSILON),
        lambda p, s, x: p["scale"] * (x - s["mean"]) / np.sqrt(s["var"] + EPSILON) + p["shift"],
        ANY_SHAPE,
        bent=True,
    ),
    LayerCase(
        "batch_norm-images-plain",
        lambda: fnn.batch_norm(momentum=MOMENTUM, epsilon=EPSILON, scale=False, shift=False),
        lambda p, s, x: (x - s["mean"]) / np.sqrt(s["var"] + EPSILON),
        {"plain": (2, 2, 3, 4)},
        bent=True,
    ),
    LayerCase(
        "batch_norm-untracked",
        lambda: fnn.batch_norm(epsilon=EPSILON, track_running_stats=False),
        lambda p, s, x: p["scale"] * normal(x, tuple(range(x.ndim - 1))) + p["shift"],
        {"plain": (4, WIDTH), "images": (2, 2, 3, 4)},
        bent=True,
    ),
    LayerCase(
        "layer_norm",
        lambda: fnn.layer_norm(epsilon=EPSILON),
        lambda p, s, x: p["scale"] * normal(x, -1) + p["shift"],
        ANY_SHAPE,
        bent=True,
    ),
    LayerCase(
        "layer_norm-no-scale",
        lambda: fnn.layer_norm(epsilon=EPSILON, scale=False),
        lambda p, s, x: normal(x, -1) + p["shift"],
        {"plain": (4, WIDTH)},
        bent=True,
    ),
    LayerCase(
        "layer_norm-plain",
        lambda: fnn.layer_norm(epsilon=EPSILON, scale=False, shift=False),
        lambda p, s, x: normal(x, -1),
        {"plain": (4, WIDTH)},
        bent=True,
    ),
    LayerCase(
        "rms_norm",
        lambda: fnn.rms_norm(epsilon=EPSILON),
        lambda p, s, x: p["scale"] * x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON),
        ANY_SHAPE,
        bent=True,
    ),
    LayerCase(
        "rms_norm-no-scale",
        lambda: fnn.rms_norm(epsilon=EPSILON, scale=False),
        lambda p, s, x: x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON),
        {"plain": (4, WIDTH)},
        bent=True,
    ),
    LayerCase(
        "group_norm",
        lambda: fnn.group_norm(GROUPS, epsilon=EPSILON),
        lambda p, s, x: p["scale"] * group_normal(x) + p["shift"],
        IMAGES | {"rows": (3, 4)},
        bent=True,
    ),
    LayerCase(
        "group_norm-no-shift",
        lambda: fnn.group_norm(GROUPS, epsilon=EPSILON, shift=False),
        lambda p, s, x: p["scale"] * group_normal(x),
        {"plain": (2, 3, 4)},
        bent=True,
    ),
    LayerCase(
        "instance_norm",
        lambda: fnn.instance_norm(epsilon=EPSILON),
        lambda p, s, x: p["scale"] * normal(x, tuple(range(1, x.ndim - 1))) + p["shift"],
        IMAGES | {"one-place": (2, 1, 4)},
        bent=True,
    ),
    LayerCase(
        "instance_norm-plain",
        lambda: fnn.instance_norm(epsilon=EPSILON, scale=False, shift=False),
        lambda p, s, x: normal(x, tuple(range(1, x.ndim - 1))),
        {"plain": (2, 3, 4)},
        bent=True,
    ),
]
