"""Residual connections."""

from __future__ import annotations

from typing import Any

import jax

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.tree import combine, inexact_leaves
from fnn._core.types import Key, PyTree
from fnn.combinators.sequence import Sequence
from fnn.layer import Layer, wrapping


@constructor
def residual(layer: Layer, /) -> Layer:
    """Residual connection: a layer's input added to its output.

    Forward ``y = x + f(x)``; backward ``dx = dy + J^T dy``: the gradient has a way around the
    layer, which is what keeps it from vanishing in deep stacks (He et al. 2015, arXiv:1512.03385,
    eq. 1). Of a tree every array of floating numbers is added, and the others are those of f(x); of
    a `fnn.Sequence` the values are added, and lengths and carry are those of f(x).

    Raises `fnn.InputError` when the layer changes the shape.

    >>> import fnn, jax.numpy as jnp
    >>> residual(fnn.relu()).apply((), (), jnp.array([-1.0, 2.0]))[0]
    Array([-1.,  4.], dtype=float32)
    """

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        y, state, residuals = layer.forward(params, state, x, key=key, train=train)
        return add_input(x, y), state, residuals

    def apply(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree]:
        y, state = layer.apply(params, state, x, key=key, train=train)
        return add_input(x, y), state

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        dparams, dx = layer.backward(params, residuals, dy)
        return dparams, add_trees(dy, dx)

    return wrapping(residual, layer, (layer.init, apply, forward, backward))


def add_input(x: Any, y: Any) -> Any:
    """Return x + y, shaped alike, for all that are floating numbers."""
    check.same_shape(x, y)
    return combine(add_trees(inexact_leaves(x), inexact_leaves(y)), y)


def add_trees(x: Any, y: Any) -> Any:
    """Add tree to tree; of a `fnn.Sequence` the values alone, the rest being that of `y`."""

    def plus(a: Any, b: Any) -> Any:
        if isinstance(a, Sequence):
            return b._replace(values=add_trees(a.values, b.values))
        return a + b

    return jax.tree.map(plus, x, y, is_leaf=lambda node: isinstance(node, Sequence))
