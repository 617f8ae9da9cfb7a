"""Residual connections."""

from __future__ import annotations

import jax

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.tree import combine, inexact_leaves
from fnn._core.types import (
    Array,
    Cache,
    Cotangent,
    Input,
    Key,
    Output,
    Params,
    PyTree,
    Residuals,
    State,
)
from fnn.combinators.sequence import Sequence
from fnn.layer import Layer, require_layer, wrapping


@constructor
def residual(layer: Layer, /) -> Layer:
    """Residual connection (skip connection): a layer's input added to its output.

    The gradient has a way around the layer, which is what keeps it from vanishing in deep stacks.
    Of a tree every array of floating numbers is added, and the others are those of f(x); of a
    `fnn.Sequence` the values are added, and lengths and carry are those of f(x).

    Forward:   y = x + f(x)
    Backward:  dx = dy + J^T dy

    Args:
        layer: f, whose output has the shape of its input.
    Shapes:    x and y of one shape
    Saves:     what the layer saves
    Raises:    InputError for what is no layer, and when the layer changes the shape.
    Source:    He et al. 2015, arXiv:1512.03385, eq. 1.

    >>> import fnn, jax.numpy as jnp
    >>> residual(fnn.relu()).apply((), (), jnp.array([-1.0, 2.0]))[0]
    Array([-1.,  4.], dtype=float32)
    """
    require_layer(layer)

    def forward(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        y, state, residuals = layer.forward(params, state, x, key=key, train=train)
        return add_input(x, y), state, residuals

    def apply(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        y, state = layer.apply(params, state, x, key=key, train=train)
        return add_input(x, y), state

    def backward(
        params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        dparams, dx = layer.backward(params, residuals, dy)
        return dparams, add_trees(dy, dx)

    def prefill(
        params: Params, state: State, x: Input, /, *, window: int, lengths: Array | None = None
    ) -> tuple[Output, Cache]:
        y, cache = layer.prefill(params, state, x, window=window, lengths=lengths)
        return add_input(x, y), cache

    def decode(
        params: Params, state: State, cache: Cache, x: Input, position: Array, /
    ) -> tuple[Output, Cache]:
        y, cache = layer.decode(params, state, cache, x, position)
        return add_input(x, y), cache

    functions = layer.init, apply, forward, backward
    return wrapping(residual, layer, functions, (prefill, decode))


def add_input(x: Input, y: Output) -> Output:
    """Return x + y, shaped alike, for all that are floating numbers.

    Args:
        x: the input of a layer.
        y: its output, of the same shape; what is no floating number is returned from it.
    """
    check.same_shape(x, y)
    return combine(add_trees(inexact_leaves(x), inexact_leaves(y)), y)


def add_trees(x: PyTree, y: PyTree) -> PyTree:
    """Add tree to tree; of a `fnn.Sequence` the values alone, the rest being that of `y`.

    Args:
        x: the one tree.
        y: the other, shaped alike; its sequences keep their lengths and carry.
    """

    def plus(a: PyTree, b: PyTree) -> PyTree:
        if isinstance(a, Sequence):
            return b._replace(values=add_trees(a.values, b.values))
        return a + b

    return jax.tree.map(plus, x, y, is_leaf=lambda node: isinstance(node, Sequence))
