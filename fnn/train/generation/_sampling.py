"""What is drawn of the scores of a language model."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn._core.precision import upcast
from fnn._core.types import Array, Scalar


class Draw(NamedTuple):
    """What of drawing shapes the program: none of its numbers, but whether there are some."""

    greedy: bool
    top_k: int | None
    nucleus: bool
    penalized: bool


class DrawNumbers(NamedTuple):
    """The numbers of drawing, inputs of the program."""

    temperature: Scalar
    top_p: Scalar
    repetition_penalty: Scalar


def draw(how: Draw, numbers: DrawNumbers, scores: Array, used: Array | None, key: Array) -> Array:
    """Return indices (B,) drawn of scores (B, K); `used` are (B, K) booleans where penalized."""
    scores = upcast(scores)
    if how.penalized and used is not None:
        penalty = jnp.asarray(numbers.repetition_penalty, scores.dtype)
        scores = jnp.where(used, jnp.where(scores > 0, scores / penalty, scores * penalty), scores)
    likeliest = scores.argmax(-1)
    if how.greedy:
        return likeliest
    # From the highest score down: so no temperature makes two of them infinite.
    top = scores.max(-1, keepdims=True)
    below = jnp.where(scores == top, 0, scores - top)
    warm = jnp.asarray(numbers.temperature, scores.dtype)
    drawn = _sampled(how, numbers, below / jnp.where(warm > 0, warm, 1), key)
    return jnp.where(warm > 0, drawn, likeliest)


def _sampled(how: Draw, numbers: DrawNumbers, logits: Array, key: Array) -> Array:
    if how.top_k is None and not how.nucleus:
        return jax.random.categorical(key, logits)
    logits, indices = jax.lax.top_k(logits, how.top_k or logits.shape[-1])
    if how.nucleus:
        p = jax.nn.softmax(logits, -1)
        before = jnp.cumsum(p, -1) - p
        logits = jnp.where(before < jnp.asarray(numbers.top_p, p.dtype), logits, -jnp.inf)
    chosen = jax.random.categorical(key, logits)
    return jnp.take_along_axis(indices, chosen[:, None], 1)[:, 0]
