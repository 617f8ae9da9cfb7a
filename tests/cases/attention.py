"""Cases of attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import fnn
from tests.cases.case import LayerCase
from tests.cases.embedding import BASE, turned
from tests.cases.noise import RATE

NORMAL = jax.nn.initializers.normal(0.2)
WINDOW = 3


def distances(t: Any, s: Any) -> Any:
    """A bias for each of two heads, which ends the view at a window."""
    far = abs(t - s)
    return jax.numpy.stack(
        [jax.numpy.where(far < WINDOW, -far * slope, -jax.numpy.inf) for slope in (0.5, 0.1)]
    )


def attention(
    heads: int,
    key_value_heads: int | None = None,
    causal: bool = False,
    rotary: float | None = None,
    score_bias: Callable[[Any, Any], Any] | None = None,
) -> Callable[[Any, Any, Any], Any]:
    """The formula, for one example, head and step after the other."""

    def formula(p: Any, s: Any, x: Any) -> Any:
        pair = isinstance(x, tuple) and not isinstance(x, fnn.Sequence)
        first, memory = x if pair else (x, x)
        (queries, here), there = opened(first), opened(memory)[1]
        own = heads if key_value_heads is None else key_value_heads
        q = split(product(p["query"], queries), heads)
        k, v = (split(product(p[name], opened(memory)[0]), own) for name in ("key", "value"))
        if rotary is not None:
            q, k = turned(q, rotary), turned(k, rotary)
        o = np.zeros_like(q)
        for b, t, n in np.ndindex(*q.shape[:3]):
            m = n // (heads // own)
            seen = [j for j in np.flatnonzero(there[b]) if not causal or j <= t]
            biases = [0 if score_bias is None else bias(score_bias, n, t, j) for j in seen]
            scores = [q[b, t, n] @ k[b, j, m] / q.shape[-1] ** 0.5 for j in seen]
            weights = np.exp(np.array(scores) + biases)
            for weight, j in zip(weights / weights.sum(), seen, strict=True):
                o[b, t, n] += weight * v[b, j, m]
        y = product(p["output"], o.reshape(*o.shape[:2], -1)) * here[..., None]
        return first._replace(values=y) if isinstance(first, fnn.Sequence) else y

    return formula


def bias(score_bias: Any, n: int, t: int, j: int) -> Any:
    return np.asarray(score_bias(np.array([[t]]), np.array([[j]])))[n, 0, 0]


def product(p: Any, x: Any) -> Any:
    return x @ p["weight"] + p.get("bias", 0)


def split(x: Any, heads: int) -> Any:
    return x.reshape(*x.shape[:2], heads, -1)


def opened(x: Any) -> tuple[Any, Any]:
    """Return values, and which steps are there."""
    if not isinstance(x, fnn.Sequence):
        return x, np.ones(x.shape[:2], bool)
    lengths = np.asarray(x.lengths)
    if lengths.ndim == 1:
        lengths = np.arange(x.values.shape[1]) < lengths[:, None]
    return x.values, lengths


def padded(*lengths: int) -> Callable[[Any, tuple[int, ...]], Any]:
    return lambda random, shape: fnn.Sequence(
        random.normal(size=shape), np.array(lengths[: shape[0]])
    )


def with_memory(random: Any, shape: tuple[int, ...]) -> Any:
    """A memory of another length and width."""
    return random.normal(size=shape), random.normal(size=(shape[0], 3, 5))


def with_holes(random: Any, shape: tuple[int, ...]) -> Any:
    """A memory of which some steps in between are missing, with a carry that nobody asks for."""
    there = np.array([[True, False, True, True, True], [False, True, False, False, False]])
    memory = fnn.Sequence(random.normal(size=(2, 5, 3)), there, random.normal(size=(2, 2)))
    return fnn.Sequence(random.normal(size=shape), np.array([2, 3])), memory


LAYERS = [
    LayerCase(
        "attention",
        lambda: fnn.attention(2, causal=True, initializer=NORMAL),
        attention(2, causal=True),
        {"plain": (2, 4, 6), "one-step": (1, 1, 2)},
        draw=padded(4, 2),
        large=3,
    ),
    LayerCase(
        "attention-cross-dropout",
        lambda: fnn.attention(2, dropout=RATE),
        attention(2),
        {"plain": (2, 4, 6)},
        draw=with_memory,
        large=3,
    ),
    LayerCase(
        "attention-blocks-dropout",
        lambda: fnn.attention(
            4, key_value_heads=2, causal=True, rotary=BASE, block=2, dropout=RATE
        ),
        attention(4, 2, causal=True, rotary=BASE),
        {"plain": (2, 5, 8)},
        draw=padded(5, 0),
        large=3,
    ),
    LayerCase(
        "attention-cross-blocks",
        lambda: fnn.attention(2, head_width=3, score_bias=distances, bias=False, block=2),
        attention(2, score_bias=distances),
        {"plain": (2, 3, 4)},
        draw=with_holes,
        large=3,
    ),
]
