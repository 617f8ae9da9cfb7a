"""Computation graph: every node of a value with what goes forward and what comes backward."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn._core.table import table
from fnn._core.types import Array, Data, Key, Output, Params, PyTree, State, Unchecked
from fnn.combinators.walk import join
from fnn.gradient.objective import as_batch
from fnn.lab._tape import Step, Tape, probes_of
from fnn.lab.tolerance import rounding
from fnn.layer import Layer, use_manual
from fnn.losses import Loss, mean
from fnn.losses._loss import counted_weights, require_loss

Kind: TypeAlias = Literal["input", "parameter", "target", "constant", "operation", "layer", "loss"]
Detail: TypeAlias = Literal["layers", "operations"]

# What a graph of more nodes than this is folded to.
_READABLE = 60
_SHORT = 24
# How a call is called that is a layer, with its path, or a loss.
_LAYER, _LOSS = "layer:", "loss:|"
_SYMBOLS = {
    "add": "+", "add_any": "+", "sub": "−", "mul": "×", "div": "÷", "neg": "−x", "exp": "exp",
    "log": "log", "logistic": "σ", "sigmoid": "σ", "square": "x²", "dot_general": "@", "max": "max",
    "reduce_sum": "Σ", "reduce_max": "max", "pow": "xʸ", "sqrt": "√",
    "rsqrt": "1/√", "select_n": "select", "transpose": "ᵀ", "mean": "mean",
}  # fmt: skip


class Node(NamedTuple):
    """A node of the computation graph.

    Args:
        name: its name, no other's.
        label: what is written in it: ``x``, ``×``, ``dense(3)``.
        kind: leaves are ``"input"``, ``"parameter"``, ``"target"`` and ``"constant"``, the others
            ``"operation"``, ``"layer"`` and ``"loss"``.
        value: what goes forward, or a list where there are several arrays.
        gradient: what comes backward: the derivative of the graph's value, by hand for layers and
            losses that have it so; None where there is none, as for integers.
        auto: the same by autodiff.
        agrees: whether the two are equal to rounding.
    """

    name: str
    label: str
    kind: Kind
    value: PyTree
    gradient: PyTree
    auto: PyTree
    agrees: bool


class Edge(NamedTuple):
    """An edge of the computation graph, from an operand to what is made of it.

    Args:
        source: the name of the operand's node.
        target: the name of the node that it goes into.
        derivative: that of the target in the source, where both are one number; else None.
    """

    source: str
    target: str
    derivative: float | None


class Graph(NamedTuple):
    """A computation graph, with forward and backward values.

    Args:
        nodes: the nodes by name, operands before what is made of them.
        edges: the edges.
        root: the name of the node that is the value.
        note: what was folded to make it readable; empty where nothing was.
    """

    nodes: dict[str, Node]
    edges: tuple[Edge, ...]
    root: str
    note: str = ""

    def to_dict(self) -> dict[str, PyTree]:
        """Return the graph as lists, numbers and text, as JSON has them."""
        nodes = [
            node._replace(**{field: _listed(getattr(node, field)) for field in _ARRAYS})._asdict()
            for node in self.nodes.values()
        ]
        edges = [edge._asdict() for edge in self.edges]
        return {"nodes": nodes, "edges": edges, "root": self.root, "note": self.note}

    def to_dot(self) -> str:
        """Return the graph in the DOT language of Graphviz."""
        shapes = {"operation": "circle", "layer": "box", "loss": "doubleoctagon"}
        lines = ["digraph {", "  rankdir=LR;"]
        for node in self.nodes.values():
            label = "\\n".join((node.label, _shown(node.value), _shown(node.gradient)))
            style = f'label="{_quoted(label)}", shape={shapes.get(node.kind, "plaintext")}'
            lines.append(f'  "{_quoted(node.name)}" [{style}];')
        for edge in self.edges:
            known = "" if edge.derivative is None else f' [label="{edge.derivative:.3g}"]'
            lines.append(f'  "{_quoted(edge.source)}" -> "{_quoted(edge.target)}"{known};')
        return "\n".join([*lines, "}"])

    def describe(self) -> str:
        """Return the graph in words, for those who cannot see it."""
        parts = []
        for node in self.nodes.values():
            sources = [self.nodes[e.source].label for e in self.edges if e.target == node.name]
            made = f" of {', '.join(sources)}" if sources else ""
            backward = "no gradient" if node.gradient is None else f"gradient {_node_text(node)[1]}"
            parts.append(f"{node.kind} {node.label}{made}: value {_node_text(node)[0]}, {backward}")
        return "; ".join(parts) + "."

    def __str__(self) -> str:
        rows = [
            [node.label, node.kind, *_node_text(node), "" if node.agrees else "by hand ≠ autodiff"]
            for node in self.nodes.values()
        ]
        lines = [table(("node", "kind", "value", "gradient", ""), rows), self.note]
        return "\n".join(filter(None, lines))


_ARRAYS = ("value", "gradient", "auto")


@entry
def graph(
    function: Callable[..., Array] | Layer,
    *args: PyTree,
    detail: Detail = "layers",
    key: Key = None,
    **named: PyTree,
) -> Graph:
    """Computation graph of a function to one number, or of the objective of a model.

    ``graph(function, *args)`` is that of any function of JAX with one result, whose arguments are
    its leaves; ``graph(model, loss, params, state, batch)`` that of the objective that training
    makes small, in training mode, with the layers as nodes: their gradients are those by hand, and
    a node says where autodiff gives others.

    What only changes the form of an array (broadcasting, reshaping, conversion) is left out, and
    loops of few turns are unrolled. A graph of more than 60 nodes is folded: combinators become
    nodes, the innermost first, and the graph says so.

    Args:
        function: a function to one number, or a model.
        args: its arguments, or ``loss, params, state, batch``.
        detail: of a model, ``"layers"`` for a node to a layer, or ``"operations"``.
        key: of a model, the key of its layers' randomness.
        named: arguments of the function by name.
    Raises:    InputError for a result that is not one floating-point number.

    >>> import fnn, jax
    >>> neuron = fnn.graph(lambda w, x, b: jax.nn.sigmoid(w * x + b), 0.5, 2.0, -1.0)
    >>> print(neuron)
    node  kind       value  gradient
    w     input      0.5         0.5
    x     input      2         0.125
    ×     operation  1          0.25
    b     input      -1         0.25
    +     operation  0          0.25
    σ     operation  0.5           1

    """
    check.one_of(detail, "detail", ("layers", "operations"))
    if isinstance(function, Layer):
        if named or len(args) != 4:
            raise InputError("loss, params, state and a batch", f"{len(args)} arguments", "pass 4")
        return _of_model(function, *args, key, detail)
    check.function(function, "function", "pass a function, or a model")
    bound = inspect.signature(function).bind(*args, **named)
    leaves = _leaves(bound.arguments)
    structure = jax.tree.structure(bound.arguments)

    def flat(*arrays: Array) -> Array:
        values = jax.tree.unflatten(structure, arrays)
        again = inspect.BoundArguments(bound.signature, values)
        return function(*again.args, **again.kwargs)

    return _draw_up(flat, flat, {name: ("input", value) for name, value in leaves.items()})


def _leaves(tree: PyTree) -> dict[str, Array]:
    """Return the arrays of a tree by their paths, all as arrays of JAX."""
    found = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not isinstance(leaf, int | float | complex) and not hasattr(leaf, "dtype"):
            raise InputError(f"{name} of numbers", describe(leaf), "pass a number or an array")
        value = jnp.asarray(leaf)
        # A whole number in Python is meant as a number to differentiate by.
        found[name] = value.astype(float) if type(leaf) is int else value
    return found


def _of_model(
    model: Layer, loss: Loss, params: Params, state: State, data: Data, key: Key, detail: Detail
) -> Graph:
    """Return the graph of an objective, folded until it can be read."""
    require_loss(loss)
    batch = as_batch(data)
    kinds: dict[str, Kind] = {"x": "input", "target": "target", "weights": "target"}
    parts = {"x": batch.x, "target": batch.target, "params": params}
    if batch.weights is not None:
        parts["weights"] = batch.weights
    structure = jax.tree.structure(parts)
    inputs: dict[str, tuple[Kind, Array]] = {}
    for name, value in _leaves(parts).items():
        part, _, path = name.partition("/")
        inputs[path if part == "params" else name] = (kinds.get(part, "parameter"), value)

    def objective(way: Callable[[Layer], Layer], depth: int) -> Callable[..., Array]:
        marked = _marked(model, "", way, depth, detail)
        return functools.partial(_objective, structure, marked, loss, state, key)

    for depth in range(_depth(model), -1, -1):
        by_hand, by_auto = (objective(way, depth) for way in (use_manual, _as_it_is))
        found = _draw_up(by_hand if detail == "layers" else by_auto, by_auto, inputs)
        if len(found.nodes) <= _READABLE or depth == 0:
            break
    folded = depth < _depth(model)
    return found._replace(note=f"combinators below depth {depth} are folded" if folded else "")


def _objective(
    structure: PyTree, model: Layer, loss: Loss, state: State, key: Key, *arrays: Array
) -> Array:
    """Return the mean loss of a batch; the leaves of parameters and batch are the arguments."""
    tree = jax.tree.unflatten(structure, arrays)
    # In float64 where the two ways are compared.
    state = jax.tree.map(_widest, state)
    prediction, _ = model.apply(tree["params"], state, tree["x"], key=key, train=True)
    values = _named(f"{_LOSS}{loss!r}", loss.apply)(prediction, tree["target"])
    weights = counted_weights(loss, tree["target"], tree.get("weights"))
    if values.size == 1 and weights is None:
        return values.reshape(())
    return _named("mean", lambda *given: mean(*given)[0])(values, weights)


def _widest(leaf: Array) -> Array:
    is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
    return leaf.astype(jnp.result_type(float)) if is_float else leaf


def _named(name: str, function: Callable[..., Unchecked]) -> Callable[..., Unchecked]:
    """Return a function that is one call of a name in a traced program."""

    def call(*args: PyTree) -> PyTree:
        return function(*args)

    call.__name__ = name
    return jax.jit(call)


def _as_it_is(layer: Layer) -> Layer:
    return layer


def _marked(
    layer: Layer, path: str, way: Callable[[Layer], Layer], depth: int, detail: Detail
) -> Layer:
    """Return a model whose layers are calls with a name, down to a depth."""
    if depth and layer.rebuild is not None and layer.copies is None:
        return layer.rebuild(
            *(
                _marked(child, join(path, name), way, depth - 1, detail)
                for name, child in layer.children.items()
            )
        )
    if detail == "operations":
        return Layer(layer.init, layer.plain, layer.forward, layer.backward)
    inside, text = way(layer), repr(layer)
    name = f"{_LAYER}{path}|{text if len(text) <= _SHORT else layer.name}"

    def apply(
        params: Params, state: State, x: PyTree, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        # The new state goes nowhere from here: it is no part of the value.
        call = _named(name, lambda *given: inside.apply(*given[:3], key=given[3], train=train)[0])
        return call(params, state, x, key), state

    return Layer(layer.init, apply, layer.forward, layer.backward)


def _depth(layer: Layer) -> int:
    """Return how deep the combinators of a model are nested."""
    if layer.rebuild is None or layer.copies is not None:
        return 0
    return 1 + max((_depth(child) for child in layer.children.values()), default=0)


def _draw_up(
    by_hand: Callable[..., Array],
    by_auto: Callable[..., Array],
    inputs: Mapping[str, tuple[Kind, Array]],
) -> Graph:
    """Return the graph of a function, by hand where it has such gradients, and by auto."""
    names, values = list(inputs), [value for _, value in inputs.values()]
    steps, root = _tape(by_hand, values).record(values, names)
    gradients, auto = (_gradients(f, values, names, steps) for f in (by_hand, by_auto))
    agrees = _agreements(by_hand, by_auto, values, names, steps)
    above, nodes, edges = _ancestors(steps, root), {}, []
    called = {name: name for name in names}

    def leaf(name: str) -> None:
        kind, value = inputs[name]
        grads = gradients.get(name), auto.get(name)
        nodes[name] = _node(name, name, kind, value, *grads, agrees.get(name, True))

    for step in (step for step in steps if step.node in above):
        for source in step.operands:
            if source is not None and source in inputs and source not in nodes:
                leaf(source)
        kind, path, label = _appearance(step)
        called[step.node] = name = _free(path or label, nodes)
        value = step.results[0] if len(step.results) == 1 else list(step.results)
        grads = gradients[step.node], auto[step.node]
        nodes[name] = _node(name, label, kind, value, *grads, agrees[step.node])
        edges += [
            Edge(called[source], name, _derivative(step, i))
            for i, source in enumerate(step.operands)
            if source is not None
        ]
    if root in inputs:
        leaf(root)
    return Graph(nodes, tuple(_merged(edges)), called[root])


def _tape(function: Callable[..., Array], values: list[Array]) -> Tape:
    traced = jax.make_jaxpr(function)(*values)
    results = traced.out_avals
    one = len(results) == 1 and results[0].shape == ()
    if not one or not jnp.issubdtype(results[0].dtype, jnp.floating):
        got = ", ".join(map(str, results))
        raise InputError("a function to one floating-point number", got, "sum over the result")
    return Tape(traced, lambda name: name.startswith((_LAYER, _LOSS)))


def _free(name: str, taken: Mapping[str, Node]) -> str:
    """Return a name, or that name with the first number that makes it new."""
    names = (name if i == 1 else f"{name} {i}" for i in itertools.count(1))
    return next(one for one in names if one not in taken)


def _agreements(
    by_hand: Callable[..., Array],
    by_auto: Callable[..., Array],
    values: list[Array],
    names: list[str],
    steps: list[Step],
) -> dict[str, bool]:
    """Return for every node whether its two gradients are equal in float64."""
    if by_hand is by_auto:
        return dict.fromkeys([*names, *(step.node for step in steps)], True)
    with jax.enable_x64(True):
        wide = [_widened(value) for value in values]
        again = _tape(by_hand, wide).record(wide, names)[0]
        one, other = (_gradients(f, wide, names, again) for f in (by_hand, by_auto))
    scale = max(np.abs(leaf).max(initial=0) for leaf in jax.tree.leaves(other))
    limit = scale * rounding(jnp.float64, max(np.size(leaf) for leaf in jax.tree.leaves(other)))

    def equal(a: PyTree, b: PyTree) -> bool:
        pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return all(np.allclose(x, y, rtol=0, atol=limit, equal_nan=True) for x, y in pairs)

    return {name: equal(one[name], other[name]) for name in one}


def _widened(value: Array) -> Array:
    return value.astype("float64") if jnp.issubdtype(value.dtype, jnp.floating) else value


def _gradients(
    function: Callable[..., Array], values: list[Array], names: list[str], steps: list[Step]
) -> dict[str, PyTree]:
    """Return the derivative of the value in every node, by name."""
    tape = _tape(function, values)
    floating = [bool(jnp.issubdtype(value.dtype, jnp.floating)) for value in values]

    def value(probes: dict[str, list[Array]], floats: list[Array]) -> Array:
        left = iter(floats)
        pairs = zip(floating, values, strict=True)
        arrays = [next(left) if is_float else array for is_float, array in pairs]
        return tape.value(probes, arrays, names)

    floats = [value for value, is_float in zip(values, floating, strict=True) if is_float]
    of_nodes, of_inputs = jax.grad(value, (0, 1))(probes_of(steps), floats)
    found = {}
    for step in steps:
        grads = [
            grad if jnp.issubdtype(result.dtype, jnp.floating) else None
            for grad, result in zip(of_nodes[step.node], step.results, strict=True)
        ]
        found[step.node] = grads[0] if len(grads) == 1 else grads
    known = (name for name, is_float in zip(names, floating, strict=True) if is_float)
    return found | dict(zip(known, of_inputs, strict=True))


def _ancestors(steps: list[Step], root: str) -> set[str]:
    """Return the nodes that the value is made of."""
    found = {root}
    for step in reversed(steps):
        if step.node in found:
            found |= {node for node in step.operands if node is not None}
    return found


def _node(
    name: str, label: str, kind: Kind, value: PyTree, gradient: PyTree, auto: PyTree, agrees: bool
) -> Node:
    value, gradient, auto = (jax.tree.map(np.asarray, tree) for tree in (value, gradient, auto))
    return Node(name, label, kind, value, gradient, auto, agrees)


def _appearance(step: Step) -> tuple[Kind, str, str]:
    """Return the kind, the path and the label of an operation, a plain constant beside it."""
    before, _, label = step.name.partition("|")
    if step.name.startswith(_LAYER):
        return "layer", before.removeprefix(_LAYER), label
    if step.name.startswith(_LOSS):
        return "loss", "", label
    symbol = _SYMBOLS.get(step.name, step.name)
    pairs = zip(step.operands, step.inputs, strict=True)
    numbers = [f"{float(a):.3g}" for node, a in pairs if node is None and np.ndim(a) == 0]
    return "operation", "", " ".join([symbol, *numbers[:1]])


def _derivative(step: Step, i: int) -> float | None:
    """Return the derivative of a number in one of the numbers that it is made of."""
    scalars = (*step.inputs, *step.results)
    if len(step.results) != 1 or any(
        np.ndim(a) or not jnp.issubdtype(jnp.asarray(a).dtype, jnp.floating) for a in scalars
    ):
        return None
    arrays = [jnp.asarray(a) for a in step.inputs]
    tangents = [jnp.ones_like(a) if j == i else jnp.zeros_like(a) for j, a in enumerate(arrays)]
    _, (slope,) = jax.jvp(lambda *xs: tuple(step.run(*xs)), tuple(arrays), tuple(tangents))
    return float(slope)


def _merged(edges: list[Edge]) -> list[Edge]:
    """Return the edges with those between the same nodes made one, whose derivatives add."""
    found: dict[tuple[str, str], Edge] = {}
    for edge in edges:
        ends = edge.source, edge.target
        before = found.get(ends)
        known = [e.derivative for e in (before, edge) if e is not None]
        total = None if None in known else math.fsum(d for d in known if d is not None)
        found[ends] = edge._replace(derivative=total)
    return list(found.values())


def _node_text(node: Node) -> tuple[str, str]:
    """Return the value and the gradient of a node as short text."""
    return _shown(node.value), _shown(node.gradient)


def _shown(value: PyTree) -> str:
    """Return an array as short text: the number, or its shape, mean and standard deviation.

    >>> _shown(np.float32(0.25)), _shown(np.ones((2, 3))), _shown(None)
    ('0.25', '2×3, mean 1, std 0', '')
    """
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return " | ".join(_shown(part) for part in value)
    array = np.asarray(value)
    if array.size == 1:
        return f"{array.item():.4g}" if array.dtype != bool else str(array.item())
    shape = "×".join(map(str, array.shape))
    if array.dtype.kind in "iub" or not array.size:
        return f"{shape} {array.dtype}"
    wide = np.asarray(array, np.float64)
    return f"{shape}, mean {wide.mean():.3g}, std {wide.std():.3g}"


def _listed(value: PyTree) -> PyTree:
    return jax.tree.map(lambda a: np.asarray(a).tolist(), value)


def _quoted(text: str) -> str:
    return text.replace('"', '\\"')
