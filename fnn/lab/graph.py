"""Computation graph: every node of a value with what goes forward and what comes backward."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn._core.keys import words_of
from fnn._core.types import Array, Data, Key, Output, Params, PyTree, State, Unchecked
from fnn.combinators.walk import join
from fnn.gradient.objective import as_batch
from fnn.lab._graph import Edge, Graph as Graph, Kind, Node
from fnn.lab._tape import LAYER, LOSS, Operand, Step, Tape, fold_likelihood
from fnn.lab.tolerance import rounding
from fnn.layer import Layer, use_manual
from fnn.losses import Loss, mean
from fnn.losses._loss import counted_weights, require_loss

Detail: TypeAlias = Literal["layers", "operations"]
Objective: TypeAlias = Callable[..., Array]

# What a graph of more nodes than this is folded to.
_READABLE = 60
_SHORT = 24
_SYMBOLS = {
    "add": "+", "add_any": "+", "sub": "−", "mul": "×", "div": "÷", "neg": "−x", "exp": "exp",
    "log": "log", "logistic": "σ", "sigmoid": "σ", "square": "x²", "dot_general": "@", "max": "max",
    "reduce_sum": "Σ", "reduce_max": "max", "pow": "xʸ", "sqrt": "√",
    "rsqrt": "1/√", "select_n": "select", "transpose": "ᵀ", "mean": "mean", "scan": "loop",
    "gather": "pick", "take_along_axis": "pick", "_take_along_axis": "pick", "concatenate": "join",
    "gt": ">", "ge": "≥", "lt": "<", "le": "≤", "eq": "=", "ne": "≠",
    "conv_general_dilated": "conv",
}  # fmt: skip
# Operations whose constant may stand first.
_ORDERED = {"sub", "div", "pow", "gt", "ge", "lt", "le"}


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

    What only changes the form of an array (broadcasting, reshaping, conversion) and the arithmetic
    of indices are left out, loops of few turns are unrolled, and log-softmax with the negative
    log-likelihood is one node. A graph of more than 60 nodes is folded, and says so: operations
    become layers, combinators become nodes, the innermost first, and so do loops and calls of
    functions under `jax.jit`.

    `Graph.frames` steps through it, `Graph.blank` makes an exercise of it, `fnn.plot.graph` draws
    it; it prints as a table, and is written as DOT, JSON and words.

    Args:
        function: a function to one number, or a model.
        args: its arguments, or ``loss, params, state, batch``.
        detail: ``"layers"`` for a node to a layer, and to log-softmax with its loss, or
            ``"operations"``.
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
    places = ", ".join(f"argument {i + 1}" for i in range(len(args)))
    takes = f"{places}, *, {', '.join(named)}" if named else places
    check.function(function, "function", "pass its arguments", takes=takes)
    bound = inspect.signature(function).bind(*args, **named)
    leaves = _leaves(bound.arguments)
    structure = jax.tree.structure(bound.arguments)

    def flat(*arrays: Array) -> Array:
        values = jax.tree.unflatten(structure, arrays)
        again = inspect.BoundArguments(bound.signature, values)
        return function(*again.args, **again.kwargs)

    inputs: dict[str, tuple[Kind, Array]] = {
        name: ("input", value) for name, value in leaves.items()
    }
    if _size(flat, inputs, detail) <= _READABLE:
        return _draw_up(flat, flat, inputs, detail)
    found = _draw_up(flat, flat, inputs, detail, folded=True)
    few = len(found.nodes) <= _READABLE
    advice = "" if few else f"; {len(found.nodes)} nodes are left: put parts under jax.jit"
    return found._replace(note=f"calls and loops are folded{advice}")


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

    def objective(way: Callable[[Layer], Layer], depth: int, detail: Detail) -> Objective:
        marked = _marked(model, "", way, depth, detail)
        return functools.partial(_objective, structure, marked, loss, state, key)

    deepest = _depth(model)
    by_auto = objective(_as_it_is, deepest, "operations")
    if detail == "operations" and _size(by_auto, inputs, detail) <= _READABLE:
        return _draw_up(by_auto, by_auto, inputs, detail)
    notes = ["operations are folded to layers"] * (detail == "operations")
    for depth in range(deepest, -1, -1):
        by_hand, by_auto = (objective(way, depth, "layers") for way in (use_manual, _as_it_is))
        if depth == 0 or _size(by_hand, inputs, "layers") <= _READABLE:
            break
    notes += [f"combinators below depth {depth} are folded"] * (depth < deepest)
    return _draw_up(by_hand, by_auto, inputs, "layers")._replace(note="; ".join(notes))


def _objective(
    structure: PyTree, model: Layer, loss: Loss, state: State, key: Key, *arrays: Array
) -> Array:
    """Return the mean loss of a batch; the leaves of parameters and batch are the arguments."""
    tree = jax.tree.unflatten(structure, arrays)
    # In float64 where the two ways are compared.
    state = jax.tree.map(_widest, state)
    prediction, _ = model.apply(tree["params"], state, tree["x"], key=key, train=True)
    values = _named(f"{LOSS}{loss!r}", loss.apply)(prediction, tree["target"])
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
    name = f"{LAYER}{path}|{text if len(text) <= _SHORT else layer.name}"

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


def _size(
    function: Callable[..., Array], inputs: Mapping[str, tuple[Kind, Array]], detail: Detail
) -> int:
    """Return how many nodes the graph of a function has; nothing is computed."""
    names, values = list(inputs), [value for _, value in inputs.values()]
    tape, sizes = _tape(function, values), []

    def count(*given: Array) -> None:
        steps, root = tape.record(given, names)
        steps = fold_likelihood(steps) if detail == "layers" else steps
        sizes.append(len(_ancestors(steps, root)))

    jax.eval_shape(count, *values)
    return sizes[0]


def _draw_up(
    by_hand: Callable[..., Array],
    by_auto: Callable[..., Array],
    inputs: Mapping[str, tuple[Kind, Array]],
    detail: Detail,
    folded: bool = False,
) -> Graph:
    """Return the graph of a function, by hand where it has such gradients, and by auto."""
    names, values = list(inputs), [value for _, value in inputs.values()]
    steps, root = _tape(by_hand, values, folded).record(values, names)
    ways = [by_hand] if by_hand is by_auto else [by_hand, by_auto]
    gradients, *others = _gradients(ways, values, names, _results(steps), folded)
    auto = others[0] if others else gradients
    agrees = _agreements(ways, values, names)
    if detail == "layers":
        steps = fold_likelihood(steps)
    above, edges = _ancestors(steps, root), []
    nodes: dict[str, Node] = {}
    called = {name: name for name in names}

    def leaf(name: str, kind: Kind, value: Array, here: str) -> None:
        grads = gradients.get(here), auto.get(here)
        nodes[name] = _node(name, name, kind, value, *grads, agrees.get(here, True))

    for step in (step for step in steps if step.node in above):
        for source in step.sources:
            if source in inputs and source not in nodes:
                leaf(source, *inputs[source], source)
        kind, path, label = _appearance(step)
        for operand in (one for one in step.operands if _is_drawn(one, kind)):
            called[operand.key] = _free("constant", nodes)
            leaf(called[operand.key], "constant", operand.value, operand.key)
        called[step.node] = name = _free(path or label, nodes)
        value = step.results[0] if len(step.results) == 1 else list(step.results)
        grads = gradients[step.node], auto[step.node]
        nodes[name] = _node(name, label, kind, value, *grads, agrees.get(step.node, True))
        for i, operand in enumerate(step.operands):
            here = operand.node or operand.key
            if here in called:
                back = jax.tree.map(np.asarray, gradients.get(operand.key))
                edges.append(Edge(called[here], name, _derivative(step, i), back))
    if root in inputs:
        leaf(root, *inputs[root], root)
    return Graph(nodes, tuple(_merged(edges)), called[root])


def _is_drawn(operand: Operand, kind: Kind) -> bool:
    """Say whether an operand is a constant with a node of its own: an array of several values."""
    value = operand.value
    if operand.node is not None or kind != "operation" or np.ndim(value) == 0:
        return False
    is_number = any(jnp.issubdtype(value.dtype, one) for one in (jnp.floating, jnp.bool_))
    return is_number and not _is_uniform(value)


def _is_uniform(value: Array) -> bool:
    flat = np.asarray(value).ravel()
    return bool(flat.size and (flat == flat[0]).all())


def _tape(function: Callable[..., Array], values: list[Array], folded: bool = False) -> Tape:
    traced = jax.make_jaxpr(function)(*values)
    results = traced.out_avals
    one = len(results) == 1 and results[0].shape == ()
    if not one or not jnp.issubdtype(results[0].dtype, jnp.floating):
        got = ", ".join(map(str, results))
        raise InputError("a function to one floating-point number", got, "sum over the result")
    if folded:
        return Tape(traced, lambda name: not name.startswith("custom_"), unrolled=0)
    return Tape(traced, lambda name: name.startswith((LAYER, LOSS)))


def _free(name: str, taken: Mapping[str, Node]) -> str:
    """Return a name, or that name with the first number that makes it new."""
    names = (name if i == 1 else f"{name} ({i})" for i in itertools.count(1))
    return next(one for one in names if one not in taken)


def _agreements(
    ways: list[Callable[..., Array]], values: list[Array], names: list[str]
) -> dict[str, bool]:
    """Return for the nodes whether their gradients both ways are equal in float64."""
    if len(ways) == 1:
        return {}
    with jax.enable_x64(True):
        wide = [_widened(value) for value in values]
        tape = _tape(ways[0], wide)
        shapes = jax.eval_shape(lambda *given: _results(tape.record(given, names)[0]), *wide)
        one, other = _gradients(ways, wide, names, shapes)
    nodes = [key for key in one if key in names or key in shapes.nodes]
    leaves = [leaf for key in nodes for leaf in jax.tree.leaves(other[key])]
    scale = max(np.abs(leaf).max(initial=0) for leaf in leaves)
    limit = scale * rounding(jnp.float64, max(map(np.size, leaves)))

    def equal(a: PyTree, b: PyTree) -> bool:
        pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return all(np.allclose(x, y, rtol=0, atol=limit, equal_nan=True) for x, y in pairs)

    return {key: equal(one[key], other[key]) for key in nodes}


def _widened(value: Array) -> Array:
    return value.astype("float64") if jnp.issubdtype(value.dtype, jnp.floating) else value


class _Results(NamedTuple):
    """What operations result in by node, and what they read by the key of the operand."""

    nodes: dict[str, tuple[Array, ...]]
    reads: dict[str, tuple[Array, ...]]


def _results(steps: list[Step]) -> _Results:
    reads = {o.key: o.results for step in steps for o in step.operands if o.node is not None}
    return _Results({step.node: step.results for step in steps}, reads)


def _gradients(
    ways: list[Callable[..., Array]],
    values: list[Array],
    names: list[str],
    results: _Results,
    folded: bool = False,
) -> list[dict[str, PyTree]]:
    """Return for each function the derivative in every node, by name, and along edges, by key."""
    floating = [bool(jnp.issubdtype(value.dtype, jnp.floating)) for value in values]

    def value(tape: Tape, probes: dict[str, list[Array]], floats: list[Array]) -> Array:
        left = iter(floats)
        pairs = zip(floating, values, strict=True)
        arrays = [next(left) if is_float else array for is_float, array in pairs]
        return tape.value(probes, arrays, names)

    floats = [value for value, is_float in zip(values, floating, strict=True) if is_float]
    known = [name for name, is_float in zip(names, floating, strict=True) if is_float]
    arrays = results.nodes | results.reads
    probes = {key: [_zeros(one) for one in group] for key, group in arrays.items()}
    tapes = [_tape(way, values, folded) for way in ways]
    run = jax.jit(lambda *at: [jax.grad(functools.partial(value, t), (0, 1))(*at) for t in tapes])
    return [
        {key: _floating(of_probes[key], arrays[key]) for key in arrays}
        | dict(zip(known, of_inputs, strict=True))
        for of_probes, of_inputs in run(probes, floats)
    ]


def _zeros(array: Array) -> Array:
    floats = jnp.issubdtype(array.dtype, jnp.floating)
    return jnp.zeros(array.shape, array.dtype) if floats else jnp.zeros(())


def _floating(gradients: list[Array], results: Sequence[Array]) -> PyTree:
    """Return the gradient of one result or those of several, None in place of integers."""
    found = [
        gradient if jnp.issubdtype(result.dtype, jnp.floating) else None
        for gradient, result in zip(gradients, results, strict=True)
    ]
    return found[0] if len(found) == 1 else found


def _ancestors(steps: list[Step], root: str) -> set[str]:
    """Return the nodes that the value is made of."""
    found = {root}
    for step in reversed(steps):
        if step.node in found:
            found |= set(step.sources)
    return found


def _node(
    name: str, label: str, kind: Kind, value: PyTree, gradient: PyTree, auto: PyTree, agrees: bool
) -> Node:
    value, gradient, auto = (jax.tree.map(_as_numpy, tree) for tree in (value, gradient, auto))
    return Node(name, label, kind, value, gradient, auto, agrees)


def _as_numpy(array: Array) -> np.ndarray:
    """Return an array for NumPy; a key as its words."""
    return np.asarray(words_of(array))


def _appearance(step: Step) -> tuple[Kind, str, str]:
    """Return the kind, the path and the label of an operation, a plain constant beside it."""
    before, _, label = step.name.partition("|")
    if step.name.startswith(LAYER):
        return "layer", before.removeprefix(LAYER), label
    if step.name.startswith(LOSS):
        return "loss", "", label
    words = [_SYMBOLS.get(step.name, step.name)]
    for i, operand in enumerate(step.operands):
        floats = jnp.issubdtype(jnp.asarray(operand.value).dtype, jnp.number)
        if operand.node is None and floats and _is_uniform(operand.value):
            number = f"{float(np.ravel(operand.value)[0]):.3g}"
            first = i == 0 and step.name in _ORDERED
            return "operation", "", " ".join([number, *words] if first else [*words, number])
    return "operation", "", words[0]


def _derivative(step: Step, i: int) -> float | None:
    """Return the derivative of a number in one of the numbers that it is made of."""
    arrays = [jnp.asarray(operand.value) for operand in step.operands]
    scalars = [*arrays, *step.results]
    if step.run is None or len(step.results) != 1 or any(np.ndim(a) for a in scalars):
        return None
    if not all(jnp.issubdtype(a.dtype, jnp.floating) for a in scalars):
        return None
    run = step.run
    tangents = [jnp.ones_like(a) if j == i else jnp.zeros_like(a) for j, a in enumerate(arrays)]
    _, (slope,) = jax.jvp(lambda *xs: tuple(run(*xs)), tuple(arrays), tuple(tangents))
    return float(slope)


def _merged(edges: list[Edge]) -> list[Edge]:
    """Return the edges with those between the same nodes made one, whose derivatives add."""
    found: dict[tuple[str, str], Edge] = {}
    for edge in edges:
        ends = edge.source, edge.target
        before = found.get(ends)
        if before is not None:
            known = before.derivative, edge.derivative
            total = None if None in known else math.fsum(d for d in known if d is not None)
            back = jax.tree.map(np.add, before.gradient, edge.gradient)
            edge = edge._replace(derivative=total, gradient=back)
        found[ends] = edge
    return list(found.values())
