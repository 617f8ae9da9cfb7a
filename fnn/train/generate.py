"""Autoregressive sampling."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.description import Structure, split
from fnn._core.errors import InputError, describe, entry
from fnn._core.precision import upcast
from fnn._core.types import Array, Input, Params, Scalar, State, Unchecked
from fnn.layer import Layer, output_shape, require_layer


@entry
def generate(
    model: Layer,
    params: Params,
    state: State,
    prompt: Input,
    count: int,
    *,
    key: Array,
    temperature: Scalar = 1.0,
) -> Array:
    """Autoregressive sampling: what follows a prompt, one time step after the other.

    Each step draws from ``softmax(scores at the last step / temperature)``, takes the highest score
    at temperature 0, and moves the window of T integers on by one: what the model sees is as long
    as the prompt. One compiled program; a new temperature compiles nothing.

    Args:
        model: maps integers (B, T) to scores (B, T, K) of what comes next.
        params: its parameters.
        state: what its layers remember.
        prompt: (B, T) integers of 0 or more, B and T at least 1.
        count: how many integers to draw, 0 or more.
        key: for the draws.
        temperature: 0 or more, a number or a traced one; below 1 the likely becomes likelier.
    Shapes:    prompt (B, T); the result (B, count), integers of the same dtype
    Raises:    InputError for another prompt, count, key or temperature; for a model that gives no
        scores (B, T, K), more of them than the dtype of the prompt can count, or NaN.

    >>> import fnn, numpy as np
    >>> cycle = fnn.from_function(lambda x: jax.nn.one_hot((x + 1) % 4, 4))
    >>> generate(cycle, (), (), np.array([[0, 1]]), 5, key=jax.random.key(0), temperature=0.0)
    Array([[2, 3, 0, 1, 2]], dtype=int32)
    """
    require_layer(model)
    check.count(count, "count", least=0)
    check.number(temperature, "temperature", least=0, remedy="pass one such as 0.8")
    prompt = _checked_prompt(prompt)
    _check_scores(output_shape(model, params, state, prompt), prompt)
    structure, numbers = split(model=model)
    greedy = False
    if not isinstance(temperature, jax.core.Tracer):
        # In the precision of the scores, where 1e-50 is 0.
        greedy = not np.asarray(temperature).astype(jnp.result_type(float))
    drawn, complete = _generate(
        structure, numbers, params, state, prompt, int(count), check.key(key),
        1.0 if greedy else temperature, bool(greedy),
    )  # fmt: skip
    if not isinstance(complete, jax.core.Tracer) and not complete:
        raise InputError(
            "scores that are numbers", "NaN", "look at the parameters, or at fnn.trace_activations"
        )
    return drawn


def _checked_prompt(prompt: Unchecked) -> Array:
    """Return a prompt as an array, or raise unless it is (B, T) integers."""
    if not hasattr(prompt, "dtype"):
        try:
            prompt = np.asarray(prompt)
        except ValueError as error:
            raise InputError(
                "a prompt (B, T) of integers", describe(prompt), "pass windows of one length"
            ) from error
    is_integer = hasattr(prompt, "__jax_array__") or isinstance(prompt, np.ndarray | jax.Array)
    is_integer = is_integer and jnp.issubdtype(prompt.dtype, jnp.integer)
    if not is_integer or prompt.ndim != 2 or not prompt.size:
        raise InputError("a prompt (B, T) of integers", describe(prompt), "pass a batch of windows")
    check.values(
        prompt, lambda x: x < 0, "a prompt of 0 or more", "pass indices into the scores", "prompt"
    )
    return jnp.asarray(prompt)


def _check_scores(scores: Unchecked, prompt: Array) -> None:
    """Raise unless a model gives scores (B, T, K), whose K indices the prompt's dtype holds."""
    if getattr(scores, "shape", ())[:2] != prompt.shape or len(scores.shape) != 3:
        raise InputError(
            f"a model that gives scores ({prompt.shape[0]}, {prompt.shape[1]}, K)",
            describe(scores),
            "let it end in a layer of one score for each possible integer, as fnn.dense(K)",
        )
    if scores.shape[-1] - 1 > jnp.iinfo(prompt.dtype).max or not scores.shape[-1]:
        raise InputError(
            f"a prompt whose dtype holds 0..{scores.shape[-1] - 1}",
            describe(prompt),
            "convert it, as in prompt.astype('int32')",
        )


@functools.partial(jax.jit, static_argnames=("structure", "count", "greedy"))
def _generate(
    structure: Structure,
    numbers: dict[str, Array],
    params: Params,
    state: State,
    prompt: Array,
    count: int,
    key: Array,
    temperature: Array,
    greedy: bool,
) -> tuple[Array, Array]:
    """Return what is drawn, and whether all scores were numbers."""
    model: Layer = structure.build(numbers)["model"]

    def step(window: Array, key: Array) -> tuple[Array, tuple[Array, Array]]:
        scores = upcast(model.apply(params, state, window)[0][:, -1])
        drawn = scores.argmax(-1)
        if not greedy:
            # From the highest score down: so no temperature makes two of them infinite.
            below = jnp.where(
                scores == scores.max(-1, keepdims=True), 0, scores - scores.max(-1, keepdims=True)
            )
            warm = jnp.asarray(temperature, scores.dtype)
            sampled = jax.random.categorical(key, below / jnp.where(warm > 0, warm, 1))
            drawn = jnp.where(warm > 0, sampled, drawn)
        drawn = drawn.astype(window.dtype)
        window = jnp.concatenate([window[:, 1:], drawn[:, None]], 1)
        return window, (drawn, ~jnp.isnan(scores).any())

    _, (drawn, complete) = jax.lax.scan(step, prompt, jax.random.split(key, count))
    return drawn.T, complete.all()
