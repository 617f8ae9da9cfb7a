"""Training on a mesh of devices: where parameters, optimizer state and batches lie.

JAX computes on a mesh what it computes on one device: it is told where the arrays lie, and adds
what has to be sent. A `Layout` tells it, at the begin and behind every step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from fnn._core import check
from fnn._core.arrays import require_arrays
from fnn._core.description import Structure, split
from fnn._core.errors import InputError, describe, entry
from fnn._core.keys import is_key, on_words
from fnn._core.types import Array, Input, Params, PyTree, Scalar, Unchecked
from fnn.combinators.walk import join
from fnn.gradient.objective import Gradient
from fnn.layer import Layer, require_layer
from fnn.optim._paths import by_leaf, leaf_paths
from fnn.optim.optimizer import Optimizer
from fnn.train.precision import Precision
from fnn.train.step import TrainState, hyperparameters, init_train_state

Whole: TypeAlias = Literal["data", "full"]
# Where parameters lie: a word for all, or words and axes of the mesh by patterns over their paths.
Sharding: TypeAlias = Whole | Mapping[str, PartitionSpec | Whole]
_WORDS = ("data", "full")
_AXIS = "data"
# To gather fewer entries than this costs more than it saves.
_SMALL = 1024


@dataclass(frozen=True)
class Layout:
    """Where everything of a training lies.

    Args:
        mesh: the devices; batches are split over its first axis but `runs`.
        rules: a word for all parameters, or pairs of a pattern and what is meant by it: the path of
            a parameter counts before all patterns, and of these the first that matches.
        runs: an axis over which every run of a sweep has devices of its own; None for one run.
    """

    mesh: Mesh
    rules: Whole | tuple[tuple[str, PartitionSpec | Whole], ...]
    runs: str | None = None

    def of(self, train_state: TrainState) -> TrainState:
        """Return a tree of shardings like a train state.

        Args:
            train_state: arrays or their shapes.
        """
        specs = self.params_specs(train_state.params)
        whole = functools.partial(jax.tree.map, lambda leaf: self.sharding())
        return TrainState(
            jax.tree.unflatten(jax.tree.structure(train_state.params), map(self.sharding, specs)),
            whole(train_state.state),
            self._opt_state(train_state, specs),
            *whole((train_state.key, train_state.step, train_state.hyperparameters)),
        )

    def params_specs(self, params: Params) -> list[PartitionSpec]:
        """Return how every parameter is split over the mesh, in the order of the leaves.

        Args:
            params: arrays or their shapes.
        Raises:    InputError for a pattern that matches no parameter, and for axes that do not fit.
        """
        leaves, paths = jax.tree.leaves(params), leaf_paths(params)
        if isinstance(self.rules, str):
            chosen = [self.rules] * len(leaves)
        else:
            chosen = by_leaf(dict(self.rules), params, "data") if leaves else []
        return [
            self._spec(path, leaf, one)
            for path, leaf, one in zip(paths, leaves, chosen, strict=True)
        ]

    def _opt_state(self, train_state: TrainState, specs: list[PartitionSpec]) -> PyTree:
        """Return shardings of an optimizer's state: what is like a parameter lies where that lies.

        It is like one if it has its shape, and its path ends with that of the parameter.
        """
        params, opt_state = train_state.params, train_state.opt_state
        known = {
            (path, leaf.shape): spec
            for path, leaf, spec in zip(
                leaf_paths(params), jax.tree.leaves(params), specs, strict=True
            )
        }
        rest: Whole = "full" if self.rules == "full" else "data"

        def one(path: str, leaf: Array) -> NamedSharding:
            steps = path.split("/")
            for i in range(len(steps) + 1):
                spec = known.get(("/".join(steps[i:]), leaf.shape))
                if spec is not None:
                    return self.sharding(spec)
            return self.sharding(self._spec(path, leaf, rest))

        leaves = map(one, leaf_paths(opt_state), jax.tree.leaves(opt_state))
        return jax.tree.unflatten(jax.tree.structure(opt_state), leaves)

    def _spec(self, path: str, leaf: Array, wanted: PartitionSpec | Whole) -> PartitionSpec:
        """Return how one parameter is split."""
        if wanted == "data":
            return PartitionSpec()
        if wanted != "full":
            _check_spec(self, path, leaf, wanted)
            return wanted
        devices = self.mesh.shape[self.axis]
        fits = [i for i, n in enumerate(leaf.shape) if n % devices == 0]
        if leaf.size < _SMALL or not fits:
            return PartitionSpec()
        largest = max(fits, key=lambda i: leaf.shape[i])
        return PartitionSpec(*(None,) * largest, self.axis)

    @property
    def axis(self) -> str:
        """The axis of the mesh that batches are split over."""
        return self.axes[0]

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the mesh that arrays may be split over."""
        return tuple(str(name) for name in self.mesh.axis_names if name != self.runs)

    @property
    def is_shared(self) -> bool:
        """Whether the mesh has devices of other processes too."""
        return not self.sharding().is_fully_addressable

    def slots(self, size: int) -> np.ndarray:
        """Return which examples of a batch lie on devices of this process.

        Args:
            size: of the batch; one that does not divide evenly lies on every device as a whole.
        """
        if size % self.mesh.shape[self.axis]:
            return np.arange(size)
        place = self.sharding(PartitionSpec(self.axis))
        parts = place.addressable_devices_indices_map((size,)).values()
        found = {i for part in parts if part for i in range(*part[0].indices(size))}
        return np.array(sorted(found))

    def sharding(self, spec: PartitionSpec | None = None) -> NamedSharding:
        """Return a place on the mesh.

        Args:
            spec: which axes are split; None for whole arrays on every device.
        """
        mesh: Unchecked = self.mesh
        if self.runs is not None:
            # Inside of `jax.shard_map` over the runs only the mesh that says so will do.
            around = jax.sharding.get_abstract_mesh()
            mesh = around if self.runs in around.manual_axes else mesh
        return NamedSharding(mesh, PartitionSpec() if spec is None else spec)

    def held_bytes(self, leaf: Array, spec: PartitionSpec) -> int:
        """Return how many bytes of an array each device holds.

        Args:
            leaf: the array or its shape.
            spec: how it is split.
        """
        return math.prod(self.sharding(spec).shard_shape(leaf.shape)) * leaf.dtype.itemsize

    def keep(self, train_state: TrainState) -> TrainState:
        """Return a train state that lies where it should, inside of a compiled function.

        Args:
            train_state: the train state.
        """
        places = self.of(train_state)
        # Key and numbers are changed by no step, and lie where they lay.
        changed = ("params", "state", "opt_state", "step")
        kept = {
            name: jax.tree.map(
                jax.lax.with_sharding_constraint, getattr(train_state, name), getattr(places, name)
            )
            for name in changed
        }
        return train_state._replace(**kept)

    def split(self, batch: PyTree) -> PyTree:
        """Return a batch split over the first axis of the mesh, inside of a compiled function.

        One that does not divide evenly is computed as it is too: JAX leaves some device less.

        Args:
            batch: arrays with a leading axis of examples.
        """
        place = self.sharding(PartitionSpec(self.axis))
        return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, place), batch)

    def replicated(self, tree: PyTree) -> PyTree:
        """Return arrays that every device has as a whole, inside of a compiled function.

        Args:
            tree: the arrays.
        """
        place = self.sharding()
        return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, place), tree)

    def put(self, train_state: TrainState) -> TrainState:
        """Return a train state of any place where it should lie.

        Args:
            train_state: on one device, on this mesh or on another.
        """
        return jax.tree.map(_put, train_state, self.of(train_state))

    def put_params(self, params: Params) -> Params:
        """Return parameters of any place where they should lie.

        Args:
            params: arrays.
        """
        places = map(self.sharding, self.params_specs(params))
        return jax.tree.map(_put, params, jax.tree.unflatten(jax.tree.structure(params), places))

    def put_whole(self, tree: PyTree) -> PyTree:
        """Return arrays as a whole on every device.

        Args:
            tree: the arrays.
        """
        return jax.tree.map(lambda leaf: _put(leaf, self.sharding()), tree)

    def put_steps(self, batch: PyTree, steps: int, size: int) -> PyTree:
        """Return the rows of some steps as arrays (steps, size, ...), each step split.

        Args:
            batch: rows (steps * size, ...), in several processes those of `slots` in each step.
            steps: how many.
            size: examples in a step, in all processes.
        """
        even = size % self.mesh.shape[self.axis] == 0
        place = self.sharding(PartitionSpec(None, self.axis) if even else None)

        def one(leaf: Array) -> Array:
            rows = leaf.reshape(steps, -1, *leaf.shape[1:])
            if self.is_shared:
                return jax.make_array_from_process_local_data(place, np.asarray(rows))
            return _put(rows, place)

        return jax.tree.map(one, batch)


def _put(leaf: Unchecked, place: NamedSharding) -> Array:
    if not place.is_fully_addressable and is_key(leaf):
        # JAX sends the words of a key to other processes, and no keys.
        return on_words(lambda words: _put(words, place), leaf)
    placed: Array = jax.device_put(leaf, place)
    return placed


def _check_spec(layout: Layout, path: str, leaf: Array, spec: PartitionSpec) -> None:
    """Raise unless the axes of a parameter can be split so."""
    if len(spec) > len(leaf.shape):
        raise InputError(
            f"at most {len(leaf.shape)} axes in the sharding of {path!r}, {describe(leaf)}",
            str(spec),
            "leave axes out",
        )
    for i, names in enumerate(spec):
        parts = 1
        for name in axes_of(names):
            if name not in layout.axes:
                known = f"the axes {', '.join(map(repr, layout.axes))} of the mesh"
                raise InputError(f"{known} in the sharding of {path!r}", repr(name), "name one")
            parts *= layout.mesh.shape[name]
        if leaf.shape[i] % parts:
            raise InputError(
                f"axis {i} of {path!r} to be divisible by {parts}, as {spec} splits it",
                describe(leaf),
                "choose another width, or 'data' or another PartitionSpec for this path",
            )


def axes_of(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the axes of the mesh that one axis of an array is split over.

    Args:
        names: an entry of a `jax.sharding.PartitionSpec`.

    >>> axes_of(None), axes_of("data"), axes_of(("data", "model"))
    ((), ('data',), ('data', 'model'))
    """
    if names is None:
        return ()
    return names if isinstance(names, tuple) else (names,)


def layout_of(mesh: Mesh | None, sharding: Sharding | None) -> Layout | None:
    """Return the layout that is asked for, None where nothing is.

    Args:
        mesh: the devices, None for all there are along one axis, where a sharding is given.
        sharding: where parameters lie; None for ``"data"``.
    Raises:    InputError for what is neither.

    >>> layout_of(None, "full").axis
    'data'
    """
    if mesh is None and sharding is None:
        return None
    rules: Unchecked = "data" if sharding is None else sharding
    if isinstance(rules, Mapping):
        rules = _checked_rules(rules)
    else:
        check.one_of(rules, "sharding", _WORDS, "pass one, or a dict of PartitionSpecs by paths")
    if mesh is None:
        return Layout(Mesh(np.asarray(jax.devices()), (_AXIS,)), rules)
    return Layout(checked_mesh(mesh), rules)


def layout_in_use(params: Params, mesh: Mesh | None, sharding: Sharding | None) -> Layout | None:
    """Return the layout to use parameters in: the one that is asked for, else as they lie.

    Args:
        params: from any device; those that lie on the mesh stay, and others are whole.
        mesh: the devices; None for those of the parameters, where they lie on several.
        sharding: where parameters are to lie; None for where they do.
    Raises:    InputError for what is no mesh and no sharding.

    >>> layout_in_use({"weight": jnp.ones(2)}, None, None)
    """
    if sharding is not None:
        return layout_of(mesh, sharding)
    found = [_place_of(leaf) for leaf in jax.tree.leaves(params)]
    own = next((place.mesh for place in found if place is not None), None)
    known: Unchecked = own if mesh is None else mesh
    if known is None:
        return None
    devices = checked_mesh(known)
    specs = [
        place.spec if place is not None and checked_mesh(place.mesh) == devices else PartitionSpec()
        for place in found
    ]
    words: tuple[Whole, ...] = ("data", "full")
    for layout in (Layout(devices, word) for word in words):
        # In a word, since `fnn.shared` hands on parameters whose paths are those of others.
        pairs = zip(specs, layout.params_specs(params), strict=True)
        if all(layout.sharding(one) == layout.sharding(other) for one, other in pairs):
            return layout
    return Layout(devices, tuple(zip(leaf_paths(params), specs, strict=True)))


def _place_of(leaf: Unchecked) -> NamedSharding | None:
    """Return where an array lies on a mesh of several devices, None for any other."""
    if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer):
        return None
    place = leaf.sharding
    return place if isinstance(place, NamedSharding) and place.mesh.size > 1 else None


def _checked_rules(rules: Unchecked) -> tuple[tuple[str, PartitionSpec | Whole], ...]:
    if not rules:
        raise InputError("a pattern or more", "an empty mapping", "pass sharding='data'")
    for pattern, spec in rules.items():
        if not isinstance(pattern, str):
            raise InputError("patterns over paths", describe(pattern), "pass text such as '*/up/*'")
        if not isinstance(spec, PartitionSpec):
            remedy = "pass one of them, or a jax.sharding.PartitionSpec"
            check.one_of(spec, f"the sharding of {pattern!r}", _WORDS, remedy)
    return tuple(rules.items())


def checked_mesh(mesh: Unchecked) -> Mesh:
    """Return the same mesh with axes that JAX partitions automatically, or raise unless it is one.

    Args:
        mesh: what may be one; `jax.make_mesh` makes axes of the explicit kind.
    """
    if not isinstance(mesh, Mesh) or not mesh.axis_names:
        remedy = "make one, as in jax.make_mesh((jax.device_count(),), ('data',))"
        raise InputError("a jax.sharding.Mesh", describe(mesh), remedy)
    names = tuple(map(str, mesh.axis_names))
    return Mesh(mesh.devices, names, axis_types=(AxisType.Auto,) * len(names))


def planned_on(mesh: Unchecked, sharding: Unchecked) -> Layout:
    """Return the layout on devices that need not be there, to tell sizes by.

    Args:
        mesh: the devices, None for one.
        sharding: where parameters lie, as in `fnn.fit`.
    Raises:    InputError for what is no mesh and no sharding.

    >>> planned_on(AbstractMesh((64,), ("data",)), "full").mesh.size
    64
    """
    if mesh is None:
        mesh = AbstractMesh((1,), (_AXIS,))
    if not isinstance(mesh, Mesh | AbstractMesh) or not mesh.axis_names:
        remedy = "make one, as in jax.sharding.AbstractMesh((64,), ('data',))"
        raise InputError("a jax.sharding.AbstractMesh or Mesh", describe(mesh), remedy)
    names = tuple(map(str, mesh.axis_names))
    kinds = (AxisType.Auto,) * len(names)
    automatic: Unchecked = AbstractMesh(tuple(mesh.axis_sizes), names, axis_types=kinds)
    if sharding is None:
        remedy = "pass 'data', 'full', or patterns over paths"
        raise InputError("a sharding", describe(sharding), remedy)
    known: Unchecked = layout_of(None, sharding)
    return Layout(automatic, known.rules)


def start_on(
    layout: Layout,
    model: Layer,
    optimizer: Optimizer,
    x: Input,
    key: Array,
    gradient: Gradient,
    precision: Precision | None,
) -> TrainState:
    """Return the train state at the start, of which no device ever holds what it does not keep.

    Args:
        layout: where it is to lie.
        model: as in `init_train_state`.
        optimizer: likewise.
        x: the shapes of a batch.
        key: as in `init_train_state`.
        gradient: likewise.
        precision: likewise.
    """
    made = {"model": model, "optimizer": optimizer, "gradient": gradient, "precision": precision}
    structure, numbers = split(**made)
    leaves, tree = jax.tree.flatten(x)
    specs = tree, tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    params, state, opt_state, key, step = _start_on(
        structure, numbers, layout, specs, layout.put_whole(key), structure.at_init
    )
    # Copies: a key may be the caller's, and a run gives its buffers away.
    numbers = layout.put_whole(jax.tree.map(jnp.copy, hyperparameters(model, optimizer, gradient)))
    return TrainState(params, state, opt_state, key, step, numbers)


@functools.partial(jax.jit, static_argnames=("structure", "layout", "specs", "at_init"))
def _start_on(
    structure: Structure,
    numbers: dict[str, Scalar],
    layout: Layout,
    specs: tuple[Unchecked, tuple[jax.ShapeDtypeStruct, ...]],
    key: Array,
    at_init: tuple[Hashable, ...],
) -> tuple[PyTree, ...]:
    del at_init  # of the structure, which equals one of other initializers
    made = structure.build(numbers)
    x = jax.tree.unflatten(*specs)
    start = init_train_state(
        made["model"], made["optimizer"], x, key=key,
        gradient=made["gradient"], precision=made["precision"],
    )  # fmt: skip
    kept = layout.keep(start)
    return *kept[:3], layout.replicated(kept.key), kept.step


@entry
def shard(params: Params, mesh: Mesh, sharding: Sharding = "data") -> Params:
    """Put parameters onto the devices of a mesh.

    For weights from a file that are to be evaluated, or generate, on several devices; `fnn.fit`
    makes or moves its own.

    Args:
        params: a tree of arrays, from any device or from NumPy.
        mesh: the devices, as in `fnn.fit`.
        sharding: ``"data"`` for whole parameters on every device, ``"full"`` or patterns over paths
            for parts, as in `fnn.fit`.
    Raises:    InputError for what is no array, no mesh and no sharding, a pattern that matches no
        parameter, and for axes that are not divisible by the devices.

    >>> import fnn, jax, jax.numpy as jnp
    >>> params, state = fnn.dense(8).init(jax.random.key(0), jnp.ones((1, 256)))
    >>> params = shard(params, jax.make_mesh((1,), ("data",)), "full")
    >>> tuple(params["weight"].sharding.spec)
    ('data',)
    """
    params = require_arrays(params, "params") if jax.tree.leaves(params) else params
    layout = layout_of(checked_mesh(mesh), sharding)
    assert layout is not None
    return layout.put_params(params)


@entry
def tensor_parallel(model: Layer, axis: str = "model") -> dict[str, PartitionSpec]:
    """Return how to split the matrices inside of layers over an axis of the mesh.

    Of an attention the heads are split, of an MLP the hidden width, so that a block sums over the
    devices twice, behind attention and behind the MLP; of an embedding the vocabulary, and of a
    linear head the classes. All other parameters stay whole. To be passed to `fnn.fit` as
    ``sharding=``, with a mesh of two axes, the first for the batches.

    What is to be otherwise is joined to it by ``|``: the path of a parameter counts on either side,
    as in ``{"3/weight": "data"} | fnn.train.tensor_parallel(model)``, and a pattern in front. For
    that all that is returned are patterns, which end in ``*``.

    Args:
        model: a model with `fnn.transformer_block`, `fnn.attention`, `fnn.mlp`, `fnn.embedding` or
            `fnn.linear_head` in it.
        axis: of the mesh.
    Raises:    InputError for a model without such layers, and for an axis that is no text.
    Source:    Shoeybi et al. 2019, arXiv:1909.08053, section 3.

    >>> import fnn
    >>> for path, spec in tensor_parallel(fnn.serial(fnn.mlp(), fnn.linear_head(10))).items():
    ...     print(path, tuple(spec))
    0/up/weight* (None, 'model')
    0/up/bias* ('model',)
    0/down/weight* ('model',)
    1/weight* (None, 'model')
    1/bias* ('model',)
    """
    require_layer(model)
    if not isinstance(axis, str) or not axis:
        raise InputError("an axis of the mesh", describe(axis), "pass its name, as in 'model'")
    found = dict(_split_layers(model, axis, "", 0))
    if not found:
        expected = "a model with attention, mlp, embedding or linear_head in it"
        raise InputError(expected, describe(model), "pass sharding='full', or patterns over paths")
    return found


def _split_layers(
    layer: Layer, axis: str, path: str, copies: int
) -> Iterator[tuple[str, PartitionSpec]]:
    """Yield patterns and axes of the layers inside that are split, those of the widest first.

    Args:
        layer: the model, or a part of it.
        axis: of the mesh.
        path: that of the layer.
        copies: how many axes `fnn.repeat` puts in front.
    """
    made = layer.call.name if layer.call is not None else ""
    parts = _PARTS.get(made)
    if parts is None:
        copies += layer.copies is not None
        for step, child in layer.children.items():
            yield from _split_layers(child, axis, join(path, step), copies)
        return
    for step, names in parts.items():
        child = layer.children.get(step, layer)
        for name, place in names.items():
            if name != "bias" or _has_bias(child):
                spec = PartitionSpec(*(None,) * (copies + place), axis)
                # A pattern, though it matches one path: that path itself is left to the caller.
                yield f"{join(path, join(step, name))}*", spec


# Of each layer its parts, and of their arrays the axis that is split.
_IN, _OUT = {"weight": 1, "bias": 0}, {"weight": 0}
_PARTS: dict[str, dict[str, dict[str, int]]] = {
    "attention": {"query": _IN, "key": _IN, "value": _IN, "output": _OUT},
    "mlp": {"up": _IN, "down": _OUT},
    "embedding": {"": {"weight": 0}},
    "linear_head": {"": _IN},
}


def _has_bias(layer: Layer) -> bool:
    """Say whether a layer that a constructor made has a bias: a gate takes none."""
    return layer.call is not None and bool(layer.call.arguments().get("bias", False))
