"""Tuning of a model to a device: manual or automatic gradient, layer by layer, what costs less."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import numpy as np

from fnn._core import check
from fnn._core.errors import entry
from fnn._core.table import in_bytes, table
from fnn._core.types import Array, Data, PyTree
from fnn.combinators.walk import map_layers
from fnn.gradient.objective import manual_gradients, value_and_grad
from fnn.lab._input import read_batch
from fnn.lab._measure import By, Way, both_ways, choose, start_of
from fnn.lab._remembered import Remembered
from fnn.lab.cost import WIDTH, Cost, kept_bytes, layer_costs, ways_of
from fnn.lab.summary import layer_shapes
from fnn.layer import Layer, use_auto
from fnn.losses import Loss

# Of the whole, which takes longest and decides nothing.
_ROUNDS = 5


class Tuning(NamedTuple):
    """Tuning: what every layer costs both ways, the way chosen, and what came of it; prints.

    Args:
        costs: the measurement of every layer.
        chosen: ``"manual"`` or ``"auto"``, in the order of `costs`.
        whole: the gradient of the whole model measured manual (``"manual"``), automatic
            (``"auto"``) and as tuned (``"tuned"``).
        by: what was to be small, ``"time"`` or ``"bytes"``.
        machine: the machine of the measurements.
        notes: what was measured before, here and elsewhere, and what could not be kept.

    """

    costs: tuple[Cost, ...]
    chosen: tuple[Literal["manual", "auto"], ...]
    whole: Mapping[str, Way]
    by: By
    machine: str
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        rows = [
            (cost.path or ".", cost.name, *map(self._number, cost.ways), self._ratio(cost), used)
            for cost, used in zip(self.costs, self.chosen, strict=True)
        ]
        unit = " ms" if self.by == "time" else " temp"
        header = ("path", "layer", f"manual{unit}", f"auto{unit}", "ratio", "used")
        whole = ", ".join(f"{name} {self._number(way)}" for name, way in self.whole.items())
        note = (
            f"The whole: {whole}{' ms' if self.by == 'time' else ''}. Forward and backward in"
            f" training, on {self.machine}."
        )
        below = [textwrap.fill(text, WIDTH, break_long_words=False) for text in (note, *self.notes)]
        return "\n\n".join([table(header, rows, WIDTH), *below])

    def _number(self, way: Way) -> str:
        """Write what a way costs."""
        return f"{way.milliseconds:.3f}" if self.by == "time" else in_bytes(way.temporary_bytes)

    def _ratio(self, cost: Cost) -> str:
        """Write how a manual gradient compares."""
        ratio = cost.ways.time_ratio if self.by == "time" else cost.ways.memory_ratio
        return f"{ratio:.2f}"


@entry
def tune(
    model: Layer,
    loss: Loss,
    batch: Data,
    *,
    key: Array,
    by: By = "time",
    remember: bool = True,
) -> tuple[Layer, Tuning]:
    """Tune a model to this device: measure each layer both ways, and use the better one for each.

    Returns the model with `fnn.use_auto` around the layers where autodiff is better, and the
    measurements, which print. Parameters, state and gradient of the tuned model are those of the
    model, so that a training goes on with it; train it with ``gradient="manual"``. Autodiff has to
    win by more than 5 percent and more than the spread of the measurement.

    Every layer is measured by itself, at the shape that reaches it and on random values, equal
    layers once; those inside combinators, loops and wrappers too. What was measured is kept in
    the user's folder for caches (``fnn/tune`` in ``$XDG_CACHE_HOME`` or ``~/.cache``) by machine,
    releases, flags, layer and shapes, and taken from there by the next call that needs it; layers
    that constructors of one's own make are always measured. A model that was tuned on another
    machine is measured on this one, and the table says so.

    Args:
        model: a layer or model.
        loss: a loss; it serves to measure the whole gradient before and after: XLA fuses
            neighboring layers, so that the best parts need not add up to the best whole.
        batch: ``(x, target)`` or ``(x, target, weights)``, of the size to be trained on.
        key: of the parameters and of the layers' randomness.
        by: ``"time"``, of forward and backward, or ``"bytes"``, the temporary memory of the
            compiled program.
        remember: whether to take what was measured before; False to measure all of it anew, and to
            forget what was.
    Raises:    InputError for what is no layer, loss, batch or key, and for another `by`.

    >>> import fnn, jax
    >>> x = jax.random.normal(jax.random.key(1), (8, 3))
    >>> model, loss = fnn.serial(fnn.batch_norm(), fnn.tanh()), fnn.losses.squared_error()
    >>> tuned, tuning = fnn.tune(model, loss, (x, x), key=jax.random.key(0), by="bytes")
    >>> tuned == model, tuning.chosen
    (True, ('manual', 'manual'))

    """
    value_and_grad(model, loss)  # for its checks
    check.one_of(by, "by", get_args(By))
    check.flag(remember, "remember")
    (x, target, weights), key = read_batch(batch), check.key(key)
    manual = map_layers(lambda path, layer: _with_manual(layer), model)
    params, state = start_of(np.random.default_rng(0), manual, x, key)
    remembered = Remembered(read=remember)
    costs = layer_costs(manual, layer_shapes(manual, params, state, x), key, remembered)
    used = {cost.path: choose(cost.ways, by) for cost in costs}
    tuned = map_layers(
        lambda path, layer: use_auto(layer) if _gives_up(layer, used[path]) else layer, manual
    )
    run = params, state, x, target, weights, key
    whole = _whole(manual, tuned, loss, run, remembered)
    elsewhere = remembered.elsewhere((manual, loss), run)
    notes = remembered.close()
    if elsewhere:
        notes.append(f"Tuned before on {'; on '.join(elsewhere)}: measured anew on this machine.")
    return tuned, Tuning(costs, tuple(used.values()), whole, by, remembered.machine, tuple(notes))


def _whole(
    manual: Layer, tuned: Layer, loss: Loss, run: tuple[PyTree, ...], remembered: Remembered
) -> dict[str, Way]:
    """Return what the whole gradient costs by hand, automatic and as tuned."""

    def measure() -> dict[str, Way]:
        functions, _, kept = ways_of(manual, loss, run)
        if tuned != manual:
            functions["tuned"] = functools.partial(manual_gradients, tuned, loss)
            kept["tuned"] = kept_bytes(tuned, loss, run)
        return both_ways(functions, run, kept, _ROUNDS)

    ways = remembered.ways((manual, loss, tuned), run, measure)
    # Where no layer has changed it is the same program.
    return ways | {"tuned": ways.get("tuned", ways["manual"])}


def _gives_up(layer: Layer, way: str) -> bool:
    """Say whether a layer has a manual gradient that costs more."""
    return way == "auto" and layer.derivation == "manual"


def _with_manual(layer: Layer) -> Layer:
    """Return the layer as it was before `use_auto`, which an earlier tuning put around it."""
    return layer.manual or layer
