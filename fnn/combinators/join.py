"""Joining the outputs of parallel branches."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.tree import inexact_leaves, shape_witness
from fnn._core.types import Key, PyTree
from fnn.combinators.sequence import Sequence
from fnn.layer import Layer, stateful


@constructor
def add() -> Layer:
    """Sum of the outputs of `parallel` branches.

    Forward ``y = sum_i x_i``; backward ``dx_i = dy``. All ``x_i`` have the shape of ``y``. Where
    some are a `fnn.Sequence` the values are added; lengths and carry are those of the first.

    Raises `fnn.InputError` when the shapes differ.

    >>> import jax.numpy as jnp
    >>> add().apply((), (), (jnp.ones(2), jnp.ones(2)))[0]
    Array([2., 2.], dtype=float32)
    """

    def join(parts: list[Any]) -> Any:
        for part in parts:
            check.same_shape(parts[0], part)
        return sum(parts[1:], parts[0])

    return _merging(join, lambda dy, shapes: [dy] * len(shapes))


@constructor
def concatenate(axis: int = -1) -> Layer:
    """Concatenation of the outputs of `parallel` branches along an axis.

    Forward ``y = [x_1, x_2, ...]``; backward cuts ``dy`` into the same pieces. The ``x_i`` agree in
    every axis but `axis`. Where some are a `fnn.Sequence` the values are joined; lengths and carry
    are those of the first.

    Raises `fnn.InputError` when they do not.

    >>> import jax.numpy as jnp
    >>> concatenate().apply((), (), (jnp.zeros((2, 1)), jnp.ones((2, 2))))[0].shape
    (2, 3)
    """

    def join(parts: list[Any]) -> Any:
        for part in parts:
            check.same_shape(_without(parts[0], axis), _without(part, axis))
        return jnp.concatenate(parts, axis)

    def cut(dy: Any, shapes: list[tuple[int, ...]]) -> list[Any]:
        *ends, _ = itertools.accumulate(shape[axis] for shape in shapes)
        return jnp.split(dy, ends, axis)

    return _merging(join, cut)


def _merging(
    join: Callable[[list[Any]], Any], cut: Callable[[Any, list[tuple[int, ...]]], list[Any]]
) -> Layer:
    """Make a layer that joins the arrays of a tree, and backward cuts dy by their shapes."""

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        del params, key, train
        parts = jax.tree.leaves(x, is_leaf=_is_sequence)
        y = join([part.values if _is_sequence(part) else part for part in parts])
        first = next(filter(_is_sequence, parts), None)
        if first is not None:
            y = first._replace(values=y)
        return y, state, jax.tree.map(shape_witness, inexact_leaves(x))

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        del params
        parts, structure = jax.tree.flatten(residuals, is_leaf=_is_sequence)
        shapes = [(part.values if _is_sequence(part) else part).shape[1:] for part in parts]
        carry = dy.carry if _is_sequence(dy) else None
        dparts: list[Any] = cut(dy.values if _is_sequence(dy) else dy, shapes)
        for i, part in enumerate(parts):
            if _is_sequence(part):
                # The carry of y is that of the first; those of the others went nowhere.
                dcarry, carry = carry, None
                if dcarry is None:
                    dcarry = jax.tree.map(lambda a: jnp.zeros(a.shape[1:], a.dtype), part.carry)
                dparts[i] = Sequence(dparts[i], None, dcarry)
        return (), jax.tree.unflatten(structure, dparts)

    return stateful(lambda key, x: ((), ()), forward, backward)


def _is_sequence(x: Any) -> bool:
    return isinstance(x, Sequence)


def _without(x: Any, axis: int) -> Any:
    shape = list(x.shape)
    del shape[axis]
    return jax.ShapeDtypeStruct(tuple(shape), x.dtype)
