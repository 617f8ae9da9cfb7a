"""Embedding: a learned vector for each index of a vocabulary."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.precision import downcast, upcast
from fnn._core.types import Array, PyTree
from fnn.layer import Layer, stateless

standard_normal = jax.nn.initializers.normal(1.0)


@constructor
def embedding(
    count: int,
    width: int,
    *,
    initializer: jax.nn.initializers.Initializer = standard_normal,
) -> Layer:
    """Embedding: a learned vector for each index of a vocabulary.

    Forward ``y[..., c] = weight[x[...], c]``; backward ``dweight[i, c] = sum of dy[..., c] over all
    places with x[...] = i``. An index has no derivative: dx is None.

    x (...) integers in 0..count - 1 with any axes, weight (count, C) drawn by `initializer`, y
    (..., C), C being `width`. Saved: x. Of a `fnn.Sequence` of tokens write
    ``fnn.over_sequence(fnn.embedding(...))``.

    Raises `fnn.InputError` for a count or a width below 1, for an x of anything but integers and,
    outside jit, for an index out of range: -1 is one too. Under jit such an index gives a row of
    NaN and no gradient.

    >>> import jax, jax.numpy as jnp
    >>> params = {"weight": jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])}
    >>> y, state, residuals = embedding(3, 2).forward(params, (), jnp.array([2, 0, 2]))
    >>> y
    Array([[5., 6.],
           [1., 2.],
           [5., 6.]], dtype=float32)
    >>> embedding(3, 2).backward(params, residuals, jnp.ones((3, 2)))[0]["weight"]
    Array([[1., 1.],
           [0., 0.],
           [2., 2.]], dtype=float32)
    """
    for name, value in (("count", count), ("width", width)):
        if not check.is_count(value, 1):
            raise InputError(f"a {name} of 1 or more", describe(value), "pass a positive int")

    def check_input(x: Any) -> None:
        if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.integer):
            raise InputError(
                "x of integers",
                describe(x) if hasattr(x, "dtype") else f"a {type(x).__name__}",
                "pass an array of indices; fnn.over_sequence takes them out of a sequence",
            )
        check.values(
            x,
            lambda i: (i < 0) | (i >= count),
            f"indices in 0..{count - 1}",
            "make the count the number of different indices",
            name="x",
        )

    def init(key: Array, x: Any) -> PyTree:
        check_input(x)
        return {"weight": initializer(key, (count, width), jnp.result_type(float))}

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        check_input(x)
        rows = params["weight"].shape[0]
        y = params["weight"].at[_indices(x, rows)].get(mode="fill", fill_value=jnp.nan)
        return y, jnp.asarray(x)

    def backward(params: PyTree, x: PyTree, dy: Any) -> tuple[PyTree, Any]:
        weight = params["weight"]
        zeros = jnp.zeros(weight.shape, upcast(dy).dtype)
        dweight = zeros.at[_indices(x, weight.shape[0])].add(upcast(dy), mode="drop")
        return {"weight": downcast(dweight, weight)}, None

    return stateless(init, forward, backward)


def _indices(x: Any, rows: int) -> Any:
    """Return indices in which a negative one is beyond the last row: it would count backwards."""
    x = jnp.asarray(x)
    if x.dtype.itemsize < 8:
        x = x.astype(jnp.int32)
    return jnp.where(x < 0, rows, x)
