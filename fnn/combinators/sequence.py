"""Padded batches of sequences: values, and how many of their steps are there."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import (
    Array,
    Cotangent,
    Input,
    Key,
    Output,
    Params,
    PyTree,
    Residuals,
    State,
)
from fnn.layer import Layer, require_layer, wrapping


class Sequence(NamedTuple):
    """A batch of sequences of different lengths, padded to one: what layers over time take.

    Args:
        values: (B, T, ...); what stands in the padding does not matter, even if it is NaN.
        lengths: (B,) integers in 0..T, or (B, T) booleans that are True where there is a step; None
            means that all are.
        carry: the hidden state of a recurrent layer: before the first step going in, after the last
            coming out; None means zeros going in, and then none comes out.

    >>> import jax.numpy as jnp
    >>> padded = Sequence(jnp.ones((2, 3, 1)), jnp.array([3, 1]))
    >>> step_mask(padded).sum(axis=1)
    Array([3, 1], dtype=int32)
    """

    values: Any
    lengths: Any = None
    carry: Any = None


def step_mask(x: Input) -> Array | None:
    """Return (B, T) booleans that tell which steps of a sequence are there; None when all are.

    Under jit a length beyond T means T, and a negative one 0.

    Args:
        x: an array (B, T, ...), or a `Sequence`.
    Raises:    InputError for lengths of another shape or dtype and, outside jit, for lengths out of
        0..T.
    """
    if not isinstance(x, Sequence) or x.lengths is None:
        return None
    lengths = jnp.asarray(x.lengths)
    check.shape(x.values, "B T ...", "values", "put the batch first, and time second")
    batch, time = x.values.shape[:2]
    if lengths.dtype == bool and lengths.shape == (batch, time):
        return lengths
    if lengths.shape != (batch,) or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise InputError(
            f"lengths of shape ({batch},) of integers, or ({batch}, {time}) of booleans",
            describe(lengths),
            "give one length to each sequence",
        )
    check.values(
        lengths,
        lambda n: (n < 0) | (n > time),
        f"lengths in 0..{time}",
        "count the steps that are there, padding left out",
        name="lengths",
    )
    # In a dtype of 8 or 16 bits the count of the steps would overflow.
    lengths = lengths if lengths.dtype.itemsize >= 4 else lengths.astype(jnp.int32)
    return jnp.arange(time, dtype=lengths.dtype)[None, :] < lengths[:, None]


@constructor
def over_sequence(layer: Layer, /) -> Layer:
    """Layer over the values of a `fnn.Sequence`, whose lengths and carry pass on.

    An x that is no `fnn.Sequence` goes to the layer as it is, so that a model takes padded batches
    and plain ones. A layer that looks across steps, or across the batch as `fnn.batch_norm` does,
    sees zeros in the padding.

    Forward:   y.values = f(x.values); at steps that are not there f sees 0, and y is 0
    Backward:  dx.values = J^T dy.values, 0 at steps that are not there

    Args:
        layer: f, which keeps the axes of batch and time.
    Shapes:    x.values (B, T, ...), y.values (B, T, ...)
    Saves:     what the layer saves, and which steps are there
    Raises:    InputError for what is no layer, for lengths that do not fit, and for a layer that
        changes the axes of batch or time of a sequence with lengths.

    >>> import fnn, jax.numpy as jnp
    >>> padded = fnn.Sequence(jnp.array([[[-1.0], [2.0]]]), jnp.array([2]))
    >>> over_sequence(fnn.relu()).apply((), (), padded)[0].values.ravel()
    Array([0., 2.], dtype=float32)
    """
    require_layer(layer)

    def init(key: Array, x: Input, /) -> tuple[Params, State]:
        return layer.init(key, x.values if isinstance(x, Sequence) else x)

    def apply(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        mask, values = step_mask(x), x.values if isinstance(x, Sequence) else x
        y, state = layer.apply(params, state, _masked(values, mask), key=key, train=train)
        return _like(x, _masked(y, mask)), state

    def forward(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        mask, values = step_mask(x), x.values if isinstance(x, Sequence) else x
        y, state, saved = layer.forward(params, state, _masked(values, mask), key=key, train=train)
        # Without a mask they are those of the layer, at its paths.
        residuals = saved if mask is None else _Residuals(saved, mask)
        return _like(x, _masked(y, mask)), state, residuals

    def backward(
        params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        own = isinstance(residuals, _Residuals)
        saved, mask = residuals if own else (residuals, None)
        values = dy.values if isinstance(dy, Sequence) else dy
        dparams, dx = layer.backward(params, saved, _masked(values, mask))
        return dparams, _like(dy, _masked(dx, mask))

    # Generation hands on arrays, and what is padding it tells by their lengths.
    functions = init, apply, forward, backward
    return wrapping(over_sequence, layer, functions, (layer.prefill, layer.decode))


class _Residuals(NamedTuple):
    """What the layer saved, and which steps are there."""

    saved: Residuals
    mask: Array | None


def _like(x: PyTree, values: PyTree) -> PyTree:
    """Return values as a sequence where x is one."""
    return x._replace(values=values) if isinstance(x, Sequence) else values


def _masked(values: PyTree, mask: Array | None) -> PyTree:
    """Return values with zeros at the steps that are not there."""
    if mask is None or values is None:
        return values
    check.shape(
        values,
        "B T ...",
        "values",
        "keep the axes of batch and time, or take the values out of the sequence",
        B=mask.shape[0],
        T=mask.shape[1],
    )
    return jnp.where(mask.reshape(*mask.shape, *(1,) * (values.ndim - 2)), values, 0)
