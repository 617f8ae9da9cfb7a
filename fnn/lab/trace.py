"""Activations: what flows through every layer, values forwards and cotangents backwards."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.description import Structure, split
from fnn._core.errors import entry
from fnn._core.place import check_place
from fnn._core.table import table
from fnn._core.tree import inexact_leaves
from fnn._core.types import (
    Array,
    Cotangent,
    Data,
    Input,
    Key,
    Output,
    Params,
    PyTree,
    Residuals,
    Scalar,
    State,
    Unchecked,
)
from fnn.combinators.sequence import Sequence, step_mask
from fnn.combinators.walk import children, join, map_layers, part
from fnn.gradient.objective import manual_gradients, value_and_grad
from fnn.lab._input import read_batch
from fnn.lab.cost import WIDTH
from fnn.layer import Layer
from fnn.losses import Loss


class Flow(NamedTuple):
    """Statistics of the entries of one array, or of all arrays of a tree.

    Of a `fnn.Sequence` the steps that are there count.

    Args:
        norm: the root of the sum of squares.
        mean: the mean.
        deviation: the standard deviation.
        dead: the fraction of the last axis that is zero for every example and position.
        wrong: the position of the first entry that is not finite, -1 for none, counted as
            `numpy.ravel` does.

    """

    norm: Scalar
    mean: Scalar
    deviation: Scalar
    dead: Scalar
    wrong: Scalar


class LayerFlow(NamedTuple):
    """Flow through one layer: what it gives out, and what comes back to it.

    Args:
        path: the path of the layer, with the index of its copy.
        name: its name.
        y: its output, forwards.
        dy: the cotangent of its output, backwards.

    """

    path: str
    name: str
    y: Flow
    dy: Flow


class Activations(NamedTuple):
    """Activations of the layers of a model, in the order in which they run; prints as a table.

    Args:
        layers: one row for each layer.
        loss: the value of the objective.
        given: the first entry that is not finite of what the run was given, ``""`` for none: of x,
            the parameters or the state.

    """

    layers: tuple[LayerFlow, ...]
    loss: float
    given: str = ""

    def first_wrong(self) -> str:
        """Say which entry was the first not to be finite: given, on the way forward, then back."""
        if self.given:
            return self.given
        forwards = [("y", row, row.y) for row in self.layers]
        backwards = [("dy", row, row.dy) for row in reversed(self.layers)]
        for what, row, flow in forwards + backwards:
            if flow.wrong >= 0:
                return f"{what} of {row.path or '.'} {row.name}, entry {int(flow.wrong)}"
        return "" if np.isfinite(self.loss) else "the loss"

    def to_dict(self) -> dict[str, list[Unchecked]]:
        """Return the table as columns of equal length, for ``pandas.DataFrame``."""
        columns: dict[str, list[Unchecked]] = {
            "path": [row.path for row in self.layers],
            "layer": [row.name for row in self.layers],
        }
        for i, way in enumerate(("y", "dy"), 2):
            for name in Flow._fields:
                columns[f"{way}_{name}"] = [getattr(row[i], name) for row in self.layers]
        return columns

    def __repr__(self) -> str:
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


@entry
def trace_activations(
    model: Layer, loss: Loss, params: Params, state: State, batch: Data, *, key: Array
) -> Activations:
    """Trace the activations of a model: a training step, and what flows through every layer.

    For the output y of every layer, and for the cotangent dy that comes back to it: norm, mean and
    standard deviation; the fraction of dead units, which are zero for the whole batch; and the
    first entry that is not finite, in x, parameters and state too. A norm of dy that shrinks from
    layer to layer towards the input is a vanishing gradient. The cotangents are those of the manual
    gradients; every copy in a `repeat` has a row.

    Args:
        model: a layer or model.
        loss: a loss, as in ``fnn.losses.cross_entropy()``.
        params: the parameters.
        state: the state of the layers.
        batch: ``(x, target)`` or ``(x, target, weights)``.
        key: the randomness of the layers.
    Raises:    InputError for what is no layer, loss, batch or key, and for parameters and state of
        another model.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model = fnn.serial(fnn.dense(3), fnn.relu(), fnn.dense(2))
    >>> x = jax.random.normal(jax.random.key(1), (8, 4))
    >>> params, state = model.init(jax.random.key(0), x)
    >>> params[0]["bias"] = jnp.array([-100.0, 0.0, 0.0])
    >>> run = model, fnn.losses.squared_error(), params, state, (x, x[:, :2])
    >>> trace = fnn.trace_activations(*run, key=jax.random.key(2))
    >>> [(row.name, round(row.y.dead, 2)) for row in trace.layers]
    [('dense', 0.0), ('relu', 0.33), ('dense', 0.0)]

    """
    value_and_grad(model, loss)  # for its checks
    (x, target, weights), key = read_batch(batch), check.key(key)
    check_place(model, params, state, x)
    structure, numbers = split(model=model, loss=loss)
    value, seen, wrong = _run(structure, numbers, params, state, x, target, weights, key)
    rows = tuple(_rows(model, jax.tree.map(np.asarray, seen)))
    return Activations(rows, float(value), _first_given(*wrong))


def _first_given(x: Array, place: Mapping[str, PyTree]) -> str:
    """Return which entry of what the run was given is the first not to be finite, ``""`` for none.

    Args:
        x: the position of that of x, -1 for none.
        place: likewise that of every array of the parameters and the state.
    """
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/"): position
        for path, position in jax.tree.leaves_with_path(place)
    }
    wrong = (f"{name}, entry {at}" for name, at in ({"x": x} | named).items() if at >= 0)
    return next(wrong, "")


@functools.partial(jax.jit, static_argnums=0)
def _run(
    structure: Structure, numbers: Mapping[str, Scalar], *run: Unchecked
) -> tuple[Scalar, PyTree, tuple[Array, PyTree]]:
    """Return the objective, what the layers see on the way to its gradients, and what is given."""
    params, state, x, *_ = run
    place = {"params": params, "state": state}
    given = _flow(x, _present(x)).wrong, jax.tree.map(lambda a: _flow(a, [None]).wrong, place)
    made = structure.build(numbers)
    watched = map_layers(lambda path, layer: _watched(layer), made["model"])
    (value, _), (seen, _) = manual_gradients(watched, made["loss"], *run)
    return value, seen, given


class _Seen(NamedTuple):
    """What a watched layer returns in place of the gradient of its parameters."""

    y: Flow
    dy: Flow


def _watched(layer: Layer) -> Layer:
    """Return a layer that hands out what it sees where the gradient of its parameters would go.

    Combinators pass that on untouched, out of loops and recomputations too.
    """

    def forward(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        y, state, residuals = layer.forward(params, state, x, key=key, train=train)
        present = _present(y)
        return y, state, (residuals, _flow(y, present), present)

    def backward(params: Params, residuals: Residuals, dy: Cotangent, /) -> tuple[_Seen, Cotangent]:
        _, dx = layer.backward(params, residuals[0], dy)
        return _Seen(residuals[1], _flow(dy, residuals[2])), dx

    return Layer(layer.init, layer.apply, forward, backward)


def _present(tree: PyTree) -> list[Array | None]:
    """Return for each floating array of a tree which steps of it are there; None for all."""
    found: list[Array | None] = []
    for one in jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, Sequence)):
        floats = len(jax.tree.leaves(inexact_leaves(one)))
        is_sequence = isinstance(one, Sequence)
        values = len(jax.tree.leaves(inexact_leaves(one.values))) if is_sequence else 0
        found += [step_mask(one)] * values + [None] * (floats - values)
    return found


def _flow(tree: PyTree, present: list[Array | None]) -> Flow:
    """Return the statistics of a tree, of the steps that are there."""
    leaves: list[Array] = jax.tree.leaves(inexact_leaves(tree))
    if len(present) != len(leaves):
        present = [None] * len(leaves)
    pairs = [
        (leaf, _like(leaf, mask)) for leaf, mask in zip(leaves, present, strict=True) if leaf.size
    ]
    if not pairs:
        none = jnp.float32(0)
        return Flow(none, none, none, none, jnp.int32(-1))
    # NumPy's promotion, which JAX's may be set to refuse.
    dtype = np.result_type(np.float32, *(leaf.dtype for leaf, _ in pairs))
    there = jnp.concatenate([mask.ravel() for _, mask in pairs])
    flat = jnp.concatenate([leaf.ravel().astype(dtype) for leaf, _ in pairs])
    flat = jnp.where(there, flat, 0)
    wrong = ~jnp.isfinite(flat)
    dead = [((leaf == 0) | ~mask).all(tuple(range(leaf.ndim - 1))).ravel() for leaf, mask in pairs]
    # The squares of very large and very small values would be infinite, or vanish.
    size = jnp.abs(flat).max()
    size = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    scaled, count = flat / size, jnp.maximum(there.sum(), 1).astype(dtype)
    mean = scaled.sum() / count
    return Flow(
        size * jnp.linalg.norm(scaled),
        size * mean,
        size * jnp.linalg.norm(jnp.where(there, scaled - mean, 0)) / jnp.sqrt(count),
        jnp.concatenate(dead).mean(dtype=jnp.float32),
        jnp.where(wrong.any(), jnp.argmax(wrong).astype(jnp.int32), -1),
    )


def _like(leaf: Array, mask: Array | None) -> Array:
    """Return which entries of an array (B, T, ...) are there, by its steps (B, T)."""
    if mask is None:
        return jnp.ones(leaf.shape, bool)
    return jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (leaf.ndim - 2)), leaf.shape)


def _rows(
    layer: Layer, seen: PyTree, path: str = "", index: tuple[int, ...] = ()
) -> Iterator[LayerFlow]:
    """Yield the rows of a model in the order in which its layers run, copy after copy."""
    inside = children(layer)
    if not inside:
        y, dy = jax.tree.map(lambda a: a[index].item(), (seen.y, seen.dy))
        copy = "".join(f"[{i}]" for i in index)
        yield LayerFlow(path + copy, layer.name, y, dy)
        return
    copies = [index] if layer.copies is None else [(*index, i) for i in range(layer.copies)]
    for at in copies:
        for name, child in inside.items():
            yield from _rows(child, part(seen, name), join(path, name), at)
