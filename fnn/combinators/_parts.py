"""What `serial` and `parallel` share: layers by their index or name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Any

import jax

from fnn._core.errors import InputError, at, describe
from fnn._core.types import Key, PyTree
from fnn.layer import Apply, Backward, Forward, Init, Layer


def parts_of(
    layers: tuple[Layer, ...], named: dict[str, Layer]
) -> tuple[list[tuple[Any, Layer]], Callable[[Iterable[Any]], PyTree]]:
    """Pair every layer with its index or name, and say how their trees are kept together."""
    if layers and named:
        raise InputError("all layers positional or all named", "both", "name all of them, or none")
    if not layers and not named:
        raise InputError("at least one layer", "none", "pass fnn.identity() for none")
    for layer in (*layers, *named.values()):
        if not isinstance(layer, Layer):
            raise InputError(
                "layers",
                describe(layer),
                "call the constructor, as in fnn.relu(), or wrap a pair in fnn.autodiff",
            )
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
) -> Layer:
    """Return the layer that a combinator makes of several, each a step of the path."""
    children = named or {str(i): layer for i, layer in enumerate(layers)}

    def rebuild(*parts: Layer) -> Layer:
        if not named:
            return combinator(*parts)
        return combinator(**dict(zip(named, parts, strict=True)))

    return Layer(*functions, children=MappingProxyType(children), rebuild=rebuild)


def fold(key: Key, i: int) -> Key:
    """Return the key of part i."""
    return None if key is None else jax.random.fold_in(key, i)


def _located(name: str, layer: Layer) -> Layer:
    """Return the layer, whose errors now say where in the model it stands."""

    def locate(function: Any) -> Any:
        def located(*args: Any, **kwargs: Any) -> Any:
            with at(name):
                return function(*args, **kwargs)

        return located

    init, apply, forward, backward = map(locate, layer)
    return dataclasses.replace(
        layer, init=init, apply=apply, forward=forward, backward=backward, call=None
    )
