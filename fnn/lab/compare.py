"""Manual against automatic gradients of a whole model: how equal they are, and what they cost."""

from __future__ import annotations

import functools
import math
import textwrap
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, entry
from fnn._core.place import check_place
from fnn._core.table import table
from fnn._core.tree import combine, inexact_leaves
from fnn._core.types import Array, Data, Grads, Params, PyTree, State, Unchecked
from fnn.gradient.objective import (
    auto_gradients,
    manual_gradients,
    objective_in,
    value_and_grad,
)
from fnn.lab._directions import Direction, directions, draw_signs
from fnn.lab._input import read_batch
from fnn.lab._measure import Measurement, both_ways, machine
from fnn.lab.agreement import Agreement, agreements, largest
from fnn.lab.check import widened
from fnn.lab.cost import WIDTH, Cost, cost_columns, cost_note, cost_tables, layer_costs, ways_of
from fnn.lab.summary import layer_shapes
from fnn.lab.tolerance import difference, rounding
from fnn.layer import Layer
from fnn.losses import Loss
from fnn.train.precision import narrowest

_DIRECTIONS = 3


class Leaf(NamedTuple):
    """Leaf: one array of the gradient, by every way of computing it.

    Errors are relative to the largest entry of the whole gradient.

    Args:
        name: its path.
        norm: its norm.
        manual_auto: how manual agrees with auto in the working precision.
        manual: how manual in the working precision agrees with auto in float64.
        auto: how auto in the working precision agrees with auto in float64.
        float64: how manual agrees with auto, both in float64.

    """

    name: str
    norm: float
    manual_auto: Agreement
    manual: Agreement
    auto: Agreement
    float64: Agreement


class Comparison(NamedTuple):
    """Comparison: manual, automatic and numeric gradients side by side; prints as tables.

    Args:
        leaves: how equal the gradients are, leaf by leaf.
        directions: how equal the automatic gradient and differences are, along random directions.
        costs: what every layer and, last, the whole model costs; empty where not measured.
        dtype: the working precision.
        bound: the error that rounding allows in it.
        numeric_bound: the error that a difference may have, relative to the norm of the gradient.
        machine: the machine of the measurements.

    """

    leaves: tuple[Leaf, ...]
    directions: tuple[Direction, ...]
    costs: tuple[Cost, ...]
    dtype: str
    bound: float
    numeric_bound: float
    machine: str

    @property
    def agrees(self) -> bool:
        """Whether manual equals auto and float64 within rounding, and numeric within its error."""
        leaves = all(
            leaf.manual_auto.agrees and leaf.manual.agrees and leaf.float64.agrees
            for leaf in self.leaves
        )
        return leaves and all(
            row.error <= self.numeric_bound < float("inf")
            for row in self.directions
            if not row.kink
        )

    def to_dict(self) -> dict[str, Unchecked]:
        """Return everything as plain values; leaves, directions and costs as columns.

        ``pandas.DataFrame(comparison.to_dict()["leaves"])`` is a frame of one row a leaf: its
        errors and, for each two ways, the index at which they differ most, the two values there,
        and their ratio. Seconds are medians; those of every round are in `costs`.
        """
        leaves: dict[str, list[Unchecked]] = {
            "leaf": [leaf.name for leaf in self.leaves],
            "norm": [leaf.norm for leaf in self.leaves],
        }
        for way in ("manual_auto", "manual", "auto", "float64"):
            found: list[Agreement] = [getattr(leaf, way) for leaf in self.leaves]
            for column in ("error", "place", "value", "reference", "ratio", "agrees", "guess"):
                leaves[f"{way}_{column}"] = [getattr(row, column) for row in found]
        plain = {"agrees": self.agrees, "dtype": self.dtype, "bound": self.bound}
        return plain | {
            "numeric_bound": self.numeric_bound,
            "machine": self.machine,
            "leaves": leaves,
            "directions": {
                column: [getattr(row, column) for row in self.directions]
                for column in Direction._fields
            },
            "costs": cost_columns(self.costs),
        }

    def __repr__(self) -> str:
        rows = [
            (
                leaf.name,
                f"{leaf.norm:.2e}",
                f"{leaf.manual_auto.error:.1e}",
                f"{leaf.manual.error:.1e}",
                f"{leaf.auto.error:.1e}",
                f"{leaf.float64.error:.1e}",
            )
            for leaf in self.leaves
        ]
        header = ("gradient", "size", "manual-auto", "manual-f64", "auto-f64", "both f64")
        relation = "equals" if self.agrees else "DIFFERS FROM"
        working, exact = (
            _worst([getattr(leaf, way) for leaf in self.leaves])
            for way in ("manual_auto", "float64")
        )
        verdict = (
            f"manual {relation} auto: they differ by {working.error:.1e} at most, in {self.dtype};"
            f" rounding allows {working.bound:.1e}. Both in float64 differ by {exact.error:.1e};"
            f" rounding allows {exact.bound:.1e}. f64 is auto in float64."
        )
        texts = [textwrap.fill(text, WIDTH) for text in (verdict, self._numeric()) if text]
        parts = ["\n".join([table(header, rows, WIDTH), *texts, *self._wrong()])]
        if self.costs:
            parts += [cost_tables(self.costs), cost_note(self.costs, self.machine)]
        return "\n\n".join(parts)

    def _wrong(self) -> list[str]:
        """Say of every leaf in error where and how; in float64 a mistake shows best."""
        wrong = []
        for leaf in self.leaves:
            ways = leaf.float64, leaf.manual, leaf.manual_auto
            wrong += [way.sentence() for way in ways if not way.agrees][:1]
        return wrong

    def _numeric(self) -> str:
        """Say what differences show."""
        told = [row for row in self.directions if not row.kink]
        by_name = {row.of: sum(other.of == row.of for other in told) for row in self.directions}
        silent = [name for name, count in by_name.items() if not count]
        parts = []
        if told:
            worst = max(told, key=lambda row: (row.error != row.error, row.error))
            parts.append(
                f"Differences along {len(told)} random directions differ from auto by"
                f" {worst.error:.1e} of its norm at most, in {worst.of}; {self.numeric_bound:.1e}"
                " is allowed."
            )
        if silent:
            parts.append(f"At a kink in {', '.join(silent)}: differences say nothing there.")
        return " ".join(parts)


def _worst(rows: list[Agreement]) -> Agreement:
    """Return the row of the largest error: a NaN is worse than any, and equal to none."""
    return max(rows, key=lambda row: (row.error != row.error, row.error))


@entry
def compare(
    model: Layer,
    loss: Loss,
    params: Params,
    state: State,
    batch: Data,
    *,
    key: Array,
    by_leaf: bool = False,
    costs: bool = False,
) -> Comparison:
    """Compare the manual gradient of a model with `jax.grad` and differences, in float64 too.

    The gradient of the mean loss of one batch, in training mode, for every leaf of the parameters
    and for x. The result prints; `Comparison.to_dict` gives it as columns for pandas, and
    `fnn.plot.gradients` draws it. Each check sees what another cannot:

    - *Manual against auto in float64* looks at every entry of every leaf, to some 13 digits of the
      largest entry of the whole gradient: a mistake in a single entry shows, however small. What it
      cannot see is a mistake of both, such as an `apply` with a custom derivative that is wrong.
    - *Manual and auto in the precision of the parameters against auto in float64* tells what
      rounding does to either, and a mistake that float64 does not make, such as an overflow. What
      is below rounding it cannot see.
    - *Central differences in float64* know nothing but the values of the loss: they are the witness
      of auto. All entries of all parameters move at once, each one way or the other at random, and
      likewise x; the slope must be the product of gradient and direction, to some 8 digits of the
      norm of the gradient. A mistake in a single entry shows there too, if it is no smaller. What
      they cannot see is two mistakes that cancel in all directions; and at a kink, such as
      equal values under a max-pool, a difference is the mean of two slopes and says nothing.

    Args:
        model: a layer or model.
        loss: a loss, as in ``fnn.losses.cross_entropy()``.
        params: the parameters at which gradients are compared.
        state: the state of the layers.
        batch: ``(x, target)`` or ``(x, target, weights)``.
        key: the randomness of the layers, the same for all ways, and of the directions.
        by_leaf: whether each leaf moves by itself, which tells the leaf in which auto is wrong, and
            does not let mistakes in two of them cancel. It evaluates the model 30 times a leaf.
        costs: whether to measure too: every layer by itself, both ways, on random inputs of its
            shape, and the whole model on the batch. The median time of forward and backward in one
            compiled program, its temporary bytes and operations, and the bytes kept in between.
    Raises:    InputError for what is no layer, loss, batch or key, for parameters and state of
        another model, and where there is nothing to differentiate; GradientError where the manual
        gradient has another structure or shape.

    >>> import fnn, jax
    >>> x = jax.random.normal(jax.random.key(1), (8, 3))
    >>> model, loss = fnn.serial(fnn.dense(4), fnn.tanh(), fnn.dense(2)), fnn.losses.squared_error()
    >>> params, state = model.init(jax.random.key(0), x)
    >>> run = model, loss, params, state, (x, x[:, :2])
    >>> comparison = fnn.compare(*run, key=jax.random.key(2))
    >>> comparison.agrees, [leaf.name for leaf in comparison.leaves]
    (True, ['params/0/bias', 'params/0/weight', 'params/2/bias', 'params/2/weight', 'x'])

    """
    value_and_grad(model, loss)  # for its checks
    check.flag(by_leaf, "by_leaf")
    check.flag(costs, "costs")
    batch, key = read_batch(batch), check.key(key)
    check_place(model, params, state, batch.x)
    floats: list[Array] = jax.tree.leaves(inexact_leaves((params, batch.x)))
    if not floats:
        raise InputError("parameters or an x of floating values", "none", "pass a batch of floats")
    run = _Run(params, state, batch.x, batch.target, batch.weights, key)
    dtype = jnp.result_type(*(jax.tree.leaves(inexact_leaves(params)) or floats))
    # The longest sum runs over the batch or over the inputs of a layer; the model chains them.
    layers = layer_shapes(model, params, state, batch.x)
    widest = max(max(a.shape[-1:] + a.shape[:1]) for a in jax.tree.leaves(layers) if a.shape)
    bound = rounding(dtype, widest)
    outputs = sum(math.prod(y.shape) for y in jax.tree.leaves([y for _, y in layers.values()]))
    both = _in_haste if outputs <= _FEW else _optimized
    with jax.default_matmul_precision("highest"):
        working = both(model, loss, run)
        with jax.enable_x64(True):
            wide_run = run._replace(**{
                name: jax.tree.map(widened, getattr(run, name))
                for name in ("params", "state", "x", "weights")
            })  # fmt: skip
            wide = both(model, loss, wide_run)
            found = _directions(model, loss, wide_run, wide.auto, bool(by_leaf), widest)
    shape = tuple(jax.tree.leaves(batch.x)[0].shape)
    exact = rounding(narrowest(model, jnp.float64), widest)
    leaves = _leaves(working, wide, bound, exact, shape)
    doubt = largest([row.doubt for row in found if not row.kink])
    measured: tuple[Cost, ...] = ()
    if costs:
        whole = both_ways(*ways_of(model, loss, run))
        measured = (*layer_costs(model, layers, key), Cost("", "the whole", Measurement(**whole)))
    numeric_bound = difference("float64", widest, doubt)
    return Comparison(leaves, found, measured, dtype.name, bound, numeric_bound, machine())


class _Run(NamedTuple):
    """What the gradients of an objective are functions of."""

    params: Params
    state: State
    x: PyTree
    target: PyTree
    weights: PyTree
    key: Array


class _Gradients(NamedTuple):
    """``(dparams, dx)`` in two ways, in one precision."""

    manual: Grads
    auto: Grads


def _gradients(model: Layer, loss: Loss, run: _Run) -> _Gradients:
    """Compute the gradients both ways: as one program, which shares what they have in common."""
    return _Gradients(manual_gradients(model, loss, *run)[1], auto_gradients(model, loss, *run)[1])


# It runs once. Compiled without optimization it takes a third of the time to compile, and where
# much is computed several times as long to run: up to so many entries of the layers' outputs the
# first is more. The fusion emitters of XLA for CPUs, in the releases measured, take half of the
# rest, and know no option in JAX.
_FEW = 2**24
_MEASURED = {(0, 8), (0, 9), (0, 10)}
_EMITTERS = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__[:2] in _MEASURED else {}
_in_haste = jax.jit(
    _gradients,
    static_argnums=(0, 1),
    compiler_options={"xla_backend_optimization_level": "0", **_EMITTERS},
)
# The first level of optimization takes three quarters of the time of the second.
_OPTIMIZED = functools.partial(
    jax.jit, static_argnums=(0, 1), compiler_options={"xla_backend_optimization_level": "1"}
)
_optimized = _OPTIMIZED(_gradients)


@_OPTIMIZED
def _value(model: Layer, loss: Loss, run: _Run) -> Array:
    """Compute the objective."""
    return objective_in(model, loss, run)(run.params, inexact_leaves(run.x))[0]


def _directions(
    model: Layer, loss: Loss, run: _Run, gradient: Grads, by_leaf: bool, terms: int
) -> tuple[Direction, ...]:
    """Compare auto with differences along random directions."""
    named = {"params": run.params, "x": inexact_leaves(run.x)}
    groups = [
        jax.tree_util.keystr(path if by_leaf else path[:1], simple=True, separator="/")
        for path, _ in jax.tree.leaves_with_path(named)
    ]
    signs = draw_signs(run.key, named, _DIRECTIONS)

    def value(moved: PyTree) -> Array:
        x = combine(moved["x"], run.x)
        found: Array = _value(model, loss, run._replace(params=moved["params"], x=x))
        return found

    return directions(value, named, gradient, signs, groups, terms)


def _leaves(
    working: _Gradients, wide: _Gradients, bound: float, exact: float, shape: tuple[int, ...]
) -> tuple[Leaf, ...]:
    """Compare the gradients leaf by leaf."""
    rows = zip(
        agreements(working.manual, working.auto, "auto", bound, shape),
        agreements(working.manual, wide.auto, "float64", bound, shape),
        agreements(working.auto, wide.auto, "float64", bound, shape),
        agreements(wide.manual, wide.auto, "auto in float64", exact, shape),
        jax.tree.leaves(working.manual),
        strict=True,
    )
    return tuple(
        Leaf(
            ways[0].leaf.removeprefix("d"),
            float(np.linalg.norm(np.asarray(gradient, np.float64))),
            *ways,
        )
        for *ways, gradient in rows
    )
