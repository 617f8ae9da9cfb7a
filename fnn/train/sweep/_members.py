"""Several runs as one program: train states, orders and losses stacked along a leading axis."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from fnn._core.description import Structure
from fnn._core.keys import on_words
from fnn._core.types import Array, PyTree, Scalar
from fnn.gradient.objective import Batch
from fnn.optim.optimizer import eval_params
from fnn.train.evaluate import means
from fnn.train.loop._program import Transform, run, run_steps
from fnn.train.step import TrainState, TrainStep

How: TypeAlias = Literal["map", "vmap", "turn"]
_AXIS = "members"


def run_members(
    how: How,
    step: TrainStep,
    transform: Transform | None,
    train_states: TrainState,
    data: Batch,
    orders: np.ndarray,
    losses: np.ndarray,
    watched: Array,
    alive: np.ndarray,
) -> tuple[TrainState, Array, Array]:
    """Take all steps of an order with every member, as `run_steps` does with one.

    Args:
        how: one after the other in one program, side by side, or as a program for each in turn.
        step: the training step.
        transform: of the batches, or None.
        train_states: of all members, stacked; their buffers are given away.
        data: examples.
        orders: (members, steps, size), the examples of every step.
        losses: (members, steps), where the losses are written to.
        watched: for every leaf of the parameters, whether it has to stay finite.
        alive: (members,), whether all was finite so far; a dead member takes no step.
    """
    if how != "turn":
        given = train_states, data, orders, losses, watched, alive
        return _together(how, step, transform, *given)
    results = []
    for i, dead in enumerate(~np.asarray(alive)):
        member = take((train_states, orders, losses), i)
        here = member[0], data, *member[1:], watched, ~dead
        results.append(run(step, transform, *here, 0, orders.shape[1]))
    return stacked(results)


@functools.partial(
    jax.jit,
    static_argnames=("how", "step", "transform"),
    donate_argnames=("train_states", "losses"),
)
def _together(
    how: How,
    step: TrainStep,
    transform: Transform | None,
    train_states: TrainState,
    data: Batch,
    orders: Array,
    losses: Array,
    watched: Array,
    alive: Array,
) -> tuple[TrainState, Array, Array]:
    """Run all members in one program, a share of them on each device."""

    def one(
        train_state: TrainState, order: Array, losses: Array, alive: Array, data: Batch,
        watched: Array,
    ) -> tuple[TrainState, Array, Array]:  # fmt: skip
        stop = order.shape[0]
        return run_steps(step, transform, train_state, data, order, losses, watched, alive, 0, stop)

    return _over_members(how, one, (train_states, orders, losses, alive), (data, watched))


@functools.partial(jax.jit, static_argnames=("how", "structure", "batch_size"))
def evaluate_members(
    how: How,
    structure: Structure,
    numbers: Mapping[str, Array],
    train_states: TrainState,
    data: Batch,
    rows: Array | None,
    batch_size: int,
) -> dict[str, Array]:
    """Return loss and metrics of every member, at the parameters that its optimizer would score.

    Args:
        how: as in `run_members`.
        structure: model, loss and metrics without their numbers.
        numbers: these, stacked.
        train_states: of all members, stacked.
        data: what is evaluated on.
        rows: (members, n), which examples, or None for all.
        batch_size: how many examples at a time.
    """

    def one(
        numbers: dict[str, Scalar], train_state: TrainState, rows: Array | None, data: Batch
    ) -> dict[str, Array]:
        if rows is not None:
            data = jax.tree.map(lambda a: a[rows], data)
        params = eval_params(train_state.opt_state, train_state.params)
        return means(structure, numbers, params, train_state.state, data, batch_size)

    return _over_members(how, one, (dict(numbers), train_states, rows), (data,))


def _over_members(how: How, one: PyTree, members: PyTree, common: PyTree) -> PyTree:
    """Map a function over members, with what is common to all behind; over devices too."""

    def many(members: PyTree, common: PyTree) -> PyTree:
        if how == "vmap":
            return jax.vmap(lambda *member: one(*member, *common))(*members)
        return jax.lax.map(lambda member: one(*member, *common), members)

    if jax.device_count() == 1:
        return many(members, common)
    split, whole = PartitionSpec(_AXIS), PartitionSpec()
    mesh = members_mesh()
    return jax.shard_map(
        many, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False
    )(members, common)


def members_mesh() -> jax.sharding.Mesh:
    """Return the mesh of all devices along one axis."""
    return jax.sharding.Mesh(np.asarray(jax.devices()), (_AXIS,))


def placed(members: PyTree) -> PyTree:
    """Put stacked members onto the devices, a share of them on each.

    Args:
        members: a tree of arrays with a leading axis.
    """
    if jax.device_count() == 1:
        return jax.tree.map(jnp.asarray, members)
    return jax.device_put(members, NamedSharding(members_mesh(), PartitionSpec(_AXIS)))


def stacked(trees: Sequence[PyTree]) -> PyTree:
    """Stack trees of arrays, keys too, along a new leading axis.

    Args:
        trees: one or more, alike.
    """
    return jax.tree.map(lambda *leaves: on_words(_stack, *leaves), *trees)


def _stack(*leaves: Array) -> Array:
    return jnp.asarray(np.stack([np.asarray(leaf) for leaf in leaves]))


def take(members: PyTree, i: int) -> PyTree:
    """Return one member of a stacked tree.

    Args:
        members: a tree of arrays with a leading axis.
        i: which.
    """
    return jax.tree.map(lambda a: a[i], members)
