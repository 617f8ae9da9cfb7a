"""Picture of a computation graph: what goes forward above each node, what comes backward below."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn._core.extras import require
from fnn._core.types import Unchecked
from fnn.lab._graph import Edge, Exercise, Graph, Node, is_small
from fnn.plot._figure import BLUE, RED, heading, new_figure
from fnn.plot._thumbnail import thumbnail

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

Point: TypeAlias = tuple[float, float]

# Inches: between what stands side by side, at least and most between layers, from the middle of a
# node to its numbers, a line of these, and an image.
_GAP, _NEAR, _FAR, _AWAY, _ROW, _IMAGE = 0.4, 1.1, 1.9, 0.29, 0.135, 0.55
# Inches that a letter of a label, and of a number, is wide.
_LETTER, _DIGIT = 0.085, 0.068
_FORWARD, _BACKWARD, _WRONG, _LINE = BLUE, RED, "#CC0000", "#555555"
_BOXES = {
    "input": ("round,pad=0.35", "#FFF4D6"),
    "parameter": ("round,pad=0.35", "#DDEFE6"),
    "target": ("round,pad=0.35", "#EEE6F5"),
    "constant": ("round,pad=0.35", "#F2F2F2"),
    "operation": ("circle,pad=0.25", "#FFFFFF"),
    "layer": ("square,pad=0.4", "#E3EEF8"),
    "loss": ("square,pad=0.4", "#FBE3D6"),
}


@entry
def graph(graph: Graph | Exercise, *, step: int | None = None) -> Figure:
    """Computation graph with values: blue above a node goes forward, orange below comes backward.

    Leaves are rounded, operations circles, layers and losses boxes. A red frame marks a node whose
    gradient by hand is not that of autodiff. Numbers on edges are the local derivatives. Images,
    feature maps and the weights of images are shown small, the first example and 16 channels at
    most. The empty boxes of an exercise hold a question mark.

    Args:
        graph: what `fnn.graph` returns, or an exercise of it, from `Graph.blank`.
        step: how far the calculation is: the n nodes get their values in steps 1 to n, and their
            gradients in steps n + 1 to 2 n, from the last node to the first; None for all.
    Raises:    InputError for what is no graph, and for a step above 2 n.

    >>> import fnn
    >>> drawn = graph(fnn.graph(lambda w, x: w * x, 2.0, 3.0))
    >>> [text.get_text() for text in drawn.axes[0].texts][:3]
    ['w', '2', '3']

    """
    return draw(graph, step).figure


class Drawing(NamedTuple):
    """A picture of a graph, and what it draws of every node and edge."""

    figure: Figure
    boxes: list[Patch]
    values: list[list[Artist]]
    gradients: list[list[Artist]]
    derivatives: list[list[Artist]]


def draw(graph: Graph | Exercise, step: int | None) -> Drawing:
    """Draw a graph at a step of its calculation."""
    exercise = graph if isinstance(graph, Exercise) else None
    solved = graph.graph if isinstance(graph, Exercise) else graph
    _check(solved, step)
    images = _images(solved)
    down = _down(solved, images)
    places, ends_at = _spread(_places(solved), _widths(solved, exercise is not None))
    height = max(y for _, y in places.nodes.values()) + 1.0
    # The legend needs some room, too.
    figure = new_figure(max(ends_at[1] - ends_at[0] + 0.3, 3.2), down * height + 0.9)
    axes: Axes = figure.add_subplot()
    axes.set(xlim=ends_at, ylim=(-0.5, height - 0.5))
    axes.set_axis_off()
    forward, backward = _known(solved, step)
    found = Drawing(figure, [], [], [], [])
    for name, node in solved.nodes.items():
        # The boxes of an exercise are answered by name.
        label = name if exercise and node.kind == "operation" else node.label
        found.boxes.append(_draw_box(axes, node._replace(label=label), places.nodes[name]))
        for side, asked, known, drawn in (
            (1, exercise and exercise.values, forward, found.values),
            (-1, exercise and exercise.gradients, backward, found.gradients),
        ):
            text = _text(node.value if side > 0 else node.gradient) if name in known else ""
            image = images.get((name, side)) if name in known else None
            blank = asked is not None and name in asked
            place = _Place(*places.nodes[name], side, down)
            drawn.append(_draw_result(axes, place, "?" if blank else text, not blank and image))
    ends = dict(zip(solved.nodes, found.boxes, strict=True))
    for edge in solved.edges:
        route = places.edges[edge.source, edge.target]
        _draw_arrow(axes, route, (ends[edge.source], ends[edge.target]))
        is_known = exercise is None and edge.source in backward
        found.derivatives.append(_draw_derivative(axes, route, edge) if is_known else [])
    _legend(figure, solved, bool(images), exercise is not None)
    # What is read to those who cannot see the picture.
    figure.set_label(solved.describe() if exercise is None else f"An exercise:\n{exercise}")
    return found


class _Places(NamedTuple):
    """Where nodes stand, and the points that edges go through."""

    nodes: dict[str, Point]
    edges: dict[tuple[str, str], list[Point]]


class _Place(NamedTuple):
    """Where the result of a node stands: above it, or below where `side` is -1."""

    x: float
    y: float
    side: int
    down: float


def _check(graph: Unchecked, step: Unchecked) -> None:
    if not isinstance(graph, Graph):
        raise InputError("a Graph", describe(graph), "pass what fnn.graph returns")
    if step is not None:
        check.count(step, "step", least=0)
        if step > 2 * len(graph.nodes):
            most = 2 * len(graph.nodes)
            raise InputError(f"step of 0 to {most}", str(step), "each node takes two steps")


def _places(graph: Graph) -> _Places:
    """Lay the graph out in layers from left to right, with few crossings."""
    if not graph.edges:
        return _Places({name: (0.0, float(i)) for i, name in enumerate(graph.nodes)}, {})
    # Numbers, in the order of the graph: the layout of names would differ from run to run.
    joined = {name for edge in graph.edges for name in (edge.source, edge.target)}
    names = [name for name in graph.nodes if name in joined]
    number = {name: i for i, name in enumerate(names)}
    layout = require("fast_sugiyama", "plot.graph").from_edges(
        [(number[edge.source], number[edge.target]) for edge in graph.edges], vertex_spacing=1
    )
    found: dict[int, Point] = {}
    routes: dict[tuple[int, int], list[int]] = {}
    below = 0.0
    for places, tall, _, edges in layout:
        top = max(y for _, (_, y) in places)
        found |= {i: (top - y, below + x) for i, (x, y) in places}
        below += tall + 1
        routes |= _routes(edges, len(names))
    left = min(x for x, _ in found.values())
    found = {i: (x - left, y) for i, (x, y) in found.items()}
    alone = [name for name in graph.nodes if name not in joined]
    points = {name: found[i] for name, i in number.items()}
    points |= {name: (0.0, below + i) for i, name in enumerate(alone)}
    return _Places(
        {name: points[name] for name in graph.nodes},
        {(names[a], names[b]): [found[i] for i in route] for (a, b), route in routes.items()},
    )


def _widths(graph: Graph, exercise: bool) -> dict[str, float]:
    """Return how wide each node is in inches: its label, or its numbers."""
    found = {}
    for name, node in graph.nodes.items():
        label = name if exercise and node.kind == "operation" else node.label
        numbers = f"{_text(node.value)}\n{_text(node.gradient)}".split("\n")
        found[name] = max(_LETTER * len(label) + 0.25, *(_DIGIT * len(line) for line in numbers))
    return found


def _down(graph: Graph, images: Collection[tuple[str, int]]) -> float:
    """Return the inches between the nodes of a layer: below one and above the next is room."""
    room = _GAP / 2
    for side in (1, -1):
        results = {n: node.value if side > 0 else node.gradient for n, node in graph.nodes.items()}
        room += _AWAY + max(
            _ROW * (_text(result).count("\n") + 1) + ((name, side) in images) * (_IMAGE + 0.06)
            for name, result in results.items()
        )
    return room


def _spread(places: _Places, widths: dict[str, float]) -> tuple[_Places, tuple[float, float]]:
    """Set layers as far apart as their nodes are wide; return where the picture begins and ends."""
    layers: dict[float, float] = {}
    for name, (x, _) in places.nodes.items():
        layers[x] = max(layers.get(x, 0.0), widths[name])
    columns, wide = sorted(layers), [layers[x] for x in sorted(layers)]
    at = [0.0]
    for (here, there), (left, right) in zip(
        itertools.pairwise(columns), itertools.pairwise(wide), strict=True
    ):
        apart = min(max((left + right) / 2 + _GAP, _NEAR), _FAR)
        at.append(at[-1] + apart * (there - here))

    def moved(point: Point) -> Point:
        return float(np.interp(point[0], columns, at)), point[1]

    ends = min(-max(wide[0], 0.8) / 2, -0.4), at[-1] + max(wide[-1], 0.8) / 2
    return _Places(
        {name: moved(point) for name, point in places.nodes.items()},
        {edge: [moved(point) for point in route] for edge, route in places.edges.items()},
    ), ends


def _routes(edges: Collection[tuple[int, int]], count: int) -> dict[tuple[int, int], list[int]]:
    """Return the way of each edge through the bends that the layout put between its ends.

    Args:
        edges: between nodes, and bends, which have numbers above those of the nodes.
        count: the number of nodes.
    """
    onward = {source: target for source, target in edges if source >= count}
    found = {}
    for source, target in edges:
        if source < count:
            route = [source, target]
            while route[-1] >= count:
                route.append(onward[route[-1]])
            found[source, route[-1]] = route
    return found


def _known(graph: Graph, step: int | None) -> tuple[set[str], set[str]]:
    """Return the nodes whose values, and those whose gradients, are known after some steps."""
    names = list(graph.nodes)
    step = 2 * len(names) if step is None else step
    return set(names[:step]), set(names[::-1][: max(step - len(names), 0)])


def _images(graph: Graph) -> dict[tuple[str, int], np.ndarray]:
    """Return the colors of the values (1) and gradients (-1) that are images."""
    inputs = {name for name, node in graph.nodes.items() if node.kind == "input"}
    flattened = {
        e.target for e in graph.edges
        if e.source in inputs and graph.nodes[e.target].label == "flatten()"
    }  # fmt: skip
    read: dict[str, set[int]] = {name: set() for name in graph.nodes}
    for edge in graph.edges:
        if edge.source in inputs | flattened and np.ndim(graph.nodes[edge.source].value) > 1:
            read[edge.target].add(graph.nodes[edge.source].value.shape[-1])
    found = {}
    for name, node in graph.nodes.items():
        # The weights that read flat images are images themselves.
        flat = {n for edge in graph.edges if edge.source == name for n in read[edge.target]}
        for side, array in ((1, node.value), (-1, node.gradient)):
            plain = side > 0 and node.kind == "input"
            picture = thumbnail(array, node.kind, flat, plain=plain)
            if picture is not None:
                found[name, side] = picture
    return found


def _draw_arrow(axes: Axes, route: list[Point], ends: tuple[Patch, Patch]) -> None:
    """Draw an arrow from the border of one box to that of the other."""
    end = route[-1]
    for i, (here, there) in enumerate(itertools.pairwise(route)):
        style = "-|>" if there == end else "-"
        arrow = {"arrowstyle": style, "color": _LINE, "lw": 0.9, "shrinkA": 0, "shrinkB": 0}
        arrow["patchA"] = ends[0] if i == 0 else None
        arrow["patchB"] = ends[1] if there == end else None
        # After the boxes, whose borders are known when they are drawn, and behind numbers.
        axes.annotate("", there, here, arrowprops=arrow, zorder=3.2)


def _draw_derivative(axes: Axes, route: list[Point], edge: Edge) -> list[Artist]:
    """Write the local derivative on an edge, where there is one."""
    if edge.derivative is None:
        return []
    (x, y), (to_x, to_y) = route[-2:]
    return [
        axes.text(
            x + 0.45 * (to_x - x), y + 0.45 * (to_y - y), f"{edge.derivative:.3g}", fontsize=7.5,
            color=_LINE, ha="center", va="center", zorder=3.4,
            bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none"},
        )
    ]  # fmt: skip


def _draw_box(axes: Axes, node: Node, place: Point) -> Patch:
    """Draw a box with its label, and return its border."""
    box, fill = _BOXES[node.kind]
    edge, width = (_LINE, 0.8) if node.agrees else (_WRONG, 2.5)
    frame = {"boxstyle": box, "fc": fill, "ec": edge, "lw": width}
    drawn = axes.text(
        *place, node.label, ha="center", va="center", fontsize=10, bbox=frame, zorder=3
    )
    border = drawn.get_bbox_patch()
    assert border is not None
    return border


def _draw_result(axes: Axes, place: _Place, text: str, image: Unchecked) -> list[Artist]:
    """Write a value above a box, or a gradient below it, an image beyond the numbers."""
    color, blank = _FORWARD if place.side > 0 else _BACKWARD, text == "?"
    # Edges pass behind numbers.
    paper: dict[str, Unchecked] = {"boxstyle": "square,pad=0.05", "fc": "white", "ec": "none"}
    if blank:
        paper = {"boxstyle": "square,pad=0.25", "fc": "white", "ec": color, "lw": 0.8}
    away = _AWAY / place.down
    drawn: list[Artist] = [
        axes.text(
            place.x, place.y + place.side * away, text, ha="center",
            va="bottom" if place.side > 0 else "top", fontsize=8, color=color, zorder=4,
            linespacing=1.05, bbox=paper,
        )
    ]  # fmt: skip
    if isinstance(image, np.ndarray):
        lines = text.count("\n") + 1
        tall, wide = image.shape[:2]
        size = _IMAGE / max(tall, wide)
        half = wide * size / 2
        near = away + (_ROW * lines + 0.06) / place.down
        low, high = sorted(place.y + place.side * (near + d) for d in (0, tall * size / place.down))
        extent = (place.x - half, place.x + half, low, high)
        limits = axes.get_xlim(), axes.get_ylim()
        drawn.append(
            axes.imshow(image, extent=extent, aspect="auto", interpolation="nearest", zorder=4)
        )
        axes.set(xlim=limits[0], ylim=limits[1])
    return drawn


def _legend(figure: Figure, graph: Graph, images: bool, exercise: bool) -> None:
    """Say what shapes, colors and numbers mean, and what was folded."""
    patches, lines = require("matplotlib.patches", "plot"), require("matplotlib.lines", "plot")
    marks = [
        (r"$1.2$", _FORWARD, "above: the value, forward"),
        (r"$1.2$", _BACKWARD, "below: the gradient, backward"),
    ]
    if not exercise and any(edge.derivative is not None for edge in graph.edges):
        marks.append((r"$1.2$", _LINE, "on edges: the local derivative"))
    handles = [
        lines.Line2D([], [], marker=mark, markersize=14, color=color, linestyle="", label=text)
        for mark, color, text in marks
    ]
    kinds = {node.kind for node in graph.nodes.values()}
    handles += [
        patches.Patch(facecolor=fill, edgecolor=_LINE, linewidth=0.8, label=kind)
        for kind, (_, fill) in _BOXES.items()
        if kind in kinds
    ]
    if not all(node.agrees for node in graph.nodes.values()):
        wrong = {"facecolor": "white", "edgecolor": _WRONG, "linewidth": 2.5}
        handles.append(patches.Patch(**wrong, label="by hand ≠ autodiff"))
    across = int(figure.get_figwidth() // 2.1)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=max(across, 1), frameon=False, fontsize=8
    )
    note = "maps: red above 0, blue below; images: dark where large" if images else ""
    title = "; ".join(filter(None, [graph.note, note]))
    if title:
        heading(figure, title, 9, _LINE)


def _text(value: Unchecked) -> str:
    """Return the numbers of a small array, or the shape, mean and deviation of a larger one."""
    if value is None:
        return "no gradient"
    if isinstance(value, list | tuple):
        shapes = ["×".join(map(str, np.shape(part))) for part in value]
        return f"{len(shapes)} of {shapes[0]}" if len(set(shapes)) == 1 else "\n".join(shapes)
    array = np.asarray(value)
    if is_small(array):
        rows = np.atleast_2d(array)
        return "\n".join("  ".join(f"{v:.3g}" for v in row) for row in rows.tolist())
    shape = "×".join(map(str, array.shape))
    if array.dtype.kind in "iub" or not array.size:
        return f"{shape} {array.dtype}"
    wide = array.astype(np.float64)
    return f"{shape}\n{wide.mean():.2g} ± {wide.std():.2g}"
