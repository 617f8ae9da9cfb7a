"""Descent step by step on a function of a few numbers, to be looked at."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import Structure, split
from fnn._core.errors import InputError, describe, entry
from fnn._core.mesh import scan
from fnn._core.types import Array, Grads, OptState, Params, PyTree, Scalar
from fnn.landscapes.functions import Landscape, floating_array
from fnn.optim.optimizer import Optimizer, check_optimizer, take_step


class Trajectory(NamedTuple):
    """Trajectory of an optimizer on a toy function.

    Args:
        points: (steps + 1, ...), the parameters from the start on, an array or a tree of them.
        values: (steps + 1,), the function there.

    """

    points: PyTree
    values: Array


@entry
def descend(
    optimizer: Optimizer, function: Callable[[Params], Scalar], start: PyTree, steps: int
) -> Trajectory:
    """Follow an optimizer on a toy function: its points, and the values there.

    With `jax.grad` of the function as the gradient, in one compiled scan: other numbers in the
    optimizer, and other starts of the same shape, are run by the same program where the function is
    one of `fnn.landscapes` or stands under `jax.jit`; any other is compiled for every call. Map
    over many starts or keys with `jax.vmap`. `fnn.plot.descent` draws trajectories over one or two
    coordinates.

    Update:    p_{t+1} = p_t + u_t

    Args:
        optimizer: the optimizer, of `fnn.optim` or of optax.
        function: from parameters to one number.
        start: where to begin, an array, a list of numbers, or a tree of arrays.
        steps: how many steps, >= 1.
    Raises:    InputError for what is no optimizer or function, a start that is no numbers, steps
        below 1, and a function whose value is not one floating-point number.

    >>> import fnn, jax.numpy as jnp
    >>> path = descend(fnn.optim.sgd(0.5), lambda p: (p**2).sum() / 2, jnp.array([8.0]), 3)
    >>> path.points[:, 0], path.values
    (Array([8., 4., 2., 1.], dtype=float32), Array([32. ,  8. ,  2. ,  0.5], dtype=float32))

    """
    check_optimizer("an optimizer", optimizer)
    remedy = "pass one of the parameters, to one number"
    check.function(function, "function", remedy, takes="params")
    check.count(steps, "steps")
    listed = isinstance(start, list | tuple) and all(isinstance(x, int | float) for x in start)
    if listed:
        start = floating_array(start, "start")
    else:
        start = jax.tree.map(lambda leaf: floating_array(leaf, "start"), start)
    value = jax.eval_shape(function, start)
    one = getattr(value, "shape", None) == ()
    if not one or not jnp.issubdtype(value.dtype, jnp.floating):
        raise InputError(
            "a function to one number",
            describe(value),
            "return a scalar of a floating dtype, as a sum or a mean is",
        )
    structure, numbers = split(optimizer=optimizer, function=function)
    # Others may read what has changed since: each call has a program of its own.
    same = isinstance(function, Landscape | jax.stages.Wrapped)
    follow = _compiled if same else jax.jit(functools.partial(_follow), static_argnums=(0, 1))
    return Trajectory(*follow(structure, steps, numbers, start))


def _follow(
    structure: Structure, steps: int, numbers: Mapping[str, Scalar], start: Params
) -> tuple[PyTree, Array]:
    """Take the steps as one scan, with an optimizer of run-time numbers."""
    made = structure.build(numbers)
    optimizer, function = made["optimizer"], made["function"]

    def gradient_at(params: Params, /) -> tuple[tuple[Scalar, tuple[()]], Grads]:
        value, grads = jax.value_and_grad(function)(params)
        return (value, ()), grads

    def step(
        carry: tuple[Params, OptState], _: None
    ) -> tuple[tuple[Params, OptState], tuple[Params, Scalar]]:
        params, state = carry
        (value, _), updates, state = take_step(optimizer, gradient_at, params, state)
        return (jax.tree.map(jnp.add, params, updates), state), (params, value)

    (end, _), (points, values) = scan(step, (start, optimizer.init(start)), length=steps)
    points = jax.tree.map(lambda a, last: jnp.concatenate([a, last[None]]), points, end)
    return points, jnp.append(values, function(end))


_compiled = jax.jit(_follow, static_argnums=(0, 1))
