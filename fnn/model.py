"""A model taken apart and put together again, layer by layer."""

from __future__ import annotations

from collections.abc import Callable

from fnn.combine import parallel, serial
from fnn.layer import Layer, use_rules
from fnn.pair import cross_residual, on_first
from fnn.reversible import reversible
from fnn.sequence import on_values
from fnn.wrap import remat, repeat, residual

_BRANCHING = (serial, parallel)
_WRAPPING = (residual, repeat, remat, use_rules, on_values, on_first, cross_residual)


def children(layer: Layer) -> dict[str, Layer]:
    """Return the layers inside a combinator by the step from its path to theirs.

    >>> import fnn
    >>> children(serial(fnn.dense(3), fnn.relu()))
    {'0': dense(3), '1': relu()}
    >>> children(residual(fnn.relu()))
    {'': relu()}
    """
    origin = layer.origin
    if origin is None or origin.make not in (*_BRANCHING, *_WRAPPING, reversible):
        return {}
    if origin.make is reversible:
        return dict(zip("fg", origin.args, strict=False))
    if origin.make in _WRAPPING:
        return {"": origin.args[0]}
    return {str(i): part for i, part in enumerate(origin.args)} | dict(origin.kwargs)


def map_layers(function: Callable[[str, Layer], Layer], layer: Layer, path: str = "") -> Layer:
    """Rebuild a model with ``function(path, layer)`` in place of every layer that has no children.

    >>> import fnn
    >>> map_layers(lambda path, layer: fnn.use_rules(layer), serial(fnn.dense(3), fnn.relu()))
    serial(use_rules(dense(3)), use_rules(relu()))
    """
    inside = children(layer)
    if not inside or layer.origin is None:
        return function(path, layer)
    mapped = {
        name: map_layers(function, child, "/".join(filter(None, (path, name))))
        for name, child in inside.items()
    }
    make, args, kwargs = layer.origin.make, layer.origin.args, layer.origin.kwargs
    if make in _WRAPPING or make is reversible:
        rebuilt: Layer = make(*mapped.values(), *args[len(mapped) :], **kwargs)
    elif kwargs:
        rebuilt = make(**mapped)
    else:
        rebuilt = make(*mapped.values())
    return rebuilt


def layers_by_path(model: Layer, path: str = "") -> dict[str, Layer]:
    """Return every layer of a model by its path; a wrapper gives way to what it wraps.

    >>> import fnn
    >>> layers_by_path(fnn.serial(fnn.dense(3), fnn.residual(fnn.relu())))
    {'': serial(dense(3), residual(relu())), '0': dense(3), '1': relu()}
    """
    found = {path: model}
    for name, child in children(model).items():
        found |= layers_by_path(child, "/".join(filter(None, (path, name))))
    return found
