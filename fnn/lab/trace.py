"""The computation graph with its forward and backward values: what flows through every layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.errors import entry
from fnn._core.table import table
from fnn._core.tree import inexact_leaves
from fnn._core.types import Array, Key, PyTree
from fnn.combinators.walk import children, join, map_layers, part
from fnn.gradient.objective import as_batch, manual_gradients, value_and_grad
from fnn.lab.cost import WIDTH
from fnn.layer import Layer
from fnn.losses import Loss


class Flow(NamedTuple):
    """The numbers of one array, or of all arrays of a tree.

    `norm` is the root of the sum of squares; `dead` the fraction of the last axis that is zero for
    every example and place; `wrong` the place of the first number that is not finite, -1 for none,
    counted as `numpy.ravel` does.
    """

    norm: Any
    mean: Any
    deviation: Any
    dead: Any
    wrong: Any


class LayerFlow(NamedTuple):
    """What one layer gives out on the way forward, y, and what comes in on the way back, dy."""

    path: str
    name: str
    y: Flow
    dy: Flow


class Activations(NamedTuple):
    """The layers of a model in the order in which they run; prints as a table."""

    layers: tuple[LayerFlow, ...]
    loss: float

    def first_wrong(self) -> str:
        """Say which number was the first not to be finite, on the way forward and then back."""
        forwards = [("y", row, row.y) for row in self.layers]
        backwards = [("dy", row, row.dy) for row in reversed(self.layers)]
        for what, row, flow in forwards + backwards:
            if flow.wrong >= 0:
                return f"{what} of {row.path or '.'} {row.name}, number {int(flow.wrong)}"
        return "" if np.isfinite(self.loss) else "the loss"

    def to_dict(self) -> dict[str, list[Any]]:
        """Return the table as columns of equal length, for ``pandas.DataFrame``."""
        columns: dict[str, list[Any]] = {
            "path": [row.path for row in self.layers],
            "layer": [row.name for row in self.layers],
        }
        for i, way in enumerate(("y", "dy"), 2):
            for name in Flow._fields:
                columns[f"{way}_{name}"] = [getattr(row[i], name) for row in self.layers]
        return columns

    def __str__(self) -> str:
        rows = [
            (
                row.path or ".",
                row.name,
                f"{row.y.norm:.2e}",
                f"{row.y.mean:+.1e}",
                f"{row.y.deviation:.1e}",
                f"{row.y.dead:.0%}",
                f"{row.dy.norm:.2e}",
                f"{row.dy.deviation:.1e}",
            )
            for row in self.layers
        ]
        header = ("path", "layer", "y norm", "mean", "std", "dead", "dy norm", "std")
        wrong = self.first_wrong()
        verdict = f"first not finite: {wrong}" if wrong else "all values and cotangents are finite"
        return f"{table(header, rows, WIDTH)}\n\nloss {self.loss:.6g}; {verdict}"


class _Seen(NamedTuple):
    """What a watched layer returns in place of the gradient of its parameters."""

    y: Flow
    dy: Flow


@entry
def trace_activations(
    model: Layer, loss: Loss, params: PyTree, state: PyTree, batch: Any, *, key: Key = None
) -> Activations:
    """Run a training step forwards and backwards, and tell what flows through every layer.

    For the output y of every layer, and for the cotangent dy that comes back to it: norm, mean and
    standard deviation; the fraction of dead units, which are zero for the whole batch; and the
    first number that is not finite. A norm of dy that shrinks from layer to layer towards the input
    is a vanishing gradient. The cotangents are those of the manual gradients; every copy in a
    `repeat` has a row. `batch` is ``(x, target)`` or ``(x, target, weights)``.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model = fnn.serial(fnn.dense(3), fnn.relu(), fnn.dense(2))
    >>> x = jax.random.normal(jax.random.key(1), (8, 4))
    >>> params, state = model.init(jax.random.key(0), x)
    >>> params[0]["bias"] = jnp.array([-100.0, 0.0, 0.0])
    >>> loss, batch = fnn.losses.squared_error(), (x, x[:, :2])
    >>> trace = fnn.trace_activations(model, loss, params, state, batch)
    >>> [(row.name, round(row.y.dead, 2)) for row in trace.layers]
    [('dense', 0.0), ('relu', 0.33), ('dense', 0.0)]
    """
    value_and_grad(model, loss)  # for its checks
    watched = map_layers(lambda path, layer: _watched(layer), model)
    run = jax.jit(lambda *run: manual_gradients(watched, loss, *run))
    x, target, weights = as_batch(batch)
    (value, _), (seen, _) = run(params, state, x, target, weights, key)
    return Activations(tuple(_rows(model, jax.tree.map(np.asarray, seen))), float(value))


def _watched(layer: Layer) -> Layer:
    """Return a layer that hands out what it sees where the gradient of its parameters would go.

    Combinators pass that on untouched, out of loops and recomputations too.
    """

    def forward(params: PyTree, state: PyTree, x: Any, /, **options: Any) -> Any:
        y, state, residuals = layer.forward(params, state, x, **options)
        return y, state, (residuals, _flow(y))

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        _, dx = layer.backward(params, residuals[0], dy)
        return _Seen(residuals[1], _flow(dy)), dx

    return Layer(layer.init, layer.apply, forward, backward)


def _flow(tree: Any) -> Flow:
    leaves: list[Array] = jax.tree.leaves(inexact_leaves(tree))
    if not leaves:
        none = jnp.float32(0)
        return Flow(none, none, none, none, jnp.int32(-1))
    flat = jnp.concatenate([leaf.ravel().astype(jnp.float32) for leaf in leaves])
    wrong = ~jnp.isfinite(flat)
    dead = [(leaf == 0).all(tuple(range(leaf.ndim - 1))).ravel() for leaf in leaves]
    return Flow(
        jnp.linalg.norm(flat),
        flat.mean(),
        flat.std(),
        jnp.concatenate(dead).mean(dtype=jnp.float32),
        jnp.where(wrong.any(), jnp.argmax(wrong).astype(jnp.int32), -1),
    )


def _rows(
    layer: Layer, seen: PyTree, path: str = "", index: tuple[int, ...] = ()
) -> Iterator[LayerFlow]:
    """Yield the rows of a model in the order in which its layers run, copy after copy."""
    inside = children(layer)
    if not inside:
        y, dy = jax.tree.map(lambda a: a[index].item(), (seen.y, seen.dy))
        places = "".join(f"[{i}]" for i in index)
        yield LayerFlow(path + places, layer.name, y, dy)
        return
    copies = [index] if layer.copies is None else [(*index, i) for i in range(layer.copies)]
    for at in copies:
        for name, child in inside.items():
            yield from _rows(child, part(seen, name), join(path, name), at)
