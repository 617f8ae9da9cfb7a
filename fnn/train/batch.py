"""Data as training wants it: checked once as a whole, then cut into batches on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe
from fnn._core.types import PyTree
from fnn.gradient.objective import Batch
from fnn.layer import Layer, output_shape
from fnn.losses import Loss


def check_data(model: Layer, loss: Loss, params: PyTree, state: PyTree, data: Batch) -> Batch:
    """Return the data on the device, after looking at all of it.

    Raises `fnn.InputError` for data that is empty, of differing lengths, not finite (naming the
    first such index), not fit for the model, or not fit for the loss.
    """
    x, target, weights = data
    examples = length(x)
    for name, value in (("target", target), ("weights", weights)):
        if value is not None and length(value) != examples:
            raise InputError(
                f"x and {name} of one length",
                f"{examples} and {length(value)}",
                "give one row of each to every example",
            )
    for name, value in (("x", x), ("target", target), ("weights", weights)):
        check_finite(name, value)
    loss.check(output_shape(model, params, state, x), target)
    return jax.tree.map(jnp.asarray, data)


def length(value: Any) -> int:
    """Return the number of examples in an array or a tree of arrays."""
    lengths = set()
    for leaf in jax.tree.leaves(value):
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
            raise InputError("arrays", describe(leaf), "convert the data with numpy.asarray first")
        if not leaf.shape or not leaf.shape[0]:
            raise InputError(
                "at least one example", describe(leaf), "check how the data was selected"
            )
        lengths.add(leaf.shape[0])
    if len(lengths) != 1:
        raise InputError(
            "arrays of one length", f"lengths {sorted(lengths)}", "give each example a row"
        )
    return int(lengths.pop())


def check_finite(name: str, value: Any) -> None:
    """Raise `InputError` that names the first number of a tree of arrays that is not finite."""
    for leaf in jax.tree.leaves(value):
        numbers: Any = jnp if isinstance(leaf, jax.Array) else np
        if not jnp.issubdtype(leaf.dtype, jnp.inexact) or numbers.isfinite(leaf).all():
            continue
        index = tuple(np.argwhere(~np.isfinite(np.asarray(leaf)))[0])
        place = ", ".join(map(str, index))
        raise InputError(
            "finite data",
            f"{leaf[index]} at {name}[{place}]",
            "remove or replace the example",
        )


def check_batch_size(batch_size: Any, examples: int | None = None) -> None:
    """Raise `InputError` unless the batch size is an int from 1 to the number of examples."""
    most = "" if examples is None else f" to {examples}, the number of examples"
    if not check.is_count(batch_size, 1) or (examples is not None and batch_size > examples):
        raise InputError(
            f"a batch_size from 1{most or ' up'}",
            describe(batch_size),
            "pass 1 for stochastic, len(x) for full-batch descent, or something between",
        )


def in_batches(function: Callable[[Any], PyTree], data: Any, batch_size: int) -> list[PyTree]:
    """Apply a function to consecutive batches: results stacked over full batches, then the rest.

    The ragged last batch runs as it is, neither dropped nor padded. The returned list holds the
    results of the full batches, with a leading axis, and of the rest, with a leading axis of 1;
    either is left out when it is empty.

    >>> import jax.numpy as jnp
    >>> in_batches(jnp.sum, jnp.arange(5), 2)
    [Array([1, 5], dtype=int32), Array([4], dtype=int32)]
    """
    examples = jax.tree.leaves(data)[0].shape[0]
    full = examples // batch_size
    results = []
    if full:
        rows = jax.tree.map(
            lambda a: a[: full * batch_size].reshape(full, batch_size, *a.shape[1:]), data
        )
        results.append(jax.lax.map(function, rows))
    if examples % batch_size:
        rest = function(jax.tree.map(lambda a: a[full * batch_size :], data))
        results.append(jax.tree.map(lambda a: a[None], rest))
    return results
