"""Descent step by step on a function of a few numbers, to be looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import PyTree
from fnn.optim.optimizer import Optimizer, take_step


class Trajectory(NamedTuple):
    """Where descent went: `points` (steps + 1, ...) from the start on, `values` (steps + 1,)."""

    points: Any
    values: Any


@entry
def descend(
    optimizer: Optimizer, function: Callable[[Any], Any], start: Any, steps: int
) -> Trajectory:
    """Trajectory of an optimizer on a toy function: its points, and the values there.

    ``p_{t+1} = p_t + u_t``, with `jax.grad` of the function as the gradient, in one compiled scan.
    `start` is an array, a list of numbers, or a tree of arrays; the function maps it to a number.
    Map over many starts or keys with `jax.vmap`. `fnn.landscapes`
    has functions to play on, and `fnn.plot.descent` draws paths of one or two numbers.

    Raises `fnn.InputError` for steps below 1, and for a function whose value is not a number.

    >>> import fnn, jax.numpy as jnp
    >>> path = descend(fnn.optim.sgd(0.5), lambda p: (p**2).sum() / 2, jnp.array([8.0]), 3)
    >>> path.points[:, 0], path.values
    (Array([8., 4., 2., 1.], dtype=float32), Array([32. ,  8. ,  2. ,  0.5], dtype=float32))
    """
    if not check.is_count(steps, 1):
        raise InputError(
            "steps of 1 or more",
            describe(steps),
            "pass a number of steps, an int",
        )
    listed = isinstance(start, list | tuple) and all(isinstance(x, int | float) for x in start)
    start = _floating(start) if listed else jax.tree.map(_floating, start)
    value = jax.eval_shape(function, start)
    if getattr(value, "shape", None) != ():
        raise InputError(
            "a function to one number",
            describe(value),
            "return a scalar, as a sum or a mean is",
        )

    def gradient_at(params: PyTree, /) -> tuple[tuple[Any, PyTree], PyTree]:
        value, grads = jax.value_and_grad(function)(params)
        return (value, ()), grads

    def step(carry: tuple[PyTree, PyTree], _: None) -> tuple[tuple[PyTree, PyTree], Any]:
        params, state = carry
        (value, _), updates, state = take_step(optimizer, gradient_at, params, state)
        return (jax.tree.map(jnp.add, params, updates), state), (params, value)

    @jax.jit
    def run(start: PyTree) -> tuple[Any, Any]:
        (end, _), (points, values) = jax.lax.scan(
            step, (start, optimizer.init(start)), length=steps
        )
        points = jax.tree.map(lambda a, last: jnp.concatenate([a, last[None]]), points, end)
        return points, jnp.append(values, function(end))

    return Trajectory(*run(start))


def _floating(leaf: Any) -> Any:
    leaf = jnp.asarray(leaf)
    return leaf if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.astype(jnp.result_type(float))
