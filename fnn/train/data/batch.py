"""Data as training wants it: checked once as a whole, then cut into batches on the device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.arrays import jax_dtype
from fnn._core.errors import InputError, describe
from fnn._core.place import check_place
from fnn._core.types import Array, Data, Params, PyTree, State, Target, Unchecked
from fnn.gradient.objective import Batch, as_batch, fill
from fnn.layer import Layer, output_shape, require_layer
from fnn.losses import Loss
from fnn.losses._loss import check_weights, counted_weights, require_loss
from fnn.train.metrics import Metrics, check_metrics, checks_of


def check_data(
    model: Layer,
    loss: Loss,
    params: Params,
    state: State,
    data: Data,
    metrics: Metrics | None = None,
    *,
    outputs: PyTree | None = None,
) -> Batch:
    """Return the data on the device, after looking at all of it.

    What an example of weight 0 holds is not looked at, nor what the loss ignores.

    Args:
        model: the layer that it is for.
        loss: compares its outputs with the targets.
        params: of the model.
        state: of the model.
        data: x, targets and weights.
        metrics: what else is computed of outputs and targets.
        outputs: shapes of the model's outputs, of a part of data whose first part was looked at
            with the model: its weights may be 0 all over, and nothing is traced.
    Raises:    InputError for data that is empty, of differing lengths, not finite (naming the first
        such index) or beyond what JAX holds, not fit for the model, or not fit for the loss or for
        a metric, for weights that are negative, or all 0, and for parameters and state of another
        model.

    """
    require_layer(model)
    require_loss(loss)
    batch = as_batch(data)
    x, target, weights = batch
    examples = length(x)
    for name, value in (("target", target), ("weights", weights)):
        if value is not None and length(value) != examples:
            raise InputError(
                f"x and {name} of one length",
                f"{examples} and {length(value)}",
                "give one row of each to every example",
            )
    if weights is not None:
        check_finite("weights", weights)
        check_weights(weights)
        if outputs is None and not (np.asarray(weights) != 0).any():
            raise InputError("a weight above 0", "none", "leave the weights out, or check them")
    check_finite("x", fill(x, weights))
    check_finite("target", _that_count(target, weights))
    if outputs is None:
        spec = jax.tree.map(_spec, x)
        check_place(model, params, state, spec, shapes=True)
        outputs = output_shape(model, params, state, spec)
    loss.check(outputs, _that_count(target, weights))
    with contextlib.suppress(InputError):
        # Weights of the wrong shape are found where the values are: here they are no mask.
        weights = counted_weights(loss, target, weights)
    for check_pair in checks_of(check_metrics(metrics)):
        check_pair(outputs, _that_count(target, weights))
    on_device: Batch = jax.device_put(batch)
    return on_device


def _that_count(target: Target, weights: Unchecked) -> Target:
    """Return targets in which those of weight 0 are replaced, each value's where it has its own."""
    if weights is None:
        return target
    known: Unchecked = np.asarray(weights)

    def one(leaf: Unchecked) -> Unchecked:
        if leaf.shape[: known.ndim] != known.shape:
            return fill(leaf, known)
        rest = leaf.shape[known.ndim :]
        return fill(leaf.reshape(-1, *rest), known.ravel()).reshape(leaf.shape)

    return jax.tree.map(one, target)


def _spec(leaf: Array) -> jax.ShapeDtypeStruct:
    """Return shape and dtype of an array as JAX holds it."""
    return jax.ShapeDtypeStruct(leaf.shape, jax_dtype(leaf.dtype))


def length(value: Unchecked) -> int:
    """Return the number of examples in an array or a tree of arrays.

    Args:
        value: an array (B, ...), or a tree of them.
    """
    lengths = set()
    for leaf in jax.tree.leaves(value):
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
            raise InputError("arrays", describe(leaf), "convert the data with numpy.asarray first")
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise InputError("arrays", "shapes alone", "pass the arrays")
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


def check_finite(name: str, value: PyTree) -> None:
    """Raise for the first entry of a tree of arrays that is not finite, in the dtype JAX gives it.

    Float64 beyond float32 and int64 beyond int32 are found too: JAX would make infinity of the one,
    and another integer of the other.

    Args:
        name: what an error calls the tree.
        value: arrays of NumPy or JAX.
    """
    for leaf in jax.tree.leaves(value):
        if _suspicious(leaf):
            index = tuple(np.argwhere(_wrong(leaf))[0])
            place = ", ".join(map(str, index))
            raise InputError(
                "finite data",
                f"{leaf[index]} at {name}[{place}]",
                "remove or replace the example; numbers beyond 32 bits need jax_enable_x64",
            )


def _suspicious(leaf: Unchecked) -> bool:
    """Say whether an entry is wrong, on the device where the array is there."""
    if isinstance(leaf, jax.Array):
        return bool(jnp.issubdtype(leaf.dtype, jnp.inexact) and not jnp.isfinite(leaf).all())
    return not _is_plainly_sound(leaf) and bool(_wrong(leaf).any())


def _wrong(leaf: Unchecked) -> np.ndarray:
    """Return True where JAX's version of an array is not finite, or another integer."""
    array = np.asarray(leaf)
    held = _held(array)
    wrong: np.ndarray = (
        ~np.isfinite(held) if jnp.issubdtype(held.dtype, jnp.inexact) else held != array
    )
    return wrong


def _held(array: np.ndarray) -> np.ndarray:
    """Return an array in the dtype that JAX gives it, itself where that is its own."""
    with np.errstate(over="ignore"):
        return array.astype(jax_dtype(array.dtype), copy=False)


def _is_plainly_sound(leaf: Unchecked) -> bool:
    """Say whether no entry can be wrong, in one pass that writes nothing."""
    array = np.asarray(leaf)
    held = _held(array)
    if not jnp.issubdtype(held.dtype, jnp.inexact):
        return held.dtype == array.dtype
    # One that is not finite spoils the sum, and so may many large ones.
    with np.errstate(all="ignore"):
        return bool(np.isfinite(held.sum(dtype=np.result_type(held.dtype, np.float32))))


def check_batch_size(batch_size: Unchecked, examples: int | None = None) -> None:
    """Raise unless the batch size is an int from 1 to the number of examples.

    Args:
        batch_size: what is checked.
        examples: how many there are; None where that is not known.
    """
    most = "" if examples is None else f" to {examples}, the number of examples"
    if not check.is_count(batch_size, 1) or (examples is not None and batch_size > examples):
        raise InputError(
            f"a batch_size from 1{most or ' up'}",
            describe(batch_size),
            "pass 1 for stochastic, len(x) for full-batch descent, or something between",
        )


def in_batches(function: Callable[[PyTree], PyTree], data: PyTree, batch_size: int) -> list[PyTree]:
    """Apply a function to consecutive batches: results stacked over full batches, then the rest.

    The ragged last batch runs as it is, neither dropped nor padded. The returned list holds the
    results of the full batches, with a leading axis, and of the rest, with a leading axis of 1;
    either is left out when it is empty.

    Args:
        function: of a batch, to a tree of arrays.
        data: a tree of arrays of one length.
        batch_size: how many examples at a time.

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
