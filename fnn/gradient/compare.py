"""Manual against automatic gradients of a whole model: how equal they are, and what they cost."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from fnn.gradient.check import Agreement, agreements, largest, normal_like
from fnn.gradient.numeric import with_doubt
from fnn.gradient.objective import objective_of, pull_back, unpack
from fnn.gradient.tolerance import difference, rounding
from fnn.layer import Array, Key, Layer, PyTree, floating, merged
from fnn.losses import Loss
from fnn.model import layers_by_path
from fnn.outline import layer_name, layer_shapes, residual_bytes, unique_bytes
from fnn.table import in_bytes, table

_SAMPLES = 8
_ROUNDS = 9


class Leaf(NamedTuple):
    """One leaf of the gradient, by every way of computing it.

    `norm` is its size; the others are largest differences, relative to the largest number of the
    whole gradient: `manual_auto` between the two in the working precision, `manual` and `auto` of
    each against auto in float64, `numeric` of central differences against the same, at some places.
    """

    name: str
    norm: float
    manual_auto: Agreement
    manual: Agreement
    auto: Agreement
    numeric: float


class Cost(NamedTuple):
    """What a layer costs, forward and backward: median time, and bytes kept in between."""

    path: str
    name: str
    manual_seconds: float
    auto_seconds: float
    manual_bytes: int
    auto_bytes: int


class Comparison(NamedTuple):
    """Manual, automatic and numeric gradients side by side; prints as two tables."""

    leaves: tuple[Leaf, ...]
    costs: tuple[Cost, ...]
    dtype: str
    bound: float
    numeric_bound: float

    @property
    def agrees(self) -> bool:
        """Whether manual equals auto and float64 within rounding, and numeric within its error."""
        return all(
            leaf.manual_auto.error <= self.bound
            and leaf.manual.error <= self.bound
            and leaf.numeric <= self.numeric_bound
            for leaf in self.leaves
        )

    def __str__(self) -> str:
        rows = [
            (
                leaf.name,
                f"{leaf.norm:.2e}",
                f"{leaf.manual_auto.error:.1e}",
                f"{leaf.manual.error:.1e}",
                f"{leaf.auto.error:.1e}",
                f"{leaf.numeric:.1e}",
            )
            for leaf in self.leaves
        ]
        header = ("gradient", "size", "manual-auto", "manual-f64", "auto-f64", "numeric-f64")
        worst = max(leaf.manual_auto.error for leaf in self.leaves)
        relation = "equals" if self.agrees else "DIFFERS FROM"
        verdict = (
            f"manual {relation} auto: they differ by {worst:.1e} at most, in {self.dtype};"
            f" rounding\nallows {self.bound:.1e}. f64 is auto in float64; numeric is by central"
            " differences in it."
        )
        parts = [table(header, rows), verdict]
        if self.costs:
            costs = [
                (
                    cost.path or ".",
                    cost.name,
                    f"{cost.manual_seconds * 1e3:.3f}",
                    f"{cost.auto_seconds * 1e3:.3f}",
                    in_bytes(cost.manual_bytes),
                    in_bytes(cost.auto_bytes),
                )
                for cost in self.costs
            ]
            columns = ("path", "layer", "manual ms", "auto ms", "manual keeps", "auto keeps")
            parts.append("\n" + table(columns, costs))
        return "\n".join(parts)


def compare(
    model: Layer,
    loss: Loss,
    params: PyTree,
    state: PyTree,
    batch: Any,
    *,
    key: Key = None,
    time: bool = True,
) -> Comparison:
    """Compare the hand-derived gradient of a model with `jax.grad`, and both with float64.

    The gradient of the mean loss of one batch, in training mode, for every leaf of the parameters
    and for x. Four ways: manual and auto in the precision of the parameters; auto in float64, which
    tells the error that each of the two has; central differences in float64, at some places of
    every leaf. Errors are relative to the largest number of the whole gradient. With `time`, every
    layer is also run both ways by itself, on random inputs of its shape: the median time of forward
    and backward in one compiled program, and the bytes kept in between.

    `batch` is ``(x, target)`` or ``(x, target, weights)``; `key` feeds the layers' randomness, the
    same for all ways.

    >>> import fnn, jax
    >>> x = jax.random.normal(jax.random.key(1), (8, 3))
    >>> model, loss = fnn.serial(fnn.dense(4), fnn.tanh(), fnn.dense(2)), fnn.losses.squared_error()
    >>> params, state = model.init(jax.random.key(0), x)
    >>> comparison = fnn.compare(model, loss, params, state, (x, x[:, :2]), time=False)
    >>> comparison.agrees, [leaf.name for leaf in comparison.leaves]
    (True, ['params/0/bias', 'params/0/weight', 'params/2/bias', 'params/2/weight', 'x'])
    """
    x, target, weights = unpack(batch)
    with jax.default_matmul_precision("highest"):
        run = (params, state, x, target, weights, key)
        manual = jax.jit(lambda *run: pull_back(model, loss, *run)[1])(*run)
        auto = jax.jit(_auto, static_argnums=(0, 1))(model, loss, *run)
        with jax.enable_x64(True):
            wide = (*_widen((params, state, x)), target, _widen(weights), key)
            reference = jax.jit(_auto, static_argnums=(0, 1))(model, loss, *wide)
            numeric, doubt = _numeric_errors(model, loss, wide, reference)
    dtype = jnp.result_type(*jax.tree.leaves(params) or [x])
    # The longest sum runs over the batch or over the inputs of a layer; the model chains them.
    layers = layer_shapes(model, params, state, x)
    widest = max(max(a.shape[-1:] + a.shape[:1]) for a in jax.tree.leaves(layers) if a.shape)
    bound = rounding(dtype, widest)
    rows = zip(
        agreements(manual, auto, "auto", bound),
        agreements(manual, reference, "float64", bound),
        agreements(auto, reference, "float64", bound),
        jax.tree.leaves(manual),
        numeric,
        strict=True,
    )
    leaves = tuple(
        Leaf(
            first.leaf.removeprefix("d"),
            float(jnp.linalg.norm(jnp.ravel(gradient))),
            first,
            second,
            third,
            fourth,
        )
        for first, second, third, gradient, fourth in rows
    )
    costs = _costs(model, layers, key) if time else ()
    return Comparison(leaves, costs, dtype.name, bound, difference("float64", widest, doubt))


def _auto(model: Layer, loss: Loss, *run: Any) -> tuple[PyTree, Any]:
    params, state, x, target, weights, key = run

    def objective(params: PyTree, floats: Any) -> Array:
        x_again = merged(floats, x)
        return objective_of(model, loss, params, state, x_again, target, weights, key)[0]

    return jax.grad(objective, (0, 1))(params, floating(x))


def _widen(tree: PyTree) -> PyTree:
    def wide(a: Any) -> Any:
        floating = jnp.issubdtype(a.dtype, jnp.floating)
        return jnp.asarray(np.asarray(a), jnp.float64) if floating else a

    return jax.tree.map(wide, tree)


def _numeric_errors(
    model: Layer, loss: Loss, run: Any, reference: Any
) -> tuple[list[float], float]:
    """Return the error of central differences at a few places of every leaf, and their doubt.

    Both are relative to the largest number of the gradient. Half of the places
    are those of the largest gradient, half are spread evenly over the leaf.
    """
    params, state, x, target, weights, key = run
    flat, unravel = ravel_pytree((params, floating(x)))
    right = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(reference)]
    begins = np.cumsum([0, *(leaf.size for leaf in right)])
    places = [
        np.union1d(
            np.argsort(np.abs(leaf))[-_SAMPLES // 2 :],
            np.linspace(0, leaf.size - 1, _SAMPLES // 2).astype(int),
        )
        for leaf in right
    ]

    def objective(flat: Array) -> Array:
        params, floats = unravel(flat)
        x_again = merged(floats, x)
        return objective_of(model, loss, params, state, x_again, target, weights, key)[0]

    indices = np.concatenate([begin + i for begin, i in zip(begins, places, strict=False)])
    found, doubts = jax.jit(lambda flat, at: with_doubt(objective, flat, at))(flat, indices)
    scale = largest(right) or 1.0
    by_leaf = np.split(np.asarray(found), np.cumsum([len(i) for i in places])[:-1])
    errors = [
        largest(values - leaf[i]) / scale
        for values, leaf, i in zip(by_leaf, right, places, strict=True)
    ]
    return errors, largest(doubts) / scale


def _costs(model: Layer, shapes: dict[str, tuple[Any, Any]], key: Key) -> tuple[Cost, ...]:
    layers = layers_by_path(model)
    key = jax.random.key(0) if key is None else key
    costs = []
    for path, (x, _) in shapes.items():
        layer = layers[path]
        (manual, auto), (kept, saved) = _measure(layer, x, key)
        name = layer_name(layer)
        costs.append(Cost(path, name, manual, auto, kept, saved))
    return tuple(costs)


def _measure(layer: Layer, spec: Any, key: Array) -> tuple[list[float], list[int]]:
    """Time one layer both ways, in turns, and count what each keeps for the backward pass."""

    def apply(params: PyTree, state: PyTree, x: Any, key: Array) -> Any:
        return layer.apply(params, state, x, key=key, train=True)[0]

    def transposed(params: PyTree, state: PyTree, x: Any, key: Array) -> Any:
        def function(params: PyTree, floats: Any) -> Any:
            return floating(apply(params, state, merged(floats, x), key))

        return jax.vjp(function, params, floating(x))

    def manual(params: PyTree, state: PyTree, x: Any, key: Array, dy: Any) -> Any:
        y, _, residuals = layer.forward(params, state, x, key=key, train=True)
        return y, layer.backward(params, residuals, dy)

    def auto(params: PyTree, state: PyTree, x: Any, key: Array, dy: Any) -> Any:
        y, transpose = transposed(params, state, x, key)
        return y, transpose(dy)

    def saved(params: PyTree, state: PyTree, x: Any, key: Array) -> list[Any]:
        return jax.tree.leaves(transposed(params, state, x, key)[1])

    # Any index and any length may be 1.
    x = merged(normal_like(key, floating(spec)), jax.tree.map(jnp.ones_like, spec))
    params, state = layer.init(key, x)
    args = (params, state, x, key)
    dy = normal_like(key, floating(jax.eval_shape(apply, *args)))
    ways = [jax.jit(manual), jax.jit(auto)]
    spent: list[list[float]] = [[], []]
    for way in ways:
        jax.block_until_ready(way(*args, dy))
    for _ in range(_ROUNDS):
        for way, seconds in zip(ways, spent, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(way(*args, dy))
            seconds.append(time.perf_counter() - began)
    kept = sum(residual_bytes(layer, *args).values())
    return [float(np.median(seconds)) for seconds in spent], [kept, sum(unique_bytes(saved, *args))]
