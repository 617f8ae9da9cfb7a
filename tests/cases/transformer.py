"""Cases of the transformer."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import fnn
from tests.cases.activation import each, gelu, sigmoid
from tests.cases.attention import attention, padded, with_holes, with_memory
from tests.cases.case import WIDTH, LayerCase

NORMAL = jax.nn.initializers.normal(0.5)


def feed_forward(p: Any, s: Any, x: Any) -> Any:
    h = each(gelu)(None, None, x @ p["up"]["weight"] + p["up"]["bias"])
    return h @ p["down"]["weight"] + p["down"]["bias"]


def gated_feed_forward(p: Any, s: Any, x: Any) -> Any:
    g, u = np.split(x @ p["up"]["weight"], 2, -1)
    return (g * each(sigmoid)(None, None, g) * u) @ p["down"]["weight"]


def unbiased() -> fnn.Layer:
    return fnn.transformer_block(2, hidden=5, bias=False)


def modern() -> fnn.Layer:
    """A block as in a Llama."""
    return fnn.transformer_block(
        4,
        key_value_heads=2,
        causal=True,
        rotary=True,
        norm="rms_norm",
        activation="swiglu",
    )


LAYERS = [
    LayerCase("mlp", lambda: fnn.mlp(3, initializer=NORMAL), feed_forward),
    LayerCase(
        "mlp-gated",
        lambda: fnn.mlp(activation="swiglu"),
        gated_feed_forward,
        {"plain": (4, WIDTH)},
    ),
    LayerCase(
        "transformer_block", unbiased, shapes={"plain": (2, 3, 4)}, draw=padded(3, 1), bent=True
    ),
    LayerCase(
        "transformer_block-norm-behind",
        lambda: fnn.transformer_block(2, norm_first=False, activation="relu"),
        shapes={"plain": (2, 3, 4)},
        bent=True,
        kink=True,
    ),
    LayerCase(
        "transformer_block-cross",
        lambda: fnn.transformer_block(2, causal=True, cross=True, hidden=5),
        shapes={"plain": (2, 3, 4)},
        draw=with_memory,
        bent=True,
    ),
    LayerCase(
        "repeat-transformer_block-cross",
        lambda: fnn.repeat(fnn.transformer_block(2, cross=True, norm_first=False), 2),
        shapes={"plain": (2, 3, 4)},
        draw=with_holes,
        bent=True,
    ),
    LayerCase(
        "residual_cross",
        lambda: fnn.residual_cross(fnn.attention(2)),
        lambda p, s, x: (x[0] + attention(2)(p, s, x), x[1]),
        {"plain": (2, 3, 4)},
        draw=with_memory,
        bent=True,
    ),
    LayerCase(
        "over_query",
        lambda: fnn.over_query(fnn.dense(4)),
        lambda p, s, x: (x[0] @ p["weight"] + p["bias"], x[1]),
        {"plain": (2, 3, 4)},
        draw=with_memory,
    ),
    LayerCase(
        "over_memory",
        lambda: fnn.over_memory(fnn.dense(4)),
        lambda p, s, x: (x[0], x[1] @ p["weight"] + p["bias"]),
        {"plain": (2, 3, 4)},
        draw=with_memory,
    ),
    LayerCase(
        "take_query",
        fnn.take_query,
        lambda p, s, x: x[0],
        {"plain": (2, 3, 4)},
        draw=with_holes,
    ),
    LayerCase(
        "repeat-transformer_block",
        lambda: fnn.repeat(fnn.remat(modern()), 2),
        shapes={"plain": (2, 3, 8)},
        bent=True,
    ),
]
