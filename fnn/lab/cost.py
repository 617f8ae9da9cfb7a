"""Costs of the layers of a model, manual and automatic, as tables and as columns."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import jax

from fnn._core.table import in_bytes, table
from fnn._core.tree import inexact_leaves
from fnn._core.types import Array, Input, Output, Params, PyTree, State, Target, Unchecked
from fnn.combinators.walk import layers_by_path
from fnn.gradient.objective import auto_gradients, manual_gradients, objective_in
from fnn.lab._measure import Measurement, Way, measure
from fnn.lab._remembered import Remembered
from fnn.lab.summary import unique_bytes
from fnn.layer import Layer
from fnn.losses import Loss

WIDTH = 80


class Cost(NamedTuple):
    """Cost of a layer, forward and backward, manual and automatic.

    Args:
        path: the path of the layer; ``""`` for the whole model.
        name: the name of the layer.
        ways: its measurement.

    """

    path: str
    name: str
    ways: Measurement


def layer_costs(
    model: Layer,
    shapes: dict[str, tuple[Input, Output]],
    key: Array,
    remembered: Remembered | None = None,
) -> tuple[Cost, ...]:
    """Measure every layer by itself at the shape that reaches it, equal ones once.

    Args:
        model: a layer or model.
        shapes: input and output of its layers by path, as `layer_shapes` gives them.
        key: of the parameters and of the layers' randomness.
        remembered: what was measured before, None where all is to be measured.
    """
    layers = layers_by_path(model)
    found: dict[Hashable, Measurement] = {}
    costs = []
    for path, (x, _) in shapes.items():
        layer = layers[path]
        alike = layer, *jax.tree.leaves(x), jax.tree.structure(x)
        if alike not in found:
            made = functools.partial(_measured, layer, x, key)
            ways = made() if remembered is None else remembered.ways((layer,), x, made)
            found[alike] = Measurement(**ways)
        costs.append(Cost(path, layer.name, found[alike]))
    return tuple(costs)


def _measured(layer: Layer, x: Input, key: Array) -> dict[str, Way]:
    return measure(layer, x, key=key)._asdict()


def ways_of(
    model: Layer, loss: Loss, run: tuple[PyTree, ...]
) -> tuple[dict[str, Callable[..., PyTree]], tuple[PyTree, ...], dict[str, int]]:
    """Return what `both_ways` measures of the gradient of a whole model: in parameters and x.

    Args:
        model: the layer.
        loss: compares its outputs with the targets.
        run: ``(params, state, x, target, weights, key)``, as `manual_gradients` takes them.
    """

    def saved(*run: PyTree) -> list[Array]:
        objective = objective_in(model, loss, run)
        return jax.tree.leaves(jax.vjp(objective, run[0], inexact_leaves(run[2]), has_aux=True)[1])

    kept = {
        "manual": kept_bytes(model, loss, run),
        "auto": sum(unique_bytes(saved, *run)),
    }
    functions: dict[str, Callable[..., PyTree]] = {
        "manual": functools.partial(manual_gradients, model, loss),
        "auto": functools.partial(auto_gradients, model, loss),
    }
    return functions, run, kept


def kept_bytes(model: Layer, loss: Loss, run: tuple[PyTree, ...]) -> int:
    """Return the bytes that model and loss keep for their manual backward passes.

    Args:
        model: the layer.
        loss: compares its outputs with the targets.
        run: ``(params, state, x, target, weights, key)``, as `manual_gradients` takes them.
    """

    def residuals(
        params: Params, state: State, x: Input, target: Target, weights: PyTree, key: Array
    ) -> list[Array]:
        del weights
        prediction, _, kept = model.forward(params, state, x, key=key, train=True)
        return jax.tree.leaves((kept, loss.forward(prediction, target)[1]))

    return sum(unique_bytes(residuals, *run))


def cost_tables(costs: Sequence[Cost]) -> str:
    """Lay out time and operations, and below them memory.

    Args:
        costs: one for each row.
    """
    names = [(cost.path or ".", cost.name) for cost in costs]
    times = [
        (
            *name,
            *(f"{way.milliseconds:.3f}" for way in cost.ways),
            f"{cost.ways.time_ratio:.2f}",
            *(f"{way.flops / 1e6:.3f}" for way in cost.ways),
        )
        for name, cost in zip(names, costs, strict=True)
    ]
    room = [
        (
            *name,
            *(in_bytes(way.temporary_bytes) for way in cost.ways),
            *(in_bytes(way.kept_bytes) for way in cost.ways),
        )
        for name, cost in zip(names, costs, strict=True)
    ]
    header = ("path", "layer", "manual ms", "auto ms", "ratio", "manual Mflop", "auto Mflop")
    below = ("path", "layer", "manual temp", "auto temp", "manual keeps", "auto keeps")
    return f"{table(header, times, WIDTH)}\n\n{table(below, room, WIDTH)}"


def cost_note(costs: Sequence[Cost], machine: str) -> str:
    """Say what the numbers of `cost_tables` are, and where they come from.

    Args:
        costs: those in the tables.
        machine: the name of the machine that they were measured on.
    """
    manual, auto = (
        sum(cost.ways[i].compile_seconds for cost in costs) for i in range(len(Measurement._fields))
    )
    return textwrap.fill(
        f"Forward and backward in training: medians on {machine}. Compilation apart: {manual:.1f} s"
        f" manual, {auto:.1f} s auto. temp: what the compiled program takes beside its"
        " inputs and outputs; keeps: what forward leaves for backward.",
        WIDTH,
    )


def cost_columns(costs: Sequence[Cost]) -> dict[str, list[Unchecked]]:
    """Return costs as columns of equal length; seconds are medians.

    Args:
        costs: one for each entry of a column.
    """
    columns: dict[str, list[Unchecked]] = {
        "path": [cost.path for cost in costs],
        "layer": [cost.name for cost in costs],
    }
    for i, way in enumerate(Measurement._fields):
        columns[f"{way}_seconds"] = [cost.ways[i].milliseconds / 1e3 for cost in costs]
        for name in ("compile_seconds", "temporary_bytes", "kept_bytes", "flops"):
            columns[f"{way}_{name}"] = [getattr(cost.ways[i], name) for cost in costs]
    columns["time_ratio"] = [cost.ways.time_ratio for cost in costs]
    columns["memory_ratio"] = [cost.ways.memory_ratio for cost in costs]
    return columns
