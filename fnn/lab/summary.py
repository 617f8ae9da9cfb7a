"""What a model is made of, and what it keeps for its backward pass."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax

from fnn._core.errors import entry
from fnn._core.table import in_bytes, table
from fnn._core.types import Array, PyTree
from fnn.combinators.walk import join, layers_by_path, map_layers
from fnn.layer import Layer


class LayerRow(NamedTuple):
    """One layer of a summary: sizes are totals over all copies that `fnn.repeat` makes of it."""

    path: str
    name: str
    layer: Layer
    input: Any
    output: Any
    parameters: int
    residual_bytes: int


class Summary(NamedTuple):
    """The layers of a model; prints as a table."""

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

    def __str__(self) -> str:
        lines = [
            (
                row.path or ".",
                row.name,
                "" if row.output is None else _shapes(row.output),
                f"{row.parameters:,}",
                in_bytes(row.residual_bytes),
            )
            for row in self.rows
        ]
        total = ("total", "", "", f"{self.parameters:,}", in_bytes(self.residual_bytes))
        body = table(("path", "layer", "output", "parameters", "residuals"), [*lines, total])
        return f"{body}\nstate: {self.state_size:,} numbers; residuals of one training step"


@entry
def summary(model: Layer, x: Any) -> Summary:
    """Describe a model for an input: path, output shape, parameters and residuals of every layer.

    `x` is a batch or its `jax.ShapeDtypeStruct`; nothing is computed. Residuals are what training
    keeps from the forward for the backward pass, in bytes; an array that two layers keep counts
    once, at the first.

    >>> import fnn, jax
    >>> model = fnn.serial(fnn.dense(256), fnn.relu(), fnn.dense(10))
    >>> print(summary(model, jax.ShapeDtypeStruct((32, 784), "float32")))
    path   layer  output     parameters  residuals
    0      dense  (32, 256)     200,960   98.0 KiB
    1      relu   (32, 256)           0   32.0 KiB
    2      dense  (32, 10)        2,570        0 B
    total                       203,530  130.0 KiB
    state: 0 numbers; residuals of one training step
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    x = jax.eval_shape(lambda x: x, x)
    params, state = jax.eval_shape(model.init, key, x)
    shapes = layer_shapes(model, params, state, x)
    layers = layers_by_path(model)
    sizes = {path: math.prod(leaf.shape) for path, leaf in _leaves(params)}
    kept = residual_bytes(model, params, state, x, key)
    parameters, residuals = _by_layer(layers, sizes), _by_layer(layers, kept)
    # A combinator has a row of its own only for what it keeps itself, as `remat` does.
    wrappers = _wrappers(model)
    rows = []
    for path, layer in layers.items():
        before, after = shapes.get(path, (x, None))
        if path in shapes or parameters[path] or residuals[path]:
            name = layer.name if path in shapes else wrappers[path]
            sizes_here = parameters[path], residuals[path]
            rows.append(LayerRow(path, name, layer, before, after, *sizes_here))
    return Summary(tuple(rows), sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state)))


@entry
def layer_shapes(model: Layer, params: PyTree, state: PyTree, x: Any) -> dict[str, tuple[Any, Any]]:
    """Return the shapes of input and output of every layer by path; nothing is computed.

    >>> import fnn, jax
    >>> x = jax.ShapeDtypeStruct((2, 3), "float32")
    >>> shapes = layer_shapes(fnn.serial(fnn.relu(), fnn.flatten()), ((), ()), ((), ()), x)
    >>> shapes["1"][1].shape
    (2, 3)
    """
    seen: dict[str, tuple[Any, Any]] = {}

    def watch(path: str, layer: Layer) -> Layer:
        def apply(params: PyTree, state: PyTree, x: Any, /, **options: Any) -> tuple[Any, PyTree]:
            y, state = layer.apply(params, state, x, **options)
            seen[path] = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (x, y))
            return y, state

        return Layer(layer.init, apply, layer.forward, layer.backward)

    watched = map_layers(watch, model)
    jax.eval_shape(lambda p, s, x: watched.apply(p, s, x)[0], params, state, x)
    return seen


def residual_bytes(
    layer: Layer, params: PyTree, state: PyTree, x: Any, key: Array
) -> dict[str, int]:
    """Return the bytes that `forward` keeps in training by path; arrays kept twice count once.

    Parameters are not counted, since `backward` is handed them.
    """
    paths: list[str] = []

    def residuals(params: PyTree, state: PyTree, x: Any, key: Array) -> list[Any]:
        _, _, kept = layer.forward(params, state, x, key=key, train=True)
        leaves = _leaves(kept)
        paths[:] = [path for path, _ in leaves]
        return [leaf for _, leaf in leaves]

    sizes = unique_bytes(residuals, params, state, x, key)
    return dict(zip(paths, sizes, strict=True))


def unique_bytes(function: Any, params: PyTree, *args: Any) -> list[int]:
    """Return the bytes of every output of a function; none for its params, or for repetitions."""
    program = jax.make_jaxpr(function)(params, *args).jaxpr
    counted = {id(variable) for variable in program.invars[: len(jax.tree.leaves(params))]}
    sizes = []
    for variable in program.outvars:
        aval: Any = variable.aval
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


def _leaves(tree: PyTree) -> list[tuple[str, Any]]:
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    ]


def _by_layer(layers: dict[str, Layer], sizes: dict[str, int]) -> dict[str, int]:
    """Add up the sizes of leaves by the layer that owns them: the one of the longest path."""
    totals = dict.fromkeys(layers, 0)
    for leaf, size in sizes.items():
        steps = leaf.split("/")
        owner = next(
            path for n in range(len(steps), -1, -1) if (path := "/".join(steps[:n])) in totals
        )
        totals[owner] += size
    return totals


def _shapes(tree: Any) -> str:
    return str(jax.tree.map(lambda a: tuple(a.shape), tree)).replace("'", "")
