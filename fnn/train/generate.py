"""Autoregressive sampling."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import Array, PyTree
from fnn.layer import Layer


@entry
def generate(
    model: Layer,
    params: PyTree,
    state: PyTree,
    prompt: Any,
    count: int,
    *,
    key: Array,
    temperature: float = 1.0,
) -> Array:
    """Autoregressive sampling: what follows a prompt, one time step after the other.

    The model maps integers (B, T) to scores (B, T, K) of what comes next. Each step draws from
    ``softmax(scores at the last step / temperature)``, takes the highest score at temperature 0,
    and moves the window of T integers on by one. prompt (B, T), the result (B, count), integers of
    the same dtype; one compiled program.

    Raises `fnn.InputError` for a prompt that is not (B, T) integers, a negative count or a negative
    temperature.

    >>> import fnn, numpy as np
    >>> cycle = fnn.from_function(lambda x: jax.nn.one_hot((x + 1) % 4, 4))
    >>> generate(cycle, (), (), np.array([[0, 1]]), 5, key=jax.random.key(0), temperature=0.0)
    Array([[2, 3, 0, 1, 2]], dtype=int32)
    """
    prompt = jnp.asarray(prompt)
    if prompt.ndim != 2 or not prompt.size or not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise InputError("a prompt (B, T) of integers", describe(prompt), "pass a batch of windows")
    if not check.is_count(count, 0):
        raise InputError("a count of 0 or more", describe(count), "pass an int")
    if not temperature >= 0:
        raise InputError(
            "a temperature of 0 or more", describe(temperature), "pass one such as 0.8"
        )
    greedy = temperature == 0
    return _generate(
        model, params, state, prompt, count, key, 1.0 if greedy else temperature, greedy
    )


@functools.partial(jax.jit, static_argnames=("model", "count", "greedy"))
def _generate(
    model: Layer,
    params: PyTree,
    state: PyTree,
    prompt: Array,
    count: int,
    key: Array,
    temperature: Array,
    greedy: bool,
) -> Array:
    def step(window: Array, key: Array) -> tuple[Array, Array]:
        scores = model.apply(params, state, window)[0][:, -1]
        drawn = (
            scores.argmax(-1)
            if greedy
            else jax.random.categorical(key, scores / jnp.asarray(temperature, scores.dtype))
        ).astype(window.dtype)
        return jnp.concatenate([window[:, 1:], drawn[:, None]], 1), drawn

    _, drawn = jax.lax.scan(step, prompt, jax.random.split(key, count))
    return drawn.T
