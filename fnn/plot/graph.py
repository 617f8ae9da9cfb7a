"""Picture of a computation graph: what goes forward above each node, what comes backward below."""

from __future__ import annotations

import html
import io
import itertools
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from fnn._core import check
from fnn._core.atomic_write import atomic_write
from fnn._core.errors import InputError, describe, entry
from fnn._core.extras import require
from fnn._core.types import Unchecked
from fnn.plot._figure import BLUE, RED, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from fnn.lab._graph import Graph, Node

Point: TypeAlias = tuple[float, float]

# Inches between layers and between the nodes of one.
_ACROSS, _DOWN = 1.75, 1.2
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
def graph(graph: Graph, *, step: int | None = None, hide: Collection[str] = ()) -> Figure:
    """Computation graph with its values: blue above a node goes forward, red below comes backward.

    Leaves are rounded, operations circles, layers and losses boxes. A red frame marks a node whose
    gradient by hand is not that of autodiff. Numbers on edges are the local derivatives.

    Args:
        graph: what `fnn.graph` returns.
        step: how far the calculation is: the n nodes get their values in steps 1 to n, and their
            gradients in steps n + 1 to 2 n, from the last node to the first; None for all.
        hide: names of nodes whose numbers are left blank, to be filled in.
    Raises:    InputError for a step above 2 n, and for names that are not in the graph.

    >>> import fnn
    >>> drawn = graph(fnn.graph(lambda w, x: w * x, 2.0, 3.0))
    >>> [text.get_text() for text in drawn.axes[0].texts][:3]
    ['w', '2', '3']

    """
    _check(graph, step, hide)
    places = _places(graph)
    points = list(places.nodes.values())
    width = max(x for x, _ in points) + 1.0
    height = max(y for _, y in points) + 1.0
    figure = new_figure(_ACROSS * width + 0.3, _DOWN * height + 0.5)
    axes: Axes = figure.add_subplot()
    axes.set(xlim=(-0.5, width - 0.5), ylim=(-0.5, height - 0.5))
    axes.set_axis_off()
    forward, backward = _known(graph, step)
    boxes = {}
    for name, node in graph.nodes.items():
        blank = name in hide
        value = "?" if blank else _text(node.value) if name in forward else ""
        gradient = "?" if blank else _text(node.gradient) if name in backward else ""
        boxes[name] = _draw_node(axes, node, places.nodes[name], value, gradient)
    for source, target, derivative, _ in graph.edges:
        ends = boxes[source], boxes[target]
        known = derivative if step is None else None
        _draw_edge(axes, places.edges[source, target], ends, known)
    axes.set_title(
        "above: the value, forward; below: the gradient, backward", fontsize=8, color=_LINE
    )
    return figure


@entry
def graph_page(graph: Graph, file: Path | str, *, title: str = "Computation graph") -> None:
    """Write a page with a slider that steps through a graph, forwards and then backwards.

    The page is one file that needs no network.

    Args:
        graph: what `fnn.graph` returns.
        file: the HTML file.
        title: the heading of the page.
    Raises:    InputError where the file cannot be written.

    """
    _check(graph, None, ())
    frames = [_svg(globals()["graph"](graph, step=k)) for k in range(2 * len(graph.nodes) + 1)]
    drawn = "\n".join(
        f'<div class="frame"{"" if i == 0 else " hidden"}>{frame}</div>'
        for i, frame in enumerate(frames)
    )
    page = _PAGE.format(
        title=html.escape(title),
        last=len(frames) - 1,
        frames=drawn,
        words=html.escape(graph.describe()),
        note=html.escape(graph.note),
    )
    with atomic_write(file) as temporary:
        temporary.write_text(page, encoding="utf-8")


class _Places(NamedTuple):
    """Where nodes stand, and the points that edges go through."""

    nodes: dict[str, Point]
    edges: dict[tuple[str, str], list[Point]]


def _check(graph: Unchecked, step: Unchecked, hide: Unchecked) -> None:
    if not (hasattr(graph, "nodes") and hasattr(graph, "edges")):
        raise InputError("a Graph", describe(graph), "pass what fnn.graph returns")
    if step is not None:
        check.count(step, "step", least=0)
        if step > 2 * len(graph.nodes):
            most = 2 * len(graph.nodes)
            raise InputError(f"step of 0 to {most}", str(step), "each node takes two steps")
    unknown = [name for name in hide if name not in graph.nodes]
    if unknown:
        known = ", ".join(map(repr, graph.nodes))
        raise InputError(f"nodes to hide among {known}", repr(unknown[0]), "pass their names")


def _places(graph: Graph) -> _Places:
    """Lay the graph out in layers from left to right, with few crossings."""
    if not graph.edges:
        return _Places({name: (0.0, float(i)) for i, name in enumerate(graph.nodes)}, {})
    layout = require("fast_sugiyama", "plot.graph").from_edges(
        [(edge.source, edge.target) for edge in graph.edges], vertex_spacing=1
    )
    found: dict[Unchecked, Point] = {}
    routes: dict[tuple[str, str], list[Unchecked]] = {}
    below = 0.0
    for places, tall, _, edges in layout:
        top = max(y for _, (_, y) in places)
        found |= {name: (top - y, below + x) for name, (x, y) in places}
        below += tall + 1
        routes |= _routes(edges, set(graph.nodes))
    left = min(x for x, _ in found.values())
    found = {name: (x - left, y) for name, (x, y) in found.items()}
    alone = [name for name in graph.nodes if name not in found]
    found |= {name: (0.0, below + i) for i, name in enumerate(alone)}
    return _Places(
        {name: found[name] for name in graph.nodes},
        {ends: [found[name] for name in route] for ends, route in routes.items()},
    )


def _routes(
    edges: Collection[tuple[Unchecked, Unchecked]], nodes: set[str]
) -> dict[tuple[str, str], list[Unchecked]]:
    """Return the way of each edge through the bends that the layout put between its ends."""
    onward = {source: target for source, target in edges if source not in nodes}
    found = {}
    for source, target in edges:
        if source in nodes:
            route = [source, target]
            while route[-1] not in nodes:
                route.append(onward[route[-1]])
            found[source, route[-1]] = route
    return found


def _known(graph: Graph, step: int | None) -> tuple[set[str], set[str]]:
    """Return the nodes whose values, and those whose gradients, are known after some steps."""
    names = list(graph.nodes)
    step = 2 * len(names) if step is None else step
    return set(names[:step]), set(names[::-1][: max(step - len(names), 0)])


def _draw_edge(
    axes: Axes, route: list[Point], ends: tuple[Patch, Patch], derivative: float | None
) -> None:
    """Draw an arrow from the border of one box to that of the other."""
    *_, last, end = route
    for i, (here, there) in enumerate(itertools.pairwise(route)):
        style = "-|>" if there == end else "-"
        arrow = {"arrowstyle": style, "color": _LINE, "lw": 0.8, "shrinkA": 0, "shrinkB": 0}
        arrow["patchA"] = ends[0] if i == 0 else None
        arrow["patchB"] = ends[1] if there == end else None
        axes.annotate("", there, here, arrowprops=arrow, zorder=1)
    if derivative is not None:
        (x, y), (to_x, to_y) = last, end
        middle = (x + 0.45 * (to_x - x), y + 0.45 * (to_y - y))
        axes.text(
            *middle, f"{derivative:.3g}", fontsize=6, color=_LINE, ha="center", va="center",
            bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none"}, zorder=2,
        )  # fmt: skip


def _draw_node(axes: Axes, node: Node, place: Point, value: str, gradient: str) -> Patch:
    """Draw a box with its numbers, and return its border."""
    (x, y), (box, fill) = place, _BOXES[node.kind]
    edge, width = (_LINE, 0.8) if node.agrees else (_WRONG, 2.5)
    frame = {"boxstyle": box, "fc": fill, "ec": edge, "lw": width}
    drawn = axes.text(x, y, node.label, ha="center", va="center", fontsize=8, bbox=frame, zorder=3)
    # Edges pass behind numbers.
    paper = {"boxstyle": "square,pad=0.05", "fc": "white", "ec": "none", "alpha": 0.8}
    for text, height, color, side in (
        (value, 0.22, _FORWARD, "bottom"),
        (gradient, -0.22, _BACKWARD, "top"),
    ):
        axes.text(
            x, y + height, text, ha="center", va=side, fontsize=6.5, color=color, zorder=4,
            linespacing=0.95, bbox=paper,
        )  # fmt: skip
    border = drawn.get_bbox_patch()
    assert border is not None
    return border


def _text(value: Unchecked) -> str:
    """Return the numbers of a small array, or the shape, mean and deviation of a larger one."""
    if value is None:
        return "no gradient"
    if isinstance(value, list | tuple):
        return "\n".join(_text(part) for part in value)
    array = np.asarray(value)
    if array.ndim <= 2 and array.size and max(array.shape, default=1) <= 3:
        rows = np.atleast_2d(array)
        return "\n".join("  ".join(f"{v:.3g}" for v in row) for row in rows.tolist())
    shape = "×".join(map(str, array.shape))
    if array.dtype.kind in "iub" or not array.size:
        return f"{shape} {array.dtype}"
    wide = array.astype(np.float64)
    return f"{shape}\n{wide.mean():.2g} ± {wide.std():.2g}"


def _svg(figure: Figure) -> str:
    """Return a figure as SVG to be put into a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font-family: system-ui, sans-serif; margin: 1rem; color: #222; background: #fff; }}
.frame svg {{ max-width: 100%; height: auto; }}
label {{ display: flex; gap: 0.7rem; align-items: center; }}
input {{ flex: 1; max-width: 40rem; }}
</style>
<h1>{title}</h1>
<label>step <input type="range" id="step" min="0" max="{last}" value="0" autofocus>
<output id="number">0 of {last}</output></label>
<div role="img" aria-label="{words}">
{frames}
</div>
<p>{note}</p>
<script>
const frames = document.querySelectorAll(".frame");
document.getElementById("step").addEventListener("input", event => {{
  frames.forEach((frame, i) => {{ frame.hidden = i != event.target.value; }});
  document.getElementById("number").value = event.target.value + " of {last}";
}});
</script>
</html>
"""
