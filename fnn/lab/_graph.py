"""What a computation graph is: nodes, edges, the steps through it, and exercises on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple, TypeAlias

import jax
import numpy as np

from fnn._core import check
from fnn._core.errors import InputError
from fnn._core.table import table
from fnn._core.types import Array, PyTree
from fnn.lab._answers import mark

Kind: TypeAlias = Literal["input", "parameter", "target", "constant", "operation", "layer", "loss"]
Way: TypeAlias = Literal["forward", "backward"]

_ARRAYS = ("value", "gradient", "auto")
# Arrays of no more rows and columns are written as numbers.
_SMALL = 3
_STYLES = {
    "input": 'shape=box, style="rounded,filled", fillcolor="#FFF4D6"',
    "parameter": 'shape=box, style="rounded,filled", fillcolor="#DDEFE6"',
    "target": 'shape=box, style="rounded,filled", fillcolor="#EEE6F5"',
    "constant": 'shape=box, style="rounded,filled", fillcolor="#F2F2F2"',
    "operation": "shape=circle",
    "layer": 'shape=box, style=filled, fillcolor="#E3EEF8"',
    "loss": 'shape=doubleoctagon, style=filled, fillcolor="#FBE3D6"',
}


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
        gradient: what comes back along the edge, in the shape of the source's value: the gradient
            of the source is the sum over its edges.
    """

    source: str
    target: str
    derivative: float | None
    gradient: PyTree


class Frame(NamedTuple):
    """A step through the computation graph: one node, and what becomes known of it.

    Args:
        node: the name of the node.
        way: ``"forward"`` for its value, ``"backward"`` for its gradient.
        text: the calculation in words.
    """

    node: str
    way: Way
    text: str


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

    def frames(self) -> tuple[Frame, ...]:
        """Return the steps of the calculation: the value of every node, then every gradient.

        Values are found from the first node to the last, gradients from the last to the first.

        >>> import fnn
        >>> for frame in fnn.graph(lambda w, x: w * x + w, 2.0, 3.0).frames()[3:6]:
        ...     print(frame.way, frame.text)
        forward [+] = [×] + w = 6 + 2 = 8
        backward gradient of [+] = 1: it is the value itself
        backward gradient of [×] = 1 · 1 (through [+]) = 1
        """
        values = [Frame(name, "forward", self._how_value(name)) for name in self.nodes]
        back = [Frame(name, "backward", self._how_gradient(name)) for name in self.nodes]
        return (*values, *back[::-1])

    def blank(
        self, gradients: Collection[str] | None = None, values: Collection[str] = ()
    ) -> Exercise:
        """Return the graph as an exercise: with empty boxes, whose answers it checks.

        Args:
            gradients: names of the nodes whose gradients are to be found; all but the last node's
                where it is None.
            values: names of the nodes whose values are to be found.
        Raises:    InputError for names that are not in the graph, and of nodes that have no one
            gradient.

        >>> import fnn
        >>> exercise = fnn.graph(lambda w, x: w * x, 2.0, 3.0).blank()
        >>> print(exercise.check({"w": 3.0, "x": -2.0}))
        node  asked for  answer  mark
        w     gradient        3  right
        x     gradient       -2  wrong: the sign is turned round
        """
        if gradients is None:
            gradients = [n.name for n in self.nodes.values() if _is_one(n.gradient)]
            gradients = [name for name in gradients if name != self.root]
        asked = []
        for names, field in ((gradients, "gradient"), (values, "value")):
            members = list(check.several(names, f"{field}s of names", "pass names of nodes"))
            known = [n.name for n in self.nodes.values() if _is_one(getattr(n, field))]
            for name in members:
                check.one_of(name, f"{field}s of nodes", known, "pass their names")
            asked.append(tuple(members))
        return Exercise(self, *asked)

    def to_dict(self) -> dict[str, PyTree]:
        """Return the graph as lists, numbers and text, as JSON has them."""
        nodes = [
            node._replace(**{field: _listed(getattr(node, field)) for field in _ARRAYS})._asdict()
            for node in self.nodes.values()
        ]
        edges = [edge._replace(gradient=_listed(edge.gradient))._asdict() for edge in self.edges]
        return {"nodes": nodes, "edges": edges, "root": self.root, "note": self.note}

    def to_dot(self) -> str:
        """Return the graph in the DOT language of Graphviz."""
        lines = ["digraph {", "  rankdir=LR;"]
        for node in self.nodes.values():
            label = "\\n".join((node.label, shown(node.value), shown(node.gradient)))
            style = f'label="{_quoted(label)}", {_STYLES[node.kind]}'
            style += "" if node.agrees else ', color="red", penwidth=3'
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
            backward = "no gradient" if node.gradient is None else f"gradient {_texts(node)[1]}"
            parts.append(f"{node.kind} {node.label}{made}: value {_texts(node)[0]}, {backward}")
        return "; ".join(parts) + "."

    def __str__(self) -> str:
        rows = [
            [node.label, node.kind, *_texts(node), "" if node.agrees else "by hand ≠ autodiff"]
            for node in self.nodes.values()
        ]
        lines = [table(("node", "kind", "value", "gradient", ""), rows), self.note]
        return "\n".join(filter(None, lines))

    def title(self, name: str) -> str:
        """Return what a node is called in a sentence: a layer with its path, a sign in brackets."""
        node = self.nodes[name]
        if node.kind == "layer" and name != node.label:
            return f"{name} {node.label}"
        return name if name[:1].isalnum() else f"[{name}]"

    def _how_value(self, name: str) -> str:
        """Say how the value of a node is found."""
        node, title = self.nodes[name], self.title(name)
        result = _equals(node.value)
        sources = [self.nodes[edge.source] for edge in self.edges if edge.target == name]
        if not sources:
            return f"{title} {result}: given"
        words = [self.title(one.name) for one in sources]
        if any(np.size(one.value) != 1 for one in (*sources, node)):
            return f"{title} of {', '.join(words)} {result}"
        numbers = [shown(one.value) for one in sources]
        if node.label not in ("+", "−", "×", "÷") or len(sources) != 2:
            return f"{node.label} of {', '.join(numbers)} (from {', '.join(words)}) {result}"
        signed = [f"({n})" if n.startswith("-") and i else n for i, n in enumerate(numbers)]
        sign = f" {node.label} "
        return f"{title} = {sign.join(words)} = {sign.join(signed)} {result}"

    def _how_gradient(self, name: str) -> str:
        """Say how the gradient of a node is found from what comes back along its edges."""
        node, title = self.nodes[name], self.title(name)
        if name == self.root:
            return f"gradient of {title} = 1: it is the value itself"
        if node.gradient is None:
            return f"{title} has no gradient"
        out = [edge for edge in self.edges if edge.source == name]
        if all(edge.derivative is not None for edge in out):
            parts = [
                f"{_signed(edge.derivative or 0.0, i)} · "
                f"{_signed(float(self.nodes[edge.target].gradient), 1)} "
                f"(through {self.title(edge.target)})"
                for i, edge in enumerate(out)
            ]
        else:
            parts = [f"what comes back from {self.title(edge.target)}" for edge in out]
        return f"gradient of {title} = {' + '.join(parts)} {_equals(node.gradient)}"


class Exercise(NamedTuple):
    """A computation graph with empty boxes to be filled in; `fnn.plot.graph` draws it.

    Args:
        graph: the graph with all that is known of it: the solution.
        gradients: names of the nodes whose gradients are to be found.
        values: names of the nodes whose values are to be found.
    """

    graph: Graph
    gradients: tuple[str, ...]
    values: tuple[str, ...] = ()

    def check(
        self,
        gradients: Mapping[str, PyTree] | None = None,
        values: Mapping[str, PyTree] | None = None,
        *,
        tolerance: float = 0.01,
    ) -> Marks:
        """Mark answers: right, or what is probably wrong.

        Told apart are the sign, a factor of 2 or another, an answer that is transposed, the value
        in place of the gradient, a branch that was not added, and a derivative that is not
        multiplied with what comes back. What has no answer is not right.

        Args:
            gradients: answers by the names of nodes.
            values: the same for values.
            tolerance: how far an answer may be off, as a fraction of the largest entry: answers
                may be rounded.
        Raises:    InputError for answers that nobody asked for, and a tolerance outside (0, 1).
        """
        check.number(tolerance, "tolerance", above=0, below=1)
        marks = []
        for field, asked, given in (
            ("value", self.values, values or {}),
            ("gradient", self.gradients, gradients or {}),
        ):
            extra = next((name for name in given if name not in asked), None)
            if extra is not None:
                known = ", ".join(map(repr, asked)) or "none"
                raise InputError(f"{field}s of {known}", repr(extra), "answer what is asked for")
            for name in asked:
                found = mark(
                    given.get(name),
                    np.asarray(getattr(self.graph.nodes[name], field), np.float64),
                    self._mistakes(name, field),
                    tolerance,
                )
                answer = "" if name not in given else shown(given[name])
                marks.append(Mark(name, field, answer, not found, found or "right"))
        return Marks(tuple(marks))

    def _mistakes(self, name: str, field: str) -> list[tuple[str, PyTree]]:
        """Return what may have been taken for the answer, with what to say of it."""
        graph, node = self.graph, self.graph.nodes[name]
        if field == "value":
            sources = [edge.source for edge in graph.edges if edge.target == name]
            same = [(f"that is the value of {one}", graph.nodes[one].value) for one in sources]
            return [("that is the gradient, not the value", node.gradient), *same]
        out = [edge for edge in graph.edges if edge.source == name]
        found: list[tuple[str, PyTree]] = []
        if len(out) > 1:
            found += [
                (f"what comes back from {graph.title(edge.target)} is not added",
                 np.subtract(node.gradient, edge.gradient))
                for edge in out
            ] + [
                (f"that is what comes back from {graph.title(edge.target)} alone; other branches "
                 "add to it", edge.gradient)
                for edge in out
            ]  # fmt: skip
        found.append(("that is the value, not the gradient", node.value))
        for edge in out:
            behind = graph.nodes[edge.target]
            found += [
                (f"that is the gradient of {graph.title(edge.target)}, not yet multiplied with the "
                 "local derivative", behind.gradient),
                (f"that is the local derivative of {graph.title(edge.target)}, not yet multiplied "
                 "with what comes back", edge.derivative),
            ]  # fmt: skip
        return found

    def __str__(self) -> str:
        rows = []
        for node in self.graph.nodes.values():
            value, gradient = _texts(node)
            value = "?" if node.name in self.values else value
            gradient = "?" if node.name in self.gradients else gradient
            rows.append([node.name, node.label, node.kind, value, gradient])
        return table(("name", "node", "kind", "value", "gradient"), rows)


class Mark(NamedTuple):
    """What became of one box of an exercise.

    Args:
        node: the name of the node.
        field: ``"value"`` or ``"gradient"``.
        answer: the answer as text, empty where there is none.
        right: whether it is right.
        text: ``"right"``, or what is probably wrong.
    """

    node: str
    field: str
    answer: str
    right: bool
    text: str


class Marks(NamedTuple):
    """What became of an exercise, box by box; prints as a table.

    Args:
        marks: one for each box.
    """

    marks: tuple[Mark, ...]

    @property
    def right(self) -> bool:
        """Whether all answers are right."""
        return all(one.right for one in self.marks)

    def __str__(self) -> str:
        rows = [[one.node, one.field, one.answer, one.text] for one in self.marks]
        return table(("node", "asked for", "answer", "mark"), rows)


def is_small(array: Array | np.ndarray) -> bool:
    """Say whether an array is written as numbers: of at most 3 rows and 3 columns.

    >>> is_small(np.ones((3, 3))), is_small(np.ones(4))
    (True, False)
    """
    shape = np.shape(array)
    return len(shape) <= 2 and np.size(array) > 0 and max(shape, default=1) <= _SMALL


def shown(value: PyTree) -> str:
    """Return an array as a line: numbers up to 3 by 3, else shape, mean and standard deviation.

    >>> shown(np.float32(0.25)), shown(np.eye(2)), shown(np.ones((2, 4))), shown(None)
    ('0.25', '[1 0; 0 1]', '2×4, mean 1, std 0', '')
    """
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return " | ".join(_shape(np.asarray(part)) for part in value)
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        return _shape(array)
    if array.size == 1:
        return _number(array.item())
    if is_small(array):
        rows = [" ".join(map(_number, row)) for row in np.atleast_2d(array).tolist()]
        return f"[{'; '.join(rows)}]"
    if array.dtype.kind in "iub" or not array.size:
        return f"{_shape(array)} {array.dtype}"
    wide = array.astype(np.float64)
    return f"{_shape(array)}, mean {wide.mean():.3g}, std {wide.std():.3g}"


def _equals(value: PyTree) -> str:
    """Return what a calculation comes to, as the end of a sentence."""
    several = isinstance(value, list | tuple)
    return f"= {shown(value)}" if not several and is_small(value) else f"(array {shown(value)})"


def _shape(array: np.ndarray) -> str:
    return "×".join(map(str, array.shape)) or "1"


def _number(value: float | bool) -> str:
    return str(value) if isinstance(value, bool) else f"{value:.4g}"


def _signed(value: float, place: int) -> str:
    """Return a number as a factor: one below zero in brackets, unless it stands first."""
    return f"({value:.4g})" if value < 0 and place else f"{value:.4g}"


def _is_one(value: PyTree) -> bool:
    """Say whether there is one array to ask for."""
    return value is not None and not isinstance(value, list | tuple)


def _texts(node: Node) -> tuple[str, str]:
    """Return the value and the gradient of a node as short text."""
    return shown(node.value), shown(node.gradient)


def _listed(value: PyTree) -> PyTree:
    return jax.tree.map(lambda a: np.asarray(a).tolist(), value)


def _quoted(text: str) -> str:
    return text.replace('"', '\\"')
