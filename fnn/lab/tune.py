"""Tuning of a model to a device: manual or automatic gradient, layer by layer, what costs less."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

from fnn._core import check
from fnn._core.errors import entry
from fnn._core.table import in_bytes, table
from fnn._core.types import Array, Data
from fnn.combinators.walk import map_layers
from fnn.gradient.objective import manual_gradients, value_and_grad
from fnn.lab._input import read_batch
from fnn.lab._measure import By, Way, both_ways, choose, machine
from fnn.lab.cost import WIDTH, Cost, kept_bytes, layer_costs, ways_of
from fnn.lab.summary import layer_shapes
from fnn.layer import Layer, use_auto
from fnn.losses import Loss


class Tuning(NamedTuple):
    """Tuning: what every layer costs both ways, the way chosen, and what came of it; prints.

    Args:
        costs: the measurement of every layer.
        chosen: ``"manual"`` or ``"auto"``, in the order of `costs`.
        whole: the gradient of the whole model measured manual (``"manual"``), automatic
            (``"auto"``) and as tuned (``"tuned"``).
        by: what was to be small, ``"time"`` or ``"bytes"``.
        machine: the machine of the measurements.

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
        """Write what a way costs."""
        return f"{way.milliseconds:.3f}" if self.by == "time" else in_bytes(way.temporary_bytes)

    def _ratio(self, cost: Cost) -> str:
        """Write how a manual gradient compares."""
        ratio = cost.ways.time_ratio if self.by == "time" else cost.ways.memory_ratio
        return f"{ratio:.2f}"


@entry
def tune(
    model: Layer, loss: Loss, batch: Data, *, key: Array, by: By = "time"
) -> tuple[Layer, Tuning]:
    """Tune a model to this device: measure each layer both ways, and use the better one for each.

    Returns the model with `fnn.use_auto` around the layers where autodiff is better, and the
    measurements, which print. Parameters, state and gradient of the tuned model are those of the
    model, so that a training goes on with it; train it with ``gradient="manual"``. Autodiff has to
    win by more than 5 percent and more than the spread of the measurement.

    Every layer is measured by itself, at the shape that reaches it and on random values, equal
    layers once; those inside combinators, loops and wrappers too.

    Args:
        model: a layer or model.
        loss: a loss; it serves to measure the whole gradient before and after: XLA fuses
            neighboring layers, so that the best parts need not add up to the best whole.
        batch: ``(x, target)`` or ``(x, target, weights)``, of the size to be trained on.
        key: of the parameters and of the layers' randomness.
        by: ``"time"``, of forward and backward, or ``"bytes"``, the temporary memory of the
            compiled program.
    Raises:    InputError for what is no layer, loss, batch or key, and for another `by`.

    >>> import fnn, jax
    >>> x = jax.random.normal(jax.random.key(1), (8, 3))
    >>> model, loss = fnn.serial(fnn.dense(3), fnn.tanh()), fnn.losses.squared_error()
    >>> tuned, tuning = fnn.tune(model, loss, (x, x), key=jax.random.key(0), by="bytes")
    >>> tuned == model, tuning.chosen
    (True, ('manual', 'manual'))

    """
    value_and_grad(model, loss)  # for its checks
    check.one_of(by, "by", get_args(By))
    (x, target, weights), key = read_batch(batch), check.key(key)
    manual = map_layers(lambda path, layer: _with_manual(layer), model)
    params, state = manual.init(key, x)
    costs = layer_costs(manual, layer_shapes(manual, params, state, x), key)
    used = {cost.path: choose(cost.ways, by) for cost in costs}
    tuned = map_layers(
        lambda path, layer: use_auto(layer) if _gives_up(layer, used[path]) else layer, manual
    )
    functions, run, kept = ways_of(manual, loss, (params, state, x, target, weights, key))
    functions["tuned"] = functools.partial(manual_gradients, tuned, loss)
    kept["tuned"] = kept_bytes(tuned, loss, run)
    whole = both_ways(functions, run, kept)
    return tuned, Tuning(costs, tuple(used.values()), whole, by, machine())


def _gives_up(layer: Layer, way: str) -> bool:
    """Say whether a layer has a manual gradient that costs more."""
    return way == "auto" and layer.derivation == "manual"


def _with_manual(layer: Layer) -> Layer:
    """Return the layer as it was before `use_auto`, which an earlier tuning put around it."""
    return layer.manual or layer
