"""Embedding: a learned vector for each index of a vocabulary."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.mesh import automatic, layouts
from fnn._core.precision import downcast, upcast
from fnn._core.types import Array, Cotangent, Input, Output, Params, Residuals, Unchecked
from fnn.layer import Layer, stateless
from fnn.layers._initializers import check_initializer, draw

standard_normal = jax.nn.initializers.normal(1.0)


@constructor
def embedding(
    count: int,
    width: int,
    *,
    padding_index: int | None = None,
    initializer: jax.nn.initializers.Initializer = standard_normal,
) -> Layer:
    """Embedding: a learned vector for each index of a vocabulary.

    Indices of any integer dtype are widened to int32. Outside of jit one out of range is an error,
    and -1 is out of range too; under jit it gives a row of NaN and no gradient. Of a `fnn.Sequence`
    of tokens write ``fnn.over_sequence(fnn.embedding(...))``. Of bfloat16 and float16 the sums are
    float32.

    Forward:   y[..., c] = weight[x[...], c]
    Backward:  dweight[i, c] = sum of dy[..., c] over all positions with x[...] = i, and 0 for the
        padding index; an index has no derivative: dx is None

    Args:
        count: the number of different indices, the size of the vocabulary.
        width: C, the width of a vector.
        padding_index: the index that stands for nothing: its row starts at zero, and has no
            gradient, so that it stays there; by default there is none.
        initializer: of the weight (count, C), one of `jax.nn.initializers`.
    Shapes:    x (...) integers in 0..count - 1 with any axes, y (..., C)
    Saves:     x
    Raises:    InputError for a count or a width below 1, for a padding index out of range, for x of
        anything but integers and, outside jit, for an index out of range.

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
    check.count(count, "count")
    check.count(width, "width")
    check_initializer(initializer)
    _check_padding(padding_index, count)

    def init(key: Array, x: Input) -> Params:
        _check_indices(x, count)
        weight = draw(initializer, key, (count, width), jnp.result_type(float))
        return {"weight": weight if padding_index is None else weight.at[padding_index].set(0)}

    def forward(params: Params, x: Input) -> tuple[Output, Residuals]:
        _check_indices(x, count)
        return _rows(params["weight"], x), jnp.asarray(x)

    def reference(params: Params, x: Input) -> Output:
        y = forward(params, x)[0]
        learned = jnp.not_equal(jnp.asarray(x), padding_index or 0)
        return jnp.where(learned[..., None], y, jax.lax.stop_gradient(y))

    def backward(params: Params, x: Residuals, dy: Cotangent) -> tuple[Params, Cotangent]:
        weight = params["weight"]
        zeros = jnp.zeros(weight.shape, upcast(dy).dtype)
        dweight = zeros.at[_indices(x, weight.shape[0])].add(upcast(dy), mode="drop")
        if padding_index is not None:
            dweight = dweight.at[padding_index].set(0)
        return {"weight": downcast(dweight, weight)}, None

    plain = None if padding_index is None else reference
    return stateless(init, forward, backward, reference=plain, positionwise=True)


def _check_padding(index: Unchecked, count: int) -> None:
    """Raise unless a padding index is None, or an index."""
    if index is not None and not (check.is_count(index, 0) and index < count):
        raise InputError(
            f"a padding_index in 0..{count - 1}", describe(index), "name one of the indices"
        )


def _check_indices(x: Unchecked, count: int) -> None:
    """Raise unless x are integers and, where that is known, all of them are indices."""
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


def _rows(weight: Array, x: Input) -> Array:
    """Return the rows of a weight, and NaN for an index that is out of range."""
    return automatic(
        lambda weight, i: weight.at[i].get(mode="fill", fill_value=jnp.nan),
        layouts(x),
        weight,
        _indices(x, weight.shape[0]),
    )


def _indices(x: Input, rows: int) -> Array:
    """Return indices in which a negative one is beyond the last row: it would count backwards."""
    x = jnp.asarray(x)
    if x.dtype.itemsize < 8:
        x = x.astype(jnp.int32)
    return jnp.where(x < 0, rows, x)
