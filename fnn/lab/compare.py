"""Manual against automatic gradients of a whole model: how equal they are, and what they cost."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from fnn._core import check
from fnn._core.errors import InputError, entry
from fnn._core.place import check_place
from fnn._core.table import table
from fnn._core.tree import inexact_leaves
from fnn._core.types import Array, Data, Grads, Params, PyTree, State, Unchecked
from fnn.gradient.numeric import jumps, with_doubt
from fnn.gradient.objective import (
    auto_gradients,
    manual_gradients,
    objective_in,
    value_and_grad,
)
from fnn.lab._input import read_batch
from fnn.lab._measure import Measurement, both_ways, machine
from fnn.lab.agreement import Agreement, agreements, largest
from fnn.lab.check import widened
from fnn.lab.cost import WIDTH, Cost, cost_columns, cost_note, cost_tables, layer_costs, ways_of
from fnn.lab.summary import layer_shapes
from fnn.lab.tolerance import difference, rounding
from fnn.layer import Layer
from fnn.losses import Loss
from fnn.optim import global_norm

_SAMPLES = 8


class Leaf(NamedTuple):
    """Leaf: one array of the gradient, by every way of computing it.

    Args:
        name: its path.
        norm: its norm.
        manual_auto: how manual agrees with auto in the working precision. Errors are relative to
            the largest entry of the whole gradient.
        manual: how manual agrees with auto in float64.
        auto: how auto agrees with auto in float64.
        numeric: the error of central differences against auto in float64, at some positions.

    """

    name: str
    norm: float
    manual_auto: Agreement
    manual: Agreement
    auto: Agreement
    numeric: float


class Comparison(NamedTuple):
    """Comparison: manual, automatic and numeric gradients side by side; prints as tables.

    Args:
        leaves: how equal the gradients are, leaf by leaf.
        costs: what every layer and, last, the whole model costs; empty where not measured.
        dtype: the working precision.
        bound: the error that rounding allows in it.
        numeric_bound: the error that a central difference may have.
        machine: the machine of the measurements.

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
            leaf.manual_auto.agrees
            and leaf.manual.agrees
            and leaf.numeric <= self.numeric_bound < float("inf")
            for leaf in self.leaves
        )

    def to_dict(self) -> dict[str, Unchecked]:
        """Return everything as plain values; ``leaves`` and ``costs`` are columns of equal length.

        ``pandas.DataFrame(comparison.to_dict()["leaves"])`` is a frame of one row a leaf: its
        errors and, for each two ways, the index at which they differ most, the two values there,
        and their ratio. Seconds are medians; those of every round are in `costs`.
        """
        leaves: dict[str, list[Unchecked]] = {
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
        # A NaN is worse than any error, and equal to none.
        worst = max(
            (leaf.manual_auto for leaf in self.leaves),
            key=lambda row: (row.error != row.error, row.error),
        )
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
    params: Params,
    state: State,
    batch: Data,
    *,
    key: Array,
    time: bool = True,
) -> Comparison:
    """Compare the manual gradient of a model with `jax.grad`, and both with float64.

    The gradient of the mean loss of one batch, in training mode, for every leaf of the parameters
    and for x. Four ways: manual and auto in the precision of the parameters; auto in float64, which
    tells the error that each of the two has; central differences in float64, at some positions of
    every leaf. Errors are relative to the largest entry of the whole gradient. The result prints;
    `Comparison.to_dict` gives it as columns for pandas, and `fnn.plot.gradients` draws it.

    Args:
        model: a layer or model.
        loss: a loss, as in ``fnn.losses.cross_entropy()``.
        params: the parameters at which gradients are compared.
        state: the state of the layers.
        batch: ``(x, target)`` or ``(x, target, weights)``.
        key: the randomness of the layers, the same for all ways.
        time: whether to measure too: every layer by itself, both ways, on random inputs of its
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
    >>> comparison = fnn.compare(*run, key=jax.random.key(2), time=False)
    >>> comparison.agrees, [leaf.name for leaf in comparison.leaves]
    (True, ['params/0/bias', 'params/0/weight', 'params/2/bias', 'params/2/weight', 'x'])

    """
    value_and_grad(model, loss)  # for its checks
    check.flag(time, "time")
    batch, key = read_batch(batch), check.key(key)
    check_place(model, params, state, batch.x)
    floats: list[Array] = jax.tree.leaves(inexact_leaves((params, batch.x)))
    if not floats:
        raise InputError("parameters or an x of floating values", "none", "pass a batch of floats")
    run = _Run(params, state, batch.x, batch.target, batch.weights, key)
    found = _gradients(model, loss, run)
    dtype = jnp.result_type(*(jax.tree.leaves(inexact_leaves(params)) or floats))
    # The longest sum runs over the batch or over the inputs of a layer; the model chains them.
    layers = layer_shapes(model, params, state, batch.x)
    widest = max(max(a.shape[-1:] + a.shape[:1]) for a in jax.tree.leaves(layers) if a.shape)
    bound = rounding(dtype, widest)
    shape = tuple(jax.tree.leaves(batch.x)[0].shape)
    leaves = _leaves(found, bound, shape)
    costs: tuple[Cost, ...] = ()
    if time:
        whole = both_ways(*ways_of(model, loss, run))
        costs = (*layer_costs(model, layers, key), Cost("", "the whole", Measurement(**whole)))
    numeric_bound = difference("float64", widest, found.doubt)
    return Comparison(leaves, costs, dtype.name, bound, numeric_bound, machine())


class _Run(NamedTuple):
    """What the gradients of an objective are functions of."""

    params: Params
    state: State
    x: PyTree
    target: PyTree
    weights: PyTree
    key: Array


class _Gradients(NamedTuple):
    """``(dparams, dx)`` in three ways, and of the fourth the errors by leaf, and their doubt."""

    manual: Grads
    auto: Grads
    wide: Grads
    numeric: list[float]
    doubt: float


def _gradients(model: Layer, loss: Loss, run: _Run) -> _Gradients:
    """Compute the gradients in all ways."""
    with jax.default_matmul_precision("highest"):
        manual = jax.jit(manual_gradients, static_argnums=(0, 1))(model, loss, *run)[1]
        auto = jax.jit(auto_gradients, static_argnums=(0, 1))(model, loss, *run)[1]
        with jax.enable_x64(True):
            params, state, x, weights = jax.tree.map(
                widened, (run.params, run.state, run.x, run.weights)
            )
            wide_run = _Run(params, state, x, run.target, weights, run.key)
            wide = jax.jit(auto_gradients, static_argnums=(0, 1))(model, loss, *wide_run)[1]
            numeric, doubt = _numeric_errors(model, loss, wide_run, wide)
    return _Gradients(manual, auto, wide, numeric, doubt)


def _leaves(found: _Gradients, bound: float, shape: tuple[int, ...]) -> tuple[Leaf, ...]:
    """Compare the gradients leaf by leaf."""
    rows = zip(
        agreements(found.manual, found.auto, "auto", bound, shape),
        agreements(found.manual, found.wide, "float64", bound, shape),
        agreements(found.auto, found.wide, "float64", bound, shape),
        jax.tree.leaves(found.manual),
        found.numeric,
        strict=True,
    )
    return tuple(
        Leaf(
            first.leaf.removeprefix("d"),
            float(global_norm(gradient)),
            first,
            second,
            third,
            fourth,
        )
        for first, second, third, gradient, fourth in rows
    )


def _numeric_errors(
    model: Layer, loss: Loss, run: _Run, reference: Grads
) -> tuple[list[float], float]:
    """Return the error of central differences at some positions of every leaf, and their doubt.

    Both are relative to the largest entry of the gradient. Half of the positions are those of the
    largest gradient, half are spread evenly over the leaf; one at a kink, where a difference is the
    mean of two slopes and no derivative, says nothing, and is left out.
    """
    flat, unravel = ravel_pytree((run.params, inexact_leaves(run.x)))
    right = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(reference)]
    begins = np.cumsum([0, *(leaf.size for leaf in right)])
    chosen = [_positions(leaf) for leaf in right]

    def objective(flat: Array) -> Array:
        return objective_in(model, loss, run)(*unravel(flat))[0]

    indices = np.concatenate([begin + i for begin, i in zip(begins, chosen, strict=False)])
    found, doubts, jump = jax.jit(
        lambda flat, at: (*with_doubt(objective, flat, at), jumps(objective, flat, at))
    )(flat, indices)
    scale = largest(right) or 1.0
    expected = np.concatenate([leaf[i] for leaf, i in zip(right, chosen, strict=True)])
    # A jump that is not finite is no kink: a value is infinite or NaN, and that is to be seen.
    jump = np.asarray(jump)
    kink = np.isfinite(jump) & (jump > difference("float64", 1) * scale)
    apart = np.where(kink, 0, np.abs(found - expected))
    by_leaf = np.split(apart, np.cumsum([len(i) for i in chosen])[:-1])
    errors = [float(values.max(initial=0)) / scale for values in by_leaf]
    return errors, largest(np.where(kink, 0, doubts)) / scale


def _positions(leaf: np.ndarray) -> np.ndarray:
    """Return the positions of a leaf at which differences are taken."""
    if not leaf.size:
        return np.zeros(0, int)
    sharpest = np.argsort(np.abs(leaf))[-_SAMPLES // 2 :]
    even = np.linspace(0, leaf.size - 1, _SAMPLES // 2).astype(int)
    return np.union1d(sharpest, even)
