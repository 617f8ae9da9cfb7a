"""A model tuned to a device: by hand or by autodiff, layer by layer, whichever costs less there."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax

from fnn._core.errors import InputError, describe, entry
from fnn._core.table import in_bytes, table
from fnn._core.types import Key
from fnn.combinators.walk import map_layers
from fnn.gradient.objective import as_batch, manual_gradients, value_and_grad
from fnn.lab._measure import By, Way, both_ways, choose, machine
from fnn.lab.cost import WIDTH, Cost, kept_bytes, layer_costs, ways_of
from fnn.lab.summary import layer_shapes
from fnn.layer import Layer, use_auto
from fnn.losses import Loss


class Tuning(NamedTuple):
    """What every layer costs both ways, the way chosen, and what came of it; prints as a table.

    `chosen` are ``"manual"`` and ``"auto"`` in the order of `costs`; `whole` holds the gradient of
    the whole model measured by hand (``"manual"``), by autodiff (``"auto"``) and as tuned
    (``"tuned"``).
    """

    costs: tuple[Cost, ...]
    chosen: tuple[Literal["manual", "auto"], ...]
    whole: Mapping[str, Way]
    by: By
    machine: str

    def __str__(self) -> str:
        rows = [
            (cost.path or ".", cost.name, *map(self._number, cost.ways), self._ratio(cost), used)
            for cost, used in zip(self.costs, self.chosen, strict=True)
        ]
        unit = " ms" if self.by == "time" else " temp"
        header = ("path", "layer", f"manual{unit}", f"auto{unit}", "ratio", "used")
        whole = ", ".join(f"{name} {self._number(way)}" for name, way in self.whole.items())
        note = textwrap.fill(
            f"The whole: {whole}{' ms' if self.by == 'time' else ''}. Forward and backward in"
            f" training, on {self.machine}.",
            WIDTH,
        )
        return f"{table(header, rows, WIDTH)}\n\n{note}"

    def _number(self, way: Way) -> str:
        return f"{way.milliseconds:.3f}" if self.by == "time" else in_bytes(way.temporary_bytes)

    def _ratio(self, cost: Cost) -> str:
        ratio = cost.ways.time_ratio if self.by == "time" else cost.ways.memory_ratio
        return f"{ratio:.2f}"


@entry
def tune(
    model: Layer, loss: Loss, batch: Any, *, key: Key = None, by: By = "time"
) -> tuple[Layer, Tuning]:
    """Measure each layer by hand and by autodiff on this device, and use the better one for each.

    Returns the model with `fnn.use_auto` around the layers where autodiff is better, and the
    measurements, which print. Parameters, state and gradient of the tuned model are those of the
    model, so that a training goes on with it; train it with ``gradient="manual"``. `by` is
    ``"time"``, of forward and backward, or ``"bytes"``, the temporary memory of the compiled
    program. Autodiff has to win by more than 5 percent and more than the spread of the measurement.

    `batch` is ``(x, target)`` or ``(x, target, weights)``, of the size to be trained on. Every
    layer is measured by itself, at the shape that reaches it and on random numbers, equal layers
    once; those inside combinators, loops and wrappers too. `loss` serves to measure the whole
    gradient before and after: XLA fuses neighboring layers, so that the best parts need not add up
    to the best whole.

    Raises `fnn.InputError` for what is no layer or no loss, and for another `by`.

    >>> import fnn, jax
    >>> x = jax.random.normal(jax.random.key(1), (8, 3))
    >>> model = fnn.serial(fnn.dense(3), fnn.tanh())
    >>> tuned, tuning = fnn.tune(model, fnn.losses.squared_error(), (x, x), by="bytes")
    >>> tuned == model, tuning.chosen
    (True, ('manual', 'manual'))
    """
    value_and_grad(model, loss)  # for its checks
    if by not in get_args(By):
        raise InputError("by of 'time' or 'bytes'", describe(by), "say what is to be small")
    x, target, weights = as_batch(batch)
    key = jax.random.key(0) if key is None else key
    ruled = map_layers(lambda path, layer: _with_rule(layer), model)
    params, state = ruled.init(key, x)
    costs = layer_costs(ruled, layer_shapes(ruled, params, state, x), key)
    used = {cost.path: choose(cost.ways, by) for cost in costs}
    tuned = map_layers(
        lambda path, layer: use_auto(layer) if _gives_up(layer, used[path]) else layer, ruled
    )
    functions, run, kept = ways_of(ruled, loss, (params, state, x, target, weights, key))
    functions["tuned"] = functools.partial(manual_gradients, tuned, loss)
    kept["tuned"] = kept_bytes(tuned, loss, run)
    whole = both_ways(functions, run, kept)
    return tuned, Tuning(costs, tuple(used.values()), whole, by, machine())


def _gives_up(layer: Layer, way: str) -> bool:
    return way == "auto" and layer.derivation == "manual"


def _with_rule(layer: Layer) -> Layer:
    """Return the layer as it was before `use_auto`, which an earlier tuning put around it."""
    return layer.manual or layer
