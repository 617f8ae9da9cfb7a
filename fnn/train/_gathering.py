"""Parameters that lie in parts over the devices of a batch, made whole where a layer uses them.

Told only where arrays lie, XLA sends what it likes: often activations, which are larger than
weights, or weights at every step of a scan. So every layer that has such parameters gathers them
itself, computes on its share of the batch, sums its gradient over the devices, and keeps its part
of that. What was gathered is no residual: it is gathered again on the way back.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

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
    Unchecked,
)
from fnn.combinators.walk import part
from fnn.layer import Layer, autodiff, wrapping
from fnn.train.sharding import Layout, axes_of


def gathering(layout: Layout, model: Layer, params: Params) -> Layer:
    """Return a model whose layers gather what lies in parts over the first axis of the mesh.

    Args:
        layout: where parameters lie.
        model: any layer, to run inside of a compiled function.
        params: its parameters, or their shapes.
    """
    specs = layout.params_specs(params)
    split = any(layout.axis in axes_of(names) for spec in specs for names in spec)
    if not split or layout.mesh.shape[layout.axis] == 1:
        return model
    places = [_place(layout, spec) for spec in specs]
    return _rebuilt(model, jax.tree.unflatten(jax.tree.structure(params), places), layout)


def tied(params: Params, x: Input) -> Params:
    """Return the same parameters, which count as known when x is.

    Of parameters that are the same at every turn of a loop XLA gathers all in front of it, and
    keeps them.

    Args:
        params: of a layer, inside of a loop.
        x: what it is given there.
    """
    known: Params = jax.lax.optimization_barrier((params, x))[0]
    return known


class _Place(NamedTuple):
    """Where a parameter lies, and where it is used."""

    kept: NamedSharding
    used: NamedSharding


def _place(layout: Layout, spec: PartitionSpec) -> _Place:
    used = [tuple(name for name in axes_of(names) if name != layout.axis) or None for names in spec]
    return _Place(layout.sharding(spec), layout.sharding(PartitionSpec(*used)))


def _is_place(node: PyTree) -> bool:
    return isinstance(node, _Place)


def _map_places(function: Callable[..., Unchecked], places: PyTree, *trees: PyTree) -> PyTree:
    """Return what a function makes of every place and of what stands there in other trees."""
    return jax.tree.map(function, places, *trees, is_leaf=_is_place)


def _rebuilt(layer: Layer, places: PyTree, layout: Layout) -> Layer:
    """Return a layer of layers that gather."""
    if layer.rebuild is None or _recomputes(layer):
        return _gathered(layer, places, layout)
    whole = places
    if layer.copies is not None:
        places = _map_places(_of_copy, places)
    inside = layer.rebuild(
        *(_rebuilt(child, part(places, step), layout) for step, child in layer.children.items())
    )
    if layer.copies is None:
        return inside
    # What is split over the copies is gathered before the first of them.
    return _gathered(
        inside, _map_places(functools.partial(_over_copies, layout.axis), whole), layout
    )


def _recomputes(layer: Layer) -> bool:
    """Say whether a layer runs forward again on the way back, for which one gathering will do."""
    return layer.call is not None and layer.call.name == "remat" and not _has_copies(layer)


def _has_copies(layer: Layer) -> bool:
    return layer.copies is not None or any(map(_has_copies, layer.children.values()))


def _of_copy(place: _Place) -> _Place:
    """Return where one copy of a parameter lies and is used."""
    return _Place(*(NamedSharding(one.mesh, PartitionSpec(*tuple(one.spec)[1:])) for one in place))


def _over_copies(axis: str, place: _Place) -> _Place:
    """Return the places of copies that are split among themselves; of others one and the same."""
    split = axis in axes_of(next(iter(tuple(place.kept.spec)), None))
    return place if split else _Place(place.kept, place.kept)


def _gathered(layer: Layer, places: PyTree, layout: Layout) -> Layer:
    """Return a layer that gathers its parameters, and keeps its part of their gradient."""
    known = jax.tree.leaves(places, is_leaf=_is_place)
    if known and all(place.kept == place.used for place in known):
        return layer
    gathers = _Gathers(layer, places, layout)
    functions = layer.init, gathers.apply, gathers.forward, gathers.backward
    if layer.derivation == "auto":
        functions = (*autodiff(layer.init, gathers.apply),)
    wrapped = wrapping(
        lambda inside: _gathered(inside, places, layout),
        layer,
        functions,
        (gathers.prefill, gathers.decode),
    )
    return dataclasses.replace(wrapped, derivation=layer.derivation)


class _Gathers(NamedTuple):
    """The functions of a layer that gathers."""

    layer: Layer
    places: PyTree
    layout: Layout

    def apply(
        self, params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        def run(params: Params, state: State, x: Input, key: Key) -> tuple[Output, State]:
            return self.layer.apply(self.whole(params), state, x, key=key, train=train)

        y_and_state: tuple[Output, State] = jax.checkpoint(run, policy=_may_be_saved)(
            params, state, x, key
        )
        return y_and_state

    def forward(
        self, params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        return self.layer.forward(self.whole(params), state, x, key=key, train=train)

    def backward(
        self, params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        # The barrier ties the gathering to dy: without it XLA would find it equal to that of
        # forward, and keep what that one made.
        params, dy = jax.lax.optimization_barrier((params, dy))
        dparams, dx = self.layer.backward(self.whole(params), residuals, dy)
        return _map_places(_scatter, self.places_of(params), dparams), dx

    def prefill(
        self,
        params: Params,
        state: State,
        x: Input,
        /,
        *,
        window: int,
        lengths: Array | None = None,
    ) -> tuple[Output, Cache]:
        whole = self.whole(tied(params, x))
        y, cache = self.layer.prefill(whole, state, x, window=window, lengths=lengths)
        return y, self.layout.split(cache)

    def decode(
        self, params: Params, state: State, cache: Cache, x: Input, position: Array, /
    ) -> tuple[Output, Cache]:
        y, cache = self.layer.decode(self.whole(tied(params, x)), state, cache, x, position)
        return y, self.layout.split(cache)

    def whole(self, params: Params) -> Params:
        return _map_places(_gather, self.places_of(params), params)

    def places_of(self, params: Params) -> PyTree:
        """Return the places of parameters, also of those that `fnn.shared` hands on."""
        structure: Unchecked = jax.tree.structure(params)
        if jax.tree.structure(self.places, is_leaf=_is_place) == structure:
            return self.places
        specs = [PartitionSpec()] * structure.num_leaves
        if isinstance(self.layout.rules, str):
            specs = self.layout.params_specs(params)
        return jax.tree.unflatten(structure, [_place(self.layout, spec) for spec in specs])


def _gather(place: _Place, leaf: Array) -> Array:
    if place.kept == place.used:
        return leaf
    # In the derivative both hold the other way round: summed as a whole, then kept in parts.
    leaf = jax.lax.with_sharding_constraint(leaf, place.kept)
    return jax.lax.with_sharding_constraint(leaf, place.used)


def _scatter(place: _Place, leaf: Array) -> Array:
    if place.kept == place.used:
        return leaf
    leaf = jax.lax.with_sharding_constraint(leaf, place.used)
    return jax.lax.with_sharding_constraint(leaf, place.kept)


def _may_be_saved(primitive: Unchecked, *_: Unchecked, **__: Unchecked) -> bool:
    """Say what autodiff may keep for the way back: all but what was gathered."""
    return bool(primitive.name != "sharding_constraint")
