"""Summary of a model: its layers, their shapes, parameters and residuals."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from fnn._core.arrays import require_arrays
from fnn._core.errors import entry
from fnn._core.place import check_place
from fnn._core.table import in_bytes, table
from fnn._core.types import Array, Input, Key, Output, Params, PyTree, State, Unchecked
from fnn.combinators.walk import join, layers_by_path, map_layers
from fnn.layer import Layer, require_layer
from fnn.train.sharding import Sharding, axes_of, planned_on


class LayerRow(NamedTuple):
    """Row of a summary: one layer; sizes are totals over all copies that `fnn.repeat` makes of it.

    Args:
        path: the path of the layer, which is that of its parameters.
        name: its name.
        layer: the layer.
        input: the shape of its input, a tree of `jax.ShapeDtypeStruct`.
        output: the shape of its output; None of a combinator.
        parameters: the number of its parameters.
        residual_bytes: the bytes of its residuals.
        layout: how its parameters are split over a mesh, by their paths; None without a mesh.
        device_bytes: of those the bytes that each device holds; all of them without a mesh.

    """

    path: str
    name: str
    layer: Layer
    input: Input
    output: Output
    parameters: int
    residual_bytes: int
    layout: dict[str, PartitionSpec] | None
    device_bytes: int


class Summary(NamedTuple):
    """Summary of a model: its layers; prints as a table.

    Args:
        rows: one for each layer, and for a combinator that keeps something itself.
        state_size: the number of entries of the state.

    """

    rows: tuple[LayerRow, ...]
    state_size: int

    @property
    def parameters(self) -> int:
        """The number of all parameters."""
        return sum(row.parameters for row in self.rows)

    @property
    def residual_bytes(self) -> int:
        """The bytes of all residuals."""
        return sum(row.residual_bytes for row in self.rows)

    @property
    def device_bytes(self) -> int:
        """The bytes of all parameters that each device holds."""
        return sum(row.device_bytes for row in self.rows)

    def __repr__(self) -> str:
        header: list[str] = ["path", "layer", "output", "parameters", "residuals"]
        lines = [
            [
                row.path or ".",
                row.name,
                "" if row.output is None else _shapes(row.output),
                f"{row.parameters:,}",
                in_bytes(row.residual_bytes),
            ]
            for row in self.rows
        ]
        lines.append(["total", "", "", f"{self.parameters:,}", in_bytes(self.residual_bytes)])
        if any(row.layout is not None for row in self.rows):
            header += ["split over", "a device"]
            more = [[_axes(row.layout), in_bytes(row.device_bytes)] for row in self.rows]
            more.append(["", in_bytes(self.device_bytes)])
            lines = [[*line, *rest] for line, rest in zip(lines, more, strict=True)]
        body = table(header, lines)
        return f"{body}\nstate: {self.state_size:,} entries; residuals of one training step"


@entry
def summary(
    model: Layer,
    x: Input,
    *,
    mesh: Mesh | AbstractMesh | None = None,
    sharding: Sharding | None = None,
) -> Summary:
    """Describe a model for an input: path, output shape, parameters and residuals of every layer.

    Nothing is computed. Residuals are what training keeps from the forward for the backward pass,
    in bytes; an array that two layers keep counts once, at the first.

    Args:
        model: a layer or model.
        x: a batch, or its `jax.ShapeDtypeStruct`.
        mesh: devices, which need not be there; with them, or with a `sharding`, every row says over
            which axes parameters are split, and how many bytes of them each device holds.
        sharding: where parameters lie, as in `fnn.fit`; None for ``"data"``.
    Raises:    InputError for what is no layer or no array, and for a mesh and a sharding that
        `fnn.lab.plan` refuses.

    >>> import fnn, jax
    >>> model = fnn.serial(fnn.dense(256), fnn.relu(), fnn.dense(10))
    >>> x = jax.ShapeDtypeStruct((32, 784), "float32")
    >>> print(summary(model, x))
    path   layer  output     parameters  residuals
    0      dense  (32, 256)     200,960   98.0 KiB
    1      relu   (32, 256)           0   32.0 KiB
    2      dense  (32, 10)        2,570        0 B
    total                       203,530  130.0 KiB
    state: 0 entries; residuals of one training step
    >>> mesh = jax.sharding.AbstractMesh((8,), ("data",))
    >>> print(summary(model, x, mesh=mesh, sharding="full"))
    path   layer  output     parameters  residuals  split over   a device
    0      dense  (32, 256)     200,960   98.0 KiB  data         99.0 KiB
    1      relu   (32, 256)           0   32.0 KiB  -                 0 B
    2      dense  (32, 10)        2,570        0 B  data          1.3 KiB
    total                       203,530  130.0 KiB              100.3 KiB
    state: 0 entries; residuals of one training step

    """
    require_layer(model)
    x = require_arrays(x, shapes=True)
    key = jax.eval_shape(lambda: jax.random.key(0))
    x = jax.eval_shape(lambda x: x, x)
    params, state = jax.eval_shape(model.init, key, x)
    shapes = layer_shapes(model, params, state, x)
    layers = layers_by_path(model)
    asked = mesh is not None or sharding is not None
    layout = planned_on(mesh, "data" if sharding is None else sharding)
    leaves = _leaves(params)
    specs = dict(zip((path for path, _ in leaves), layout.params_specs(params), strict=True))
    held = {path: layout.held_bytes(leaf, specs[path]) for path, leaf in leaves}
    sizes = {path: math.prod(leaf.shape) for path, leaf in leaves}
    kept = residual_bytes(model, params, state, x, key)
    parameters, residuals, devices = (_by_layer(layers, one) for one in (sizes, kept, held))
    # A combinator has a row of its own only for what it keeps itself, as `remat` does.
    wrappers = _wrappers(model)
    rows = []
    for path, layer in layers.items():
        before, after = shapes.get(path, (x, None))
        if path in shapes or parameters[path] or residuals[path]:
            name = layer.name if path in shapes else wrappers[path]
            own = {leaf: spec for leaf, spec in specs.items() if _owner(layers, leaf) == path}
            rows.append(
                LayerRow(
                    path, name, layer, before, after, parameters[path], residuals[path],
                    own if asked else None, devices[path],
                )
            )  # fmt: skip
    return Summary(tuple(rows), sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state)))


def _axes(layout: dict[str, PartitionSpec] | None) -> str:
    """Return the axes of the mesh that some parameter is split over, or "-"."""
    found = {
        name: None for spec in (layout or {}).values() for axis in spec for name in axes_of(axis)
    }
    return ", ".join(found) or "-"


@entry
def layer_shapes(
    model: Layer, params: Params, state: State, x: Input
) -> dict[str, tuple[Input, Output]]:
    """Return the shapes of input and output of every layer by path; nothing is computed.

    Args:
        model: a layer or model.
        params: its parameters, or their shapes.
        state: its state, or its shapes.
        x: a batch, or its `jax.ShapeDtypeStruct`.
    Raises:    InputError for what is no layer or no array, and for parameters and state of another
        model.

    >>> import fnn, jax
    >>> x = jax.ShapeDtypeStruct((2, 3), "float32")
    >>> shapes = layer_shapes(fnn.serial(fnn.relu(), fnn.flatten()), ((), ()), ((), ()), x)
    >>> shapes["1"][1].shape
    (2, 3)

    """
    require_layer(model)
    x = require_arrays(x, shapes=True)
    check_place(model, params, state, x, shapes=True)
    seen: dict[str, tuple[Input, Output]] = {}
    watched = map_layers(functools.partial(_watched, seen), model)
    jax.eval_shape(lambda p, s, x: watched.apply(p, s, x)[0], params, state, x)
    return seen


def _watched(seen: dict[str, tuple[Input, Output]], path: str, layer: Layer) -> Layer:
    """Return a layer that puts the shapes of its input and output down in `seen`."""

    def apply(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        y, state = layer.apply(params, state, x, key=key, train=train)
        seen[path] = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (x, y))
        return y, state

    return Layer(layer.init, apply, layer.forward, layer.backward)


def residual_bytes(
    layer: Layer, params: Params, state: State, x: Input, key: Array
) -> dict[str, int]:
    """Return the bytes that `forward` keeps in training by path; arrays kept twice count once.

    Parameters are not counted, since `backward` is handed them.

    Args:
        layer: any layer or model.
        params: its parameters, or their shapes.
        state: its state, or its shapes.
        x: a batch (B, ...), or its shapes.
        key: of the layer's randomness, or its shape.
    """
    paths: list[str] = []

    def residuals(params: Params, state: State, x: Input, key: Array) -> list[Array]:
        _, _, kept = layer.forward(params, state, x, key=key, train=True)
        leaves = _leaves(kept)
        paths[:] = [path for path, _ in leaves]
        return [leaf for _, leaf in leaves]

    sizes = unique_bytes(residuals, params, state, x, key)
    return dict(zip(paths, sizes, strict=True))


def unique_bytes(function: Callable[..., PyTree], params: Params, *args: PyTree) -> list[int]:
    """Return the bytes of every output of a function; none for its params, or for repetitions.

    Args:
        function: ``(params, *args) -> tree of arrays``; it is traced, and not run.
        params: its first argument, arrays or their shapes.
        args: the others, arrays or their shapes.
    """
    program = jax.make_jaxpr(function)(params, *args).jaxpr
    counted = {id(variable) for variable in program.invars[: len(jax.tree.leaves(params))]}
    sizes = []
    for variable in program.outvars:
        aval: Unchecked = variable.aval
        sizes.append(0 if id(variable) in counted else aval.size * aval.dtype.itemsize)
        counted.add(id(variable))
    return sizes


def _wrappers(model: Layer, path: str = "") -> dict[str, str]:
    """Return the names of the combinators at each path, those that wrap others around them."""
    inside: dict[str, str] = {}
    for name, child in model.children.items():
        inside |= _wrappers(child, join(path, name))
    if path in inside:
        return inside | {path: f"{model.name}({inside[path]})"}
    return inside | ({path: model.name} if model.children else {})


def _leaves(tree: PyTree) -> list[tuple[str, Array]]:
    """Return the leaves of a tree with their paths."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    ]


def _by_layer(layers: dict[str, Layer], sizes: dict[str, int]) -> dict[str, int]:
    """Add up the sizes of leaves by the layer that owns them: the one of the longest path."""
    totals = dict.fromkeys(layers, 0)
    for leaf, size in sizes.items():
        totals[_owner(layers, leaf)] += size
    return totals


def _owner(layers: dict[str, Layer], leaf: str) -> str:
    """Return the path of the layer that owns a leaf."""
    steps = leaf.split("/")
    return next(path for n in range(len(steps), -1, -1) if (path := "/".join(steps[:n])) in layers)


def _shapes(tree: Output) -> str:
    """Write the shapes of a tree."""
    return str(jax.tree.map(lambda a: tuple(a.shape), tree)).replace("'", "")
