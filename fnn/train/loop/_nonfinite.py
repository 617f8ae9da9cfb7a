"""Where a run lost its numbers: the layer, the loss, the gradient or the update that began it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fnn._core.types import Array, Input, Key, Output, Params, PyTree, State, Unchecked
from fnn.combinators.walk import map_layers
from fnn.gradient.objective import Batch, Gradient, value_and_grad
from fnn.layer import Layer
from fnn.losses import Loss


# Compiled as one: called outside of jit, every shape of a leaf would compile programs of its own.
@functools.partial(jax.jit, inline=True)
def finite_leaves(tree: PyTree) -> Array:
    """Return for every leaf of a tree whether all its values are finite.

    >>> finite_leaves({"a": jnp.ones(2), "b": jnp.array([jnp.inf])})
    Array([ True, False], dtype=bool)
    """
    finite = [_finite(leaf) for leaf in jax.tree.leaves(tree)]
    return jnp.stack(finite) if finite else jnp.ones(0, bool)


@functools.partial(jax.jit, inline=True)
def all_sound(tree: PyTree, watched: Array) -> Array:
    """Return whether every leaf that is watched is finite.

    Args:
        tree: of arrays.
        watched: for every leaf whether it has to be.

    >>> all_sound([jnp.ones(2), jnp.array([jnp.inf])], jnp.array([True, False]))
    Array(True, dtype=bool)
    """
    return (finite_leaves(tree) | ~watched).all()


def origin(
    model: Layer,
    loss: Loss,
    gradient: Gradient,
    params: Params,
    state: State,
    batch: Batch,
    key: Key,
) -> str:
    """Say where the first value that is not finite comes from, in one step of training.

    Args:
        model: the model that was trained.
        loss: its loss.
        gradient: where its gradient came from.
        params: the parameters before the step, all finite.
        state: the running state before it.
        batch: the examples of the step.
        key: that of the step.

    >>> import fnn
    >>> model, x = fnn.serial(fnn.relu(), fnn.from_function(jnp.log)), jnp.zeros((1, 1))
    >>> batch = Batch(x, x)
    >>> origin(model, fnn.losses.squared_error(), "manual", ((), ()), ((), ()), batch, None)
    "the output of layer '1' (from_function)"
    """
    wrong: dict[str, str] = {}
    order: list[str] = []

    def watched(path: str, layer: Layer) -> Layer:
        order.append(path)
        return _watched(path, layer, wrong)

    map_layers(watched, model).apply(params, state, batch.x, key=key, train=True)
    jax.effects_barrier()
    for path in order:
        if path in wrong:
            return f"the output of layer {path!r} ({wrong[path]})" if path else "the model's output"
    (value, _), grads = value_and_grad(model, loss, gradient)(params, state, batch, key=key)
    if not jnp.isfinite(value):
        return "the loss"
    # Backwards: what comes last is where it began.
    for at, leaf in reversed(jax.tree.leaves_with_path(grads)):
        if not _finite(leaf):
            return f"the gradient of {jax.tree_util.keystr(at, simple=True, separator='/')!r}"
    return "the update of the optimizer"


def _watched(path: str, layer: Layer, wrong: dict[str, str]) -> Layer:
    """Return a layer that notes its name where its input is finite and its output is not.

    By a callback, which also sees what runs inside a loop or a recomputation.
    """

    def note(fine: Unchecked, spoiled: Unchecked) -> None:
        if fine and spoiled:
            wrong[path] = layer.name.removesuffix(" (auto)")

    def look(
        run: Callable[..., Unchecked],
        params: Params,
        state: State,
        x: Input,
        /,
        **options: Unchecked,
    ) -> Unchecked:
        result = run(params, state, x, **options)
        jax.debug.callback(note, _all_finite(x), ~_all_finite(result[0]))
        return result

    apply, forward = (functools.partial(look, run) for run in (layer.apply, layer.forward))
    return dataclasses.replace(layer, apply=apply, forward=forward)


def _all_finite(tree: Output) -> Array:
    return finite_leaves(tree).all()


def _finite(leaf: Array) -> Array:
    """Say whether all values of an array are finite; integers are."""
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.ones((), bool)
    return jnp.isfinite(leaf).all()
