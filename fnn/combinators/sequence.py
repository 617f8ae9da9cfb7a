"""Padded batches of sequences: values, and how many of their steps are there."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import Key, PyTree
from fnn.layer import Layer, wrapping


class Sequence(NamedTuple):
    """A batch of sequences of different lengths, padded to one: what layers over time take.

    `values` (B, T, ...). `lengths` are (B,) integers in 0..T, or (B, T) booleans that are True
    where there is a step; None means that all are. `carry` is the hidden state of a recurrent
    layer: before the first step going in, after the last coming out; None means zeros going in,
    and then none comes out.

    >>> import jax.numpy as jnp
    >>> padded = Sequence(jnp.ones((2, 3, 1)), jnp.array([3, 1]))
    >>> step_mask(padded).sum(axis=1)
    Array([3, 1], dtype=int32)
    """

    values: Any
    lengths: Any = None
    carry: Any = None


def step_mask(x: Any) -> Any:
    """Return (B, T) booleans that tell which steps of a sequence are there; None when all are.

    `x` is an array (B, T, ...) or a `Sequence`. Raises `fnn.InputError` for lengths of another
    shape or dtype and, outside jit, for lengths out of 0..T. Under jit a length beyond T means T,
    and a negative one 0.
    """
    if not isinstance(x, Sequence) or x.lengths is None:
        return None
    lengths = jnp.asarray(x.lengths)
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
    return jnp.arange(time, dtype=lengths.dtype)[None, :] < lengths[:, None]


@constructor
def over_sequence(layer: Layer, /) -> Layer:
    """Layer over the values of a `fnn.Sequence`, whose lengths and carry pass on.

    Forward ``y.values = f(x.values)``; backward ``dx.values = J^T dy.values``. An x that is no
    `fnn.Sequence` goes to the layer as it is, so that a model takes padded batches and plain ones.

    >>> import fnn, jax.numpy as jnp
    >>> padded = fnn.Sequence(jnp.array([[[-1.0], [2.0]]]), jnp.array([2]))
    >>> over_sequence(fnn.relu()).apply((), (), padded)[0].values.ravel()
    Array([0., 2.], dtype=float32)
    """

    def init(key: Any, x: Any, /) -> tuple[PyTree, PyTree]:
        return layer.init(key, x.values if isinstance(x, Sequence) else x)

    def apply(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree]:
        if not isinstance(x, Sequence):
            return layer.apply(params, state, x, key=key, train=train)
        y, state = layer.apply(params, state, x.values, key=key, train=train)
        return x._replace(values=y), state

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        if not isinstance(x, Sequence):
            return layer.forward(params, state, x, key=key, train=train)
        y, state, residuals = layer.forward(params, state, x.values, key=key, train=train)
        return x._replace(values=y), state, residuals

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        if not isinstance(dy, Sequence):
            return layer.backward(params, residuals, dy)
        dparams, dx = layer.backward(params, residuals, dy.values)
        return dparams, dy._replace(values=dx)

    return wrapping(over_sequence, layer, (init, apply, forward, backward))
