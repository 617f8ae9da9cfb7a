"""A model used: its predictions, and how good they are."""

from __future__ import annotations

import functools
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fnn._core.arrays import require_arrays
from fnn._core.description import Structure, split
from fnn._core.errors import entry, naming
from fnn._core.place import check_place
from fnn._core.types import Array, Data, Input, Output, Params, Scalar, State, Target
from fnn.gradient.objective import Batch, fill
from fnn.layer import Layer, require_layer
from fnn.losses import Loss
from fnn.losses._loss import checked_weights, counted_weights, left_out
from fnn.optim.optimizer import eval_params
from fnn.train._gathering import gathering, tied
from fnn.train.data.batch import check_batch_size, check_data, check_finite, in_batches, length
from fnn.train.metrics import Metric, Metrics, check_metrics, values_of
from fnn.train.sharding import Layout, Sharding, layout_in_use
from fnn.train.step import TrainState

_Rows = TypeVar("_Rows", Input, Batch)


@entry
def predict(
    model: Layer,
    params: Params,
    state: State,
    x: Input,
    *,
    batch_size: int = 256,
    mesh: Mesh | None = None,
    sharding: Sharding | None = None,
) -> Output:
    """Return the model's outputs for all of x, out of training mode, batch by batch.

    A ragged last batch is computed as it is.

    Args:
        model: the layer.
        params: its parameters.
        state: what its layers remember.
        x: an array or a tree of arrays.
        batch_size: how many examples at a time, 1 or more.
        mesh: devices, as in `fnn.fit`: every batch is split over the first axis. None for the mesh
            that the parameters lie on, if they do.
        sharding: where parameters are to lie, as in `fnn.fit`; None for where they lie, and whole
            on every device for those that do not lie on this mesh. What lies in parts over the
            first axis is gathered layer by layer, and forgotten.
    Shapes:    x (n, ...), the result (n, ...), on the device, or whole on every device of the mesh
    Raises:    InputError for an empty x, one that is not finite, a batch size below 1, for
        parameters and state of another model, and for what is no mesh and no sharding of these.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model = fnn.relu()
    >>> predict(model, (), (), jnp.array([-1.0, 2.0, 3.0]), batch_size=2)
    Array([0., 2., 3.], dtype=float32)

    """
    require_layer(model)
    x = require_arrays(x)
    length(x)
    check_batch_size(batch_size)
    check_finite("x", x)
    check_place(model, params, state, x)
    structure, numbers = split(model=model)
    x, layout = jax.tree.map(jnp.asarray, x), layout_in_use(params, mesh, sharding)
    if layout is not None:
        params, (state, x) = layout.put_params(params), layout.put_whole((state, x))
    return _predict(structure, numbers, params, state, x, batch_size, layout)


@functools.partial(jax.jit, static_argnames=("structure", "batch_size", "layout"))
def _predict(
    structure: Structure,
    numbers: dict[str, Scalar],
    params: Params,
    state: State,
    x: Input,
    batch_size: int,
    layout: Layout | None,
) -> Output:
    """Return the outputs of all batches, one after the other."""
    model: Layer = structure.build(numbers)["model"]
    model = model if layout is None else gathering(layout, model, params)

    def outputs(rows: Input) -> Output:
        here, rows = _placed(layout, params, rows)
        return model.apply(here, state, rows)[0]

    parts = in_batches(outputs, x, batch_size)
    flat = [jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), part) for part in parts]
    y = jax.tree.map(lambda *pieces: jnp.concatenate(pieces), *flat)
    return y if layout is None else layout.replicated(y)


def _placed(layout: Layout | None, params: Params, rows: _Rows) -> tuple[Params, _Rows]:
    """Return parameters and rows of a batch where they are to be used."""
    if layout is None:
        return params, rows
    rows = layout.split(rows)
    return tied(params, rows), rows


@entry
def evaluate(
    model: Layer,
    loss: Loss,
    params: Params,
    state: State,
    data: Data,
    *,
    metrics: Metrics | None = None,
    batch_size: int = 256,
    mesh: Mesh | None = None,
    sharding: Sharding | None = None,
) -> dict[str, float]:
    """Return the mean loss and the mean of every metric over the data, out of training mode.

    All means are weighted, and taken in float32 or better over the values of all examples. What has
    the weight 0 is left out, whatever it holds; targets that the loss ignores are left out of the
    metrics too.

    Args:
        model: the layer.
        loss: compares its outputs with the targets.
        params: its parameters.
        state: what its layers remember.
        data: ``(x, target)`` or ``(x, target, weights)``, one weight for each value of the loss.
        metrics: functions ``(prediction, target) -> values`` of one value for each example, such as
            `fnn.accuracy`, or losses, by names other than ``"loss"``.
        batch_size: how many examples at a time, 1 or more; a ragged last batch counts by its
            examples.
        mesh: devices that every batch is split over, as in `predict`.
        sharding: where parameters are to lie, as in `predict`.
    Raises:    InputError as `fnn.fit` does for its data, and for metrics that are none.

    >>> import fnn, jax.numpy as jnp
    >>> scores, labels = jnp.array([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0]]), jnp.array([0, 1, 0])
    >>> result = evaluate(
    ...     fnn.identity(), fnn.losses.cross_entropy(), (), (), (scores, labels),
    ...     metrics={"accuracy": fnn.accuracy}, batch_size=2,
    ... )
    >>> {name: round(value, 3) for name, value in result.items()}
    {'loss': 0.794, 'accuracy': 0.667}

    """
    check_batch_size(batch_size)
    check_metrics(metrics)
    batch = check_data(model, loss, params, state, data, metrics)
    check_place(model, params, state, batch.x)
    layout = layout_in_use(params, mesh, sharding)
    if layout is not None:
        params, (state, batch) = layout.put_params(params), layout.put_whole((state, batch))
    return run_evaluation(model, loss, params, state, batch, metrics, batch_size, layout)


def run_evaluation(
    model: Layer,
    loss: Loss,
    params: Params,
    state: State,
    data: Batch,
    metrics: Metrics | None,
    batch_size: int,
    layout: Layout | None = None,
) -> dict[str, float]:
    """Evaluate on data that was checked before.

    Args:
        model: the layer.
        loss: compares its outputs with the targets.
        params: its parameters.
        state: what its layers remember.
        data: what `check_data` returned.
        metrics: functions or losses by name; None for none.
        batch_size: how many examples at a time, 1 or more.
        layout: where all that lies on a mesh; None where there is none.
    """
    structure, numbers = _split(model, loss, metrics)
    found = _evaluate(structure, numbers, params, state, data, batch_size, layout)
    return {name: float(found[name]) for name in ("loss", *(metrics or {}))}


class Evaluation(NamedTuple):
    """Evaluation of a train state, at the parameters that the optimizer would have scored.

    Args:
        model: the layer.
        loss: compares its outputs with the targets.
        data: what `check_data` returned.
        metrics: functions or losses by name; None for none.
        batch_size: how many examples at a time, 1 or more.
        layout: where all that lies on a mesh; None where there is none.
    """

    model: Layer
    loss: Loss
    data: Batch
    metrics: Metrics | None
    batch_size: int
    layout: Layout | None

    def __call__(self, train_state: TrainState) -> dict[str, float]:
        params = eval_params(train_state.opt_state, train_state.params)
        return run_evaluation(
            self.model, self.loss, params, train_state.state, self.data, self.metrics,
            self.batch_size, self.layout,
        )  # fmt: skip

    def compile(self, train_state: TrainState) -> None:
        """Compile the program, which is found again when it is called, and run nothing."""
        params = eval_params(train_state.opt_state, train_state.params)
        structure, numbers = _split(self.model, self.loss, self.metrics)
        _evaluate.lower(
            structure, numbers, params, train_state.state, self.data, self.batch_size, self.layout
        ).compile()


def _split(
    model: Layer, loss: Loss, metrics: Metrics | None
) -> tuple[Structure, dict[str, Scalar]]:
    """Return what is evaluated without its numbers, and these."""
    return split(model=model, functions={"loss": loss, **check_metrics(metrics)})


def means(
    structure: Structure,
    numbers: dict[str, Scalar],
    params: Params,
    state: State,
    data: Batch,
    batch_size: int,
    layout: Layout | None = None,
) -> dict[str, Array]:
    """Return the weighted means of loss and metrics, as a pure function.

    Args:
        structure: model, and loss and metrics as functions by name, without their numbers.
        numbers: these.
        params: the parameters of the model.
        state: what its layers remember.
        data: what `check_data` returned.
        batch_size: how many examples at a time, 1 or more.
        layout: where all that lies on a mesh; None where there is none.
    """
    made = structure.build(numbers)
    loss: Loss = made["functions"]["loss"]
    model = made["model"] if layout is None else gathering(layout, made["model"], params)

    def sums(batch: Batch) -> dict[str, tuple[Array, Array]]:
        here, batch = _placed(layout, params, batch)
        counted = counted_weights(loss, batch.target, batch.weights)
        prediction, _ = model.apply(here, state, fill(batch.x, counted))
        return {
            name: _weighted_sum(
                values_of(name, metric, prediction, batch.target),
                _metric_weights(metric, batch.target, counted),
                batch.weights,
            )
            for name, metric in made["functions"].items()
        }

    parts = in_batches(sums, data, batch_size)
    totals = jax.tree.map(lambda *pieces: jnp.concatenate(pieces).sum(), *parts)
    return {name: total / jnp.where(n == 0, 1, n) for name, (total, n) in totals.items()}


_evaluate = jax.jit(means, static_argnames=("structure", "batch_size", "layout"))


def _metric_weights(metric: Metric, target: Target, counted: Array | None) -> Array | None:
    """Return the weights of a metric: 0 where the loss ignores the target, or the metric does."""
    return counted_weights(metric, target, counted) if isinstance(metric, Loss) else counted


def _weighted_sum(
    values: Array, counted: Array | None, weights: Array | None
) -> tuple[Array, Array]:
    """Return the weighted sum of a metric's values, and that of the weights."""
    # What a loss of several values ignores says nothing of a metric with one for each example.
    if counted is None or (weights is None and np.shape(counted) != values.shape):
        return values.sum(), jnp.asarray(values.size, values.dtype)
    with naming("fnn.losses.mean"):
        share = checked_weights(counted, values)
    return left_out(share, share * values).sum(), share.sum()
