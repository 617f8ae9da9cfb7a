"""What combinators share: layers by their index or name, keys of the parts, and checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Any, TypeVar

import jax

from fnn._core import check
from fnn._core.errors import InputError, at, describe
from fnn._core.types import Input, Key, PyTree, Unchecked
from fnn.layer import (
    Apply,
    Backward,
    Decode,
    Forward,
    Init,
    Layer,
    Prefill,
    require_layer,
)

T = TypeVar("T")


def check_axis(axis: Unchecked, x: Input) -> None:
    """Raise unless a value is an axis of an array."""
    axes = len(x.shape)
    if not check.is_count(axis, -axes) or axis >= axes:
        expected = f"an axis in {-axes}..{axes - 1}" if axes else "x with axes"
        raise InputError(expected, describe(axis if axes else x), "name an axis of x")


def parts_of(
    layers: tuple[Layer, ...], named: dict[str, Layer]
) -> tuple[list[tuple[Any, Layer]], Callable[[Iterable[Any]], PyTree]]:
    """Pair every layer with its index or name, and say how their trees are kept together."""
    if layers and named:
        raise InputError("all layers positional or all named", "both", "name all of them, or none")
    if not layers and not named:
        raise InputError("at least one layer", "none", "pass fnn.identity() for none")
    for layer in (*layers, *named.values()):
        require_layer(layer, "layers")
    items = list(named.items()) if named else list(enumerate(layers))
    parts = [(name, _located(str(name), layer)) for name, layer in items]

    def pack(values: Iterable[Any]) -> PyTree:
        return dict(zip(named, values, strict=True)) if named else tuple(values)

    return parts, pack


def branching(
    combinator: Callable[..., Layer],
    layers: tuple[Layer, ...],
    named: dict[str, Layer],
    functions: tuple[Init, Apply, Forward, Backward],
    caching: tuple[Prefill, Decode] | None = None,
) -> Layer:
    """Return the layer that a combinator makes of several, each a step of the path."""
    children = named or {str(i): layer for i, layer in enumerate(layers)}

    def rebuild(*parts: Layer) -> Layer:
        if not named:
            return combinator(*parts)
        return combinator(**dict(zip(named, parts, strict=True)))

    made = Layer(*functions, children=MappingProxyType(children), rebuild=rebuild)
    if caching is None:
        return made
    return dataclasses.replace(made, prefill=caching[0], decode=caching[1])


def fold(key: Key, i: int) -> Key:
    """Return the key of part i."""
    return None if key is None else jax.random.fold_in(check.key(key), i)


def split(key: Key, shape: int | tuple[int, ...]) -> Key:
    """Return the keys of copies, along leading axes."""
    return None if key is None else jax.random.split(check.key(key), shape)


def first_of(tree: PyTree) -> PyTree:
    """Return the shapes of one copy of what has a leading axis of copies."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), tree)


def copy_of(tree: PyTree, i: int) -> PyTree:
    """Return one copy of what has a leading axis of copies."""
    return jax.tree.map(lambda a: a[i], tree)


def key_of(keys: Key, i: int) -> Key:
    """Return one of the keys that `split` made."""
    return None if keys is None else keys[i]


def _located(name: str, layer: Layer) -> Layer:
    """Return the layer, whose errors now say where in the model it stands."""
    init, apply, forward, backward = (_locate(name, function) for function in layer)
    return dataclasses.replace(
        layer,
        init=init,
        apply=apply,
        forward=forward,
        backward=backward,
        prefill=_locate(name, layer.prefill),
        decode=_locate(name, layer.decode),
        call=None,
    )


def _locate(name: str, function: Callable[..., T]) -> Callable[..., T]:
    """Return a function whose errors bear the name of a layer."""

    def located(*args: Any, **kwargs: Any) -> T:
        with at(name):
            return function(*args, **kwargs)

    return located
