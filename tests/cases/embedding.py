"""Cases of embeddings and positions."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import fnn
from tests.cases.case import LayerCase

NORMAL = jax.nn.initializers.normal(0.5)
COUNT, BASE = 5, 50.0


def indices(random: Any, shape: tuple[int, ...]) -> Any:
    """Integers of which some come twice, and one never."""
    return random.integers(0, COUNT - 1, size=shape)


def looked_up(p: Any, s: Any, x: Any) -> Any:
    one_hot = np.eye(COUNT)[x]
    return np.einsum("...i,ic->...c", one_hot, p["weight"])


def waves(p: Any, s: Any, x: Any) -> Any:
    y = np.array(x)
    channels = x.shape[-1]
    for t in range(x.shape[-2]):
        for c in range(channels):
            angle = t / 10_000 ** ((c - c % 2) / channels)
            y[..., t, c] += np.cos(angle) if c % 2 else np.sin(angle)
    return y


def turned(x: Any, base: float = BASE) -> Any:
    """Turn pairs of channels of x (..., T, N, D) as complex numbers."""
    half = x.shape[-1] // 2
    z = x[..., :half] + 1j * x[..., half:]
    for t in range(x.shape[-3]):
        for i in range(half):
            z[..., t, :, i] *= np.exp(1j * t * base ** (-2 * i / (2 * half)))
    return np.concatenate([z.real, z.imag], -1)


LAYERS = [
    LayerCase("unembedding", lambda: fnn.unembedding(3), lambda p, s, x: x @ p["weight"].T),
    LayerCase(
        "unembedding-chunked",
        lambda: fnn.unembedding(3, chunked=True),
        lambda p, s, x: fnn.LinearHead(x, p["weight"].T),
    ),
    LayerCase(
        "embedding",
        lambda: fnn.embedding(COUNT, 3, initializer=NORMAL),
        looked_up,
        {"plain": (2, 4), "row": (3,)},
        draw=indices,
    ),
    LayerCase(
        "embedding-padding",
        lambda: fnn.embedding(COUNT, 3, padding_index=1, initializer=NORMAL),
        looked_up,
        {"plain": (2, 4), "row": (3,)},
        draw=indices,
        surrogate=True,
    ),
    LayerCase(
        "positional", fnn.positional, waves, {"plain": (2, 4, 6), "leading-axes": (2, 2, 3, 4)}
    ),
    LayerCase(
        "positional-learned",
        lambda: fnn.positional("learned", 5, initializer=NORMAL),
        lambda p, s, x: x + p["weight"][: x.shape[-2]],
        {"plain": (2, 3, 4), "one-example": (5, 2)},
    ),
    LayerCase(
        "rotary",
        lambda: fnn.rotary(BASE),
        lambda p, s, x: turned(x),
        {"plain": (2, 4, 2, 6), "one-example": (3, 1, 2)},
    ),
]
