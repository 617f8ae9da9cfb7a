"""Joining the outputs of parallel branches."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.tree import inexact_leaves, shape_witness
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
from fnn.combinators._parts import check_axis
from fnn.combinators.sequence import Sequence
from fnn.layer import Layer, stateful


@constructor
def add() -> Layer:
    """Sum of the outputs of `parallel` branches.

    Where some are a `fnn.Sequence` the values are added; lengths and carry are those of the first.

    Forward:   y = sum_i x_i
    Backward:  dx_i = dy

    Shapes:    x is a tree of arrays or sequences x_i of one shape, which is that of y
    Saves:     the shapes of the x_i
    Raises:    InputError when the shapes differ, and when there are none.

    >>> import jax.numpy as jnp
    >>> add().apply((), (), (jnp.ones(2), jnp.ones(2)))[0]
    Array([2., 2.], dtype=float32)
    """

    def join(parts: list[Array]) -> Array:
        for part in parts:
            check.same_shape(parts[0], part)
        return sum(parts[1:], parts[0])

    return _merging(join, lambda dy, shapes: [dy] * len(shapes), positionwise=True)


@constructor
def concatenate(axis: int = -1) -> Layer:
    """Concatenation of the outputs of `parallel` branches along an axis.

    Where some are a `fnn.Sequence` the values are joined; lengths and carry are those of the first.

    Forward:   y = [x_1, x_2, ...]
    Backward:  dx_1, dx_2, ... are the pieces of dy

    Args:
        axis: the axis that becomes longer, by default that of the channels.
    Shapes:    x is a tree of arrays or sequences x_i that agree in every axis but `axis`
    Saves:     the shapes of the x_i
    Raises:    InputError when the other axes differ, when there is no such axis, and when there is
        no x_i.

    >>> import jax.numpy as jnp
    >>> concatenate().apply((), (), (jnp.zeros((2, 1)), jnp.ones((2, 2))))[0].shape
    (2, 3)
    """
    check.axis(axis)

    def join(parts: list[Array]) -> Array:
        for part in parts:
            check_axis(axis, part)
            check.same_shape(_without(parts[0], axis), _without(part, axis))
        return jnp.concatenate(parts, axis)

    def cut(dy: Array, shapes: list[tuple[int, ...]]) -> list[Array]:
        *ends, _ = itertools.accumulate(shape[axis] for shape in shapes)
        return jnp.split(dy, ends, axis)

    return _merging(join, cut, positionwise=axis == -1)


def _merging(
    join: Callable[[list[Array]], Array],
    cut: Callable[[Array, list[tuple[int, ...]]], list[Array]],
    positionwise: bool,
) -> Layer:
    """Make a layer that joins the arrays of a tree, and backward cuts dy by their shapes."""

    def forward(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        del params, key, train
        parts = jax.tree.leaves(x, is_leaf=_is_sequence)
        if not parts:
            raise InputError("one array or more", describe(x), "put fnn.parallel in front")
        y = join([part.values if _is_sequence(part) else part for part in parts])
        first = next(filter(_is_sequence, parts), None)
        if first is not None:
            y = first._replace(values=y)
        return y, state, jax.tree.map(shape_witness, inexact_leaves(x))

    def backward(
        params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        del params
        parts, structure = jax.tree.flatten(residuals, is_leaf=_is_sequence)
        shapes = [(part.values if _is_sequence(part) else part).shape[1:] for part in parts]
        carry = dy.carry if _is_sequence(dy) else None
        dparts: list[PyTree] = cut(dy.values if _is_sequence(dy) else dy, shapes)
        for i, part in enumerate(parts):
            if _is_sequence(part):
                # The carry of y is that of the first; those of the others went nowhere.
                dcarry, carry = carry, None
                if dcarry is None:
                    dcarry = jax.tree.map(lambda a: jnp.zeros(a.shape[1:], a.dtype), part.carry)
                dparts[i] = Sequence(dparts[i], None, dcarry)
        return (), jax.tree.unflatten(structure, dparts)

    return stateful(lambda key, x: ((), ()), forward, backward, positionwise=positionwise)


def _is_sequence(x: PyTree) -> bool:
    """Say whether a part of a tree is a sequence."""
    return isinstance(x, Sequence)


def _without(x: Array, axis: int) -> jax.ShapeDtypeStruct:
    """Return the shape of an array with one axis left out."""
    shape = list(x.shape)
    del shape[axis]
    return jax.ShapeDtypeStruct(tuple(shape), x.dtype)
