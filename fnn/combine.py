"""Combinators: models made of layers, and again layers themselves.

Parameters, state and residuals mirror the model: the path of a layer is the path of its
parameters. `serial` and `parallel` hold a tuple, or a dict when the layers are named.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from fnn.errors import InputError, at, describe
from fnn.layer import (
    Array,
    Key,
    Layer,
    PyTree,
    check_same_shape,
    floating,
    from_forward,
    output_shape,
    shape_witness,
)
from fnn.origin import constructor
from fnn.sequence import Sequence


@constructor
def serial(*layers: Layer, **named: Layer) -> Layer:
    """Compose layers, the output of one being the input of the next.

    Forward ``y = f_n(... f_2(f_1(x)))``; backward is the chain rule read from right to left:
    ``dx = J_1^T J_2^T ... J_n^T dy``, each factor the backward of one layer. Positional layers give
    tuples of parameters, named layers dicts. Layer `i` draws its randomness from
    ``jax.random.fold_in(key, i)``.

    Raises `fnn.InputError` when positional and named layers are mixed, or something is no layer.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model = serial(hidden=fnn.dense(4), act=fnn.relu(), out=fnn.dense(2))
    >>> params, state = model.init(jax.random.key(0), jnp.ones((1, 3)))
    >>> sorted(params), params["out"]["weight"].shape
    (['act', 'hidden', 'out'], (4, 2))
    """
    parts, pack = _parts("serial", layers, named)

    def init(key: Array, x: Any, /) -> tuple[PyTree, PyTree]:
        params, state = [], []
        for i, (_, layer) in enumerate(parts):
            p, s = layer.init(jax.random.fold_in(key, i), x)
            x = output_shape(layer, p, s, x)
            params.append(p)
            state.append(s)
        return pack(params), pack(state)

    def apply(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree]:
        states = []
        for i, (name, layer) in enumerate(parts):
            x, s = layer.apply(params[name], state[name], x, key=_fold(key, i), train=train)
            states.append(s)
        return x, pack(states)

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        states, residuals = [], []
        for i, (name, layer) in enumerate(parts):
            x, s, r = layer.forward(params[name], state[name], x, key=_fold(key, i), train=train)
            states.append(s)
            residuals.append(r)
        return x, pack(states), pack(residuals)

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        gradients = []
        for name, layer in reversed(parts):
            dparams, dy = layer.backward(params[name], residuals[name], dy)
            gradients.append(dparams)
        return pack(reversed(gradients)), dy

    return Layer(init, apply, forward, backward)


@constructor
def parallel(*branches: Layer, **named: Layer) -> Layer:
    """Give the same input to every branch; the output is the tuple (or dict) of their outputs.

    Forward ``y_i = f_i(x)``; backward ``dx = sum_i J_i^T dy_i``. Follow it with `concatenate` or
    `add` to join the branches. Branch `i` draws its randomness from ``jax.random.fold_in(key, i)``.

    Raises `fnn.InputError` as `serial` does.

    >>> import fnn, jax, jax.numpy as jnp
    >>> wide = serial(parallel(fnn.tanh(), fnn.relu()), concatenate())
    >>> wide.apply(*wide.init(jax.random.key(0), jnp.ones(2)), jnp.array([-1.0, 0.0]))[0]
    Array([-0.7615942,  0.       ,  0.       ,  0.       ], dtype=float32)
    """
    parts, pack = _parts("parallel", branches, named)

    def init(key: Array, x: Any, /) -> tuple[PyTree, PyTree]:
        pairs = [branch.init(jax.random.fold_in(key, i), x) for i, (_, branch) in enumerate(parts)]
        return pack(p for p, _ in pairs), pack(s for _, s in pairs)

    def apply(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree]:
        results = [
            branch.apply(params[name], state[name], x, key=_fold(key, i), train=train)
            for i, (name, branch) in enumerate(parts)
        ]
        return pack(y for y, _ in results), pack(s for _, s in results)

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        results = [
            branch.forward(params[name], state[name], x, key=_fold(key, i), train=train)
            for i, (name, branch) in enumerate(parts)
        ]
        return (
            pack(y for y, _, _ in results),
            pack(s for _, s, _ in results),
            pack(r for _, _, r in results),
        )

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        pairs = [branch.backward(params[name], residuals[name], dy[name]) for name, branch in parts]
        dx = pairs[0][1]
        for _, branch_dx in pairs[1:]:
            dx = jax.tree.map(jnp.add, dx, branch_dx)
        return pack(dparams for dparams, _ in pairs), dx

    return Layer(init, apply, forward, backward)


@constructor
def add() -> Layer:
    """Add the outputs of `parallel` branches.

    Forward ``y = sum_i x_i``; backward ``dx_i = dy``. All ``x_i`` have the shape of ``y``. Where
    some are a `fnn.Sequence` the values are added; lengths and carry are those of the first.

    Raises `fnn.InputError` when the shapes differ.

    >>> import jax.numpy as jnp
    >>> add().apply((), (), (jnp.ones(2), jnp.ones(2)))[0]
    Array([2., 2.], dtype=float32)
    """

    def join(parts: list[Any]) -> Any:
        for part in parts:
            check_same_shape("add", parts[0], part)
        return sum(parts[1:], parts[0])

    return _merging(join, lambda dy, shapes: [dy] * len(shapes))


@constructor
def concatenate(axis: int = -1) -> Layer:
    """Join the outputs of `parallel` branches along an axis.

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
            check_same_shape("concatenate", _without(parts[0], axis), _without(part, axis))
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
        return y, state, jax.tree.map(shape_witness, floating(x))

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

    return from_forward(lambda key, x: ((), ()), forward, backward)


def _is_sequence(x: Any) -> bool:
    return isinstance(x, Sequence)


def _parts(
    where: str, layers: tuple[Layer, ...], named: dict[str, Layer]
) -> tuple[list[tuple[Any, Layer]], Callable[[Iterable[Any]], PyTree]]:
    """Pair every layer with its index or name, and say how their trees are kept together."""
    if layers and named:
        raise InputError(
            where, "all layers positional or all named", "both", "name all of them, or none"
        )
    if not layers and not named:
        raise InputError(where, "at least one layer", "none", "pass fnn.identity() for none")
    for layer in (*layers, *named.values()):
        if not isinstance(layer, Layer):
            raise InputError(
                where,
                "layers",
                describe(layer),
                "call the constructor, as in fnn.relu(), or wrap a pair in fnn.autodiff",
            )
    items = list(named.items()) if named else list(enumerate(layers))
    parts = [(name, _located(str(name), layer)) for name, layer in items]

    def pack(values: Iterable[Any]) -> PyTree:
        return dict(zip(named, values, strict=True)) if named else tuple(values)

    return parts, pack


def _located(name: str, layer: Layer) -> Layer:
    """Return the layer, whose errors now say where in the model it stands."""

    def locate(function: Any) -> Any:
        def located(*args: Any, **kwargs: Any) -> Any:
            with at(name):
                return function(*args, **kwargs)

        return located

    return Layer(*map(locate, layer))


def _fold(key: Key, i: int) -> Key:
    return None if key is None else jax.random.fold_in(key, i)


def _without(x: Any, axis: int) -> Any:
    shape = list(x.shape)
    del shape[axis]
    return jax.ShapeDtypeStruct(tuple(shape), x.dtype)
