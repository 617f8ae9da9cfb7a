"""Manual against automatic gradients of a whole model: how equal they are, and what they cost."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from fnn._core.errors import entry
from fnn._core.table import table
from fnn._core.tree import inexact_leaves
from fnn._core.types import Array, Key, PyTree
from fnn.gradient.numeric import jumps, with_doubt
from fnn.gradient.objective import as_batch, auto_gradients, manual_gradients, objective_in
from fnn.lab._measure import Measurement, both_ways, machine
from fnn.lab.comparison import Agreement, agreements, largest
from fnn.lab.cost import WIDTH, Cost, cost_columns, cost_note, cost_tables, layer_costs, ways_of
from fnn.lab.summary import layer_shapes
from fnn.lab.tolerance import difference, rounding
from fnn.layer import Layer
from fnn.losses import Loss

_SAMPLES = 8


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


class Comparison(NamedTuple):
    """Manual, automatic and numeric gradients side by side; prints as tables.

    `leaves` tell how equal they are, `costs` what every layer and, last, the whole model costs.
    """

    leaves: tuple[Leaf, ...]
    costs: tuple[Cost, ...]
    dtype: str
    bound: float
    numeric_bound: float
    machine: str

    @property
    def agrees(self) -> bool:
        """Whether manual equals auto and float64 within rounding, and numeric within its error."""
        return all(
            leaf.manual_auto.error <= self.bound
            and leaf.manual.error <= self.bound
            and leaf.numeric <= self.numeric_bound
            for leaf in self.leaves
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values; ``leaves`` and ``costs`` are columns of equal length.

        ``pandas.DataFrame(comparison.to_dict()["leaves"])`` is a frame of one row a leaf: its
        errors and, for each two ways, the place where they differ most, the two values there, and
        their ratio. Seconds are medians; those of every round are in `costs`.
        """
        leaves: dict[str, list[Any]] = {
            "leaf": [leaf.name for leaf in self.leaves],
            "norm": [leaf.norm for leaf in self.leaves],
            "numeric_error": [leaf.numeric for leaf in self.leaves],
        }
        for way in ("manual_auto", "manual", "auto"):
            found: list[Agreement] = [getattr(leaf, way) for leaf in self.leaves]
            for column in ("error", "place", "value", "reference", "ratio", "agrees", "guess"):
                leaves[f"{way}_{column}"] = [getattr(row, column) for row in found]
        plain = {"agrees": self.agrees, "dtype": self.dtype, "bound": self.bound}
        return plain | {
            "machine": self.machine,
            "leaves": leaves,
            "costs": cost_columns(self.costs),
        }

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
        worst = max((leaf.manual_auto for leaf in self.leaves), key=lambda row: row.error)
        relation = "equals" if self.agrees else "DIFFERS FROM"
        verdict = (
            f"manual {relation} auto: they differ by {worst.error:.1e} at most, in {self.dtype};"
            f" rounding\nallows {self.bound:.1e}. f64 is auto in float64; numeric is by central"
            " differences in it."
        )
        wrong = [leaf.manual.sentence() for leaf in self.leaves if not leaf.manual.agrees]
        parts = ["\n".join([table(header, rows, WIDTH), verdict, *wrong])]
        if self.costs:
            parts += [cost_tables(self.costs), cost_note(self.costs, self.machine)]
        return "\n\n".join(parts)


@entry
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
    layer is also run both ways by itself, on random inputs of its shape, and the whole model on the
    batch: the median time of forward and backward in one compiled program, the temporary bytes and
    the operations of that program, and the bytes kept between forward and backward.

    `batch` is ``(x, target)`` or ``(x, target, weights)``; `key` feeds the layers' randomness, the
    same for all ways. The result prints; `Comparison.to_dict` gives it as columns for pandas, and
    `fnn.plot.gradients` draws it.

    >>> import fnn, jax
    >>> x = jax.random.normal(jax.random.key(1), (8, 3))
    >>> model, loss = fnn.serial(fnn.dense(4), fnn.tanh(), fnn.dense(2)), fnn.losses.squared_error()
    >>> params, state = model.init(jax.random.key(0), x)
    >>> comparison = fnn.compare(model, loss, params, state, (x, x[:, :2]), time=False)
    >>> comparison.agrees, [leaf.name for leaf in comparison.leaves]
    (True, ['params/0/bias', 'params/0/weight', 'params/2/bias', 'params/2/weight', 'x'])
    """
    x, target, weights = as_batch(batch)
    with jax.default_matmul_precision("highest"):
        run = (params, state, x, target, weights, key)
        manual = jax.jit(manual_gradients, static_argnums=(0, 1))(model, loss, *run)[1]
        auto = jax.jit(auto_gradients, static_argnums=(0, 1))(model, loss, *run)[1]
        with jax.enable_x64(True):
            wide = (*_widen((params, state, x)), target, _widen(weights), key)
            reference = jax.jit(auto_gradients, static_argnums=(0, 1))(model, loss, *wide)[1]
            numeric, doubt = _numeric_errors(model, loss, wide, reference)
    dtype = jnp.result_type(*jax.tree.leaves(params) or [x])
    # The longest sum runs over the batch or over the inputs of a layer; the model chains them.
    layers = layer_shapes(model, params, state, x)
    widest = max(max(a.shape[-1:] + a.shape[:1]) for a in jax.tree.leaves(layers) if a.shape)
    bound = rounding(dtype, widest)
    shape = jax.tree.leaves(x)[0].shape
    rows = zip(
        agreements(manual, auto, "auto", bound, shape),
        agreements(manual, reference, "float64", bound, shape),
        agreements(auto, reference, "float64", bound, shape),
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
    costs: tuple[Cost, ...] = ()
    if time:
        whole = both_ways(*ways_of(model, loss, run))
        costs = (*layer_costs(model, layers, key), Cost("", "the whole", Measurement(**whole)))
    numeric_bound = difference("float64", widest, doubt)
    return Comparison(leaves, costs, dtype.name, bound, numeric_bound, machine())


def _widen(tree: PyTree) -> PyTree:
    def wide(a: Any) -> Any:
        inexact_leaves = jnp.issubdtype(a.dtype, jnp.floating)
        return jnp.asarray(np.asarray(a), jnp.float64) if inexact_leaves else a

    return jax.tree.map(wide, tree)


def _numeric_errors(
    model: Layer, loss: Loss, run: Any, reference: Any
) -> tuple[list[float], float]:
    """Return the error of central differences at a few places of every leaf, and their doubt.

    Both are relative to the largest number of the gradient. Half of the places are those of the
    largest gradient, half are spread evenly over the leaf; one at a kink, where a difference is the
    mean of two slopes and no derivative, says nothing, and is left out.
    """
    flat, unravel = ravel_pytree((run[0], inexact_leaves(run[2])))
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
        return objective_in(model, loss, run)(*unravel(flat))[0]

    indices = np.concatenate([begin + i for begin, i in zip(begins, places, strict=False)])
    found, doubts, jump = jax.jit(
        lambda flat, at: (*with_doubt(objective, flat, at), jumps(objective, flat, at))
    )(flat, indices)
    scale = largest(right) or 1.0
    at_places = np.concatenate([leaf[i] for leaf, i in zip(right, places, strict=True)])
    kink = np.asarray(jump) > difference("float64", 1) * scale
    apart = np.where(kink, 0, np.abs(found - at_places))
    by_leaf = np.split(apart, np.cumsum([len(i) for i in places])[:-1])
    errors = [largest(values) / scale for values in by_leaf]
    return errors, largest(np.where(kink, 0, doubts)) / scale
