"""A model used: its predictions, and how good they are."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from fnn._core.description import Structure, split
from fnn._core.errors import entry
from fnn._core.types import Array, PyTree
from fnn.gradient.objective import as_batch
from fnn.layer import Layer
from fnn.losses import Loss
from fnn.train.batch import check_batch_size, check_data, check_finite, in_batches, length
from fnn.train.metrics import Metrics


@entry
def predict(model: Layer, params: PyTree, state: PyTree, x: Any, *, batch_size: int = 256) -> Any:
    """Return the model's outputs for all of x, out of training mode, batch by batch.

    x (n, ...), the result (n, ...) on the device; a ragged last batch is computed as it is.

    Raises `fnn.InputError` for an empty x, one that is not finite, or a batch size below 1.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model = fnn.relu()
    >>> predict(model, (), (), jnp.array([-1.0, 2.0, 3.0]), batch_size=2)
    Array([0., 2., 3.], dtype=float32)
    """
    length(x)
    check_batch_size(batch_size)
    check_finite("x", x)
    structure, numbers = split(model=model)
    return _predict(structure, numbers, params, state, jax.tree.map(jnp.asarray, x), batch_size)


@functools.partial(jax.jit, static_argnames=("structure", "batch_size"))
def _predict(
    structure: Structure,
    numbers: dict[str, Any],
    params: PyTree,
    state: PyTree,
    x: Any,
    batch_size: int,
) -> Any:
    model: Layer = structure.build(numbers)["model"]
    parts = in_batches(lambda rows: model.apply(params, state, rows)[0], x, batch_size)
    flat = [jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), part) for part in parts]
    return jax.tree.map(lambda *pieces: jnp.concatenate(pieces), *flat)


@entry
def evaluate(
    model: Layer,
    loss: Loss,
    params: PyTree,
    state: PyTree,
    data: Any,
    *,
    metrics: Metrics | None = None,
    batch_size: int = 256,
) -> dict[str, float]:
    """Return the mean loss and the mean of every metric over the data, out of training mode.

    `data` is ``(x, target)`` or ``(x, target, weights)``. `metrics` maps names to functions
    ``(prediction, target) -> values`` of one value per example, such as `fnn.accuracy`, or to
    losses. A ragged last batch counts by its examples.

    Raises `fnn.InputError` as `fnn.fit` does for its data.

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
    data = check_data(model, loss, params, state, as_batch(data))
    return run_evaluation(model, loss, params, state, data, metrics, batch_size)


def run_evaluation(
    model: Layer,
    loss: Loss,
    params: PyTree,
    state: PyTree,
    data: Any,
    metrics: Metrics | None,
    batch_size: int,
) -> dict[str, float]:
    """Evaluate on data that was checked before."""
    structure, numbers = split(model=model, functions={"loss": loss, **(metrics or {})})
    means = _evaluate(structure, numbers, params, state, data, batch_size)
    return {name: float(means[name]) for name in ("loss", *(metrics or {}))}


@functools.partial(jax.jit, static_argnames=("structure", "batch_size"))
def _evaluate(
    structure: Structure,
    numbers: dict[str, Any],
    params: PyTree,
    state: PyTree,
    data: Any,
    batch_size: int,
) -> dict[str, Array]:
    made = structure.build(numbers)

    def sums(batch: Any) -> dict[str, tuple[Array, Array]]:
        x, target, weights = batch
        prediction, _ = made["model"].apply(params, state, x)
        results = {}
        for name, function in made["functions"].items():
            apply = function.apply if isinstance(function, Loss) else function
            values = apply(prediction, target)
            share = jnp.ones_like(values) if weights is None else weights.astype(values.dtype)
            results[name] = (share * values).sum(), share.sum()
        return results

    parts = in_batches(sums, data, batch_size)
    totals = jax.tree.map(lambda *pieces: jnp.concatenate(pieces).sum(), *parts)
    return {name: total / weight for name, (total, weight) in totals.items()}
