"""A model used: its predictions, and how good they are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from fnn.gradient.objective import unpack
from fnn.layer import Array, Layer, PyTree
from fnn.losses import Loss, zero_one
from fnn.train.data import check_batch_size, check_data, check_finite, in_batches, length

Metric: TypeAlias = Callable[[Any, Any], Array] | Loss
Metrics: TypeAlias = Mapping[str, Metric]


def accuracy(prediction: Any, target: Any) -> Array:
    """Return 1 for every right answer and 0 for every wrong one: 1 minus `fnn.losses.zero_one`.

    >>> import jax.numpy as jnp
    >>> accuracy(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1]))
    Array([1., 0.], dtype=float32)
    """
    return 1 - zero_one().apply(prediction, target)


def predict(model: Layer, params: PyTree, state: PyTree, x: Any, *, batch_size: int = 256) -> Any:
    """Return the model's outputs for all of x, out of training mode, batch by batch.

    x (n, ...), the result (n, ...) on the device; a ragged last batch is computed as it is.

    Raises `fnn.InputError` for an empty x, one that is not finite, or a batch size below 1.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model = fnn.relu()
    >>> predict(model, (), (), jnp.array([-1.0, 2.0, 3.0]), batch_size=2)
    Array([0., 2., 3.], dtype=float32)
    """
    length("predict", x)
    check_batch_size("predict", batch_size)
    check_finite("predict", "x", x)
    return _predict(model, params, state, jax.tree.map(jnp.asarray, x), batch_size)


@functools.partial(jax.jit, static_argnames=("model", "batch_size"))
def _predict(model: Layer, params: PyTree, state: PyTree, x: Any, batch_size: int) -> Any:
    parts = in_batches(lambda rows: model.apply(params, state, rows)[0], x, batch_size)
    flat = [jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), part) for part in parts]
    return jax.tree.map(lambda *pieces: jnp.concatenate(pieces), *flat)


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
    check_batch_size("evaluate", batch_size)
    data = check_data("evaluate", model, loss, params, state, data)
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
    functions = (("loss", loss), *(metrics or {}).items())
    means = _evaluate(model, functions, params, state, data, batch_size)
    return {name: float(value) for (name, _), value in zip(functions, means, strict=True)}


@functools.partial(jax.jit, static_argnames=("model", "functions", "batch_size"))
def _evaluate(
    model: Layer,
    functions: tuple[tuple[str, Metric], ...],
    params: PyTree,
    state: PyTree,
    data: Any,
    batch_size: int,
) -> list[Array]:
    def sums(batch: Any) -> list[tuple[Array, Array]]:
        x, target, weights = unpack(batch)
        prediction, _ = model.apply(params, state, x)
        results = []
        for _, function in functions:
            apply = function.apply if isinstance(function, Loss) else function
            values = apply(prediction, target)
            share = jnp.ones_like(values) if weights is None else weights.astype(values.dtype)
            results.append(((share * values).sum(), share.sum()))
        return results

    parts = in_batches(sums, data, batch_size)
    totals = jax.tree.map(lambda *pieces: jnp.concatenate(pieces).sum(), *parts)
    return [total / weight for total, weight in totals]
