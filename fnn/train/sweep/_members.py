"""Several runs as one program: train states, orders and losses stacked along a leading axis."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnn._core.description import Structure
from fnn._core.errors import InputError, describe
from fnn._core.keys import on_words
from fnn._core.types import Array, PyTree, Scalar, Unchecked
from fnn.gradient.objective import Batch
from fnn.optim.optimizer import eval_params
from fnn.train.evaluate import means
from fnn.train.loop._program import Transform, run, run_steps
from fnn.train.sharding import Layout, checked_mesh, layout_of
from fnn.train.step import TrainState, TrainStep

How: TypeAlias = Literal["map", "vmap", "turn"]
_AXIS = "runs"


class Devices(NamedTuple):
    """Devices that share the runs.

    Args:
        mesh: its first axis shares the runs.
        layout: of each run over the other axes; None where there are none.
    """

    mesh: Mesh
    layout: Layout | None

    @property
    def axis(self) -> str:
        """The axis that shares the runs."""
        return str(self.mesh.axis_names[0])


def devices_of(mesh: Unchecked, sharding: Unchecked, how: How) -> Devices | None:
    """Return the devices that are asked for; None for one alone.

    Args:
        mesh: its first axis shares the runs; None for all devices along one axis.
        sharding: of each run over the other axes; None for ``"data"``.
        how: as in `run_members`.
    Raises:    InputError for no mesh, one of other processes, a sharding without other axes, and
        for runs in turn on a mesh.
    """
    if mesh is None and sharding is None:
        found = np.asarray(jax.devices())
        return Devices(Mesh(found, (_AXIS,)), None) if found.size > 1 else None
    mesh = checked_mesh(mesh)
    if how == "turn":
        raise InputError("how='map' or 'vmap' on a mesh", "'turn'", "name one of them, or no mesh")
    if len(mesh.axis_names) == 1:
        if sharding is not None:
            remedy = "make one as in jax.make_mesh((2, 4), ('runs', 'data'))"
            raise InputError("a mesh of two axes for a sharding", describe(mesh), remedy)
        layout = None
    else:
        known: Unchecked = layout_of(mesh, sharding)
        layout = replace(known, runs=mesh.axis_names[0])
    if not NamedSharding(mesh, PartitionSpec()).is_fully_addressable:
        remedy = "pass one of jax.local_devices(), and give each process points of its own"
        raise InputError("a mesh of this process", "one of several", remedy)
    return Devices(mesh, layout) if mesh.size > 1 or layout is not None else None


def run_members(
    how: How,
    devices: Devices | None,
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
        devices: that share the members; None for one.
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
        return _together(how, devices, step, transform, *given)
    results = []
    for i, dead in enumerate(~np.asarray(alive)):
        member = take((train_states, orders, losses), i)
        here = member[0], data, *member[1:], watched, ~dead
        results.append(run(step, transform, *here, 0, orders.shape[1]))
    return stacked(results)


@functools.partial(
    jax.jit,
    static_argnames=("how", "devices", "step", "transform"),
    donate_argnames=("train_states", "losses"),
)
def _together(
    how: How,
    devices: Devices | None,
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
        return run_steps(
            step, transform, train_state, data, order, losses, watched, alive, 0, order.shape[0],
            layout=_layout(devices),
        )  # fmt: skip

    return _over_members(how, devices, one, (train_states, orders, losses, alive), (data, watched))


@functools.partial(jax.jit, static_argnames=("how", "devices", "structure", "batch_size"))
def evaluate_members(
    how: How,
    devices: Devices | None,
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
        devices: likewise.
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
        layout = _layout(devices)
        return means(structure, numbers, params, train_state.state, data, batch_size, layout)

    return _over_members(how, devices, one, (dict(numbers), train_states, rows), (data,))


def _layout(devices: Devices | None) -> Layout | None:
    return None if devices is None else devices.layout


def _over_members(
    how: How, devices: Devices | None, one: PyTree, members: PyTree, common: PyTree
) -> PyTree:
    """Map a function over members, with what is common to all behind; over devices too."""

    def many(members: PyTree, common: PyTree) -> PyTree:
        if how == "vmap":
            return jax.vmap(lambda *member: one(*member, *common))(*members)
        return jax.lax.map(lambda member: one(*member, *common), members)

    if devices is None:
        return many(members, common)
    split, whole = PartitionSpec(devices.axis), PartitionSpec()
    return jax.shard_map(
        many, mesh=devices.mesh, in_specs=(split, whole), out_specs=split,
        axis_names={devices.axis}, check_vma=False,
    )(members, common)  # fmt: skip


def placed(devices: Devices | None, members: PyTree) -> PyTree:
    """Put stacked members onto the devices, a share of them on each.

    Args:
        devices: that share the members; None for one.
        members: a tree of arrays with a leading axis.
    """
    if devices is None:
        return jax.tree.map(jnp.asarray, members)
    return jax.device_put(members, NamedSharding(devices.mesh, PartitionSpec(devices.axis)))


def placed_states(devices: Devices | None, train_states: Sequence[TrainState]) -> TrainState:
    """Stack train states, and put each onto its devices, in parts where its layout says so.

    Args:
        devices: that share the members; None for one.
        train_states: one or more, alike.
    """
    whole: TrainState = stacked(train_states)
    if devices is None or devices.layout is None:
        found: TrainState = placed(devices, whole)
        return found
    places = jax.tree.map(
        lambda place: NamedSharding(devices.mesh, PartitionSpec(devices.axis, *place.spec)),
        devices.layout.of(train_states[0]),
    )
    return jax.tree.map(jax.device_put, whole, places)


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
