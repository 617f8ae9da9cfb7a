"""Page that steps through a computation graph."""

from __future__ import annotations

import html
import io
from pathlib import Path
from string import Template

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn._core.extras import require
from fnn.lab._graph import Graph
from fnn.plot._page import Stepped, write_page
from fnn.plot.graph import Drawing, draw


@entry
def graph_page(graph: Graph, file: Path | str, *, title: str = "Computation graph") -> None:
    """Write a page with a slider that steps through a graph, forwards and then backwards.

    Each step says in words how the value or the gradient is found. The page is one file that needs
    no network; without scripts it shows the last step.

    Args:
        graph: what `fnn.graph` returns.
        file: the HTML file.
        title: the heading of the page.
    Raises:    InputError for what is no graph, and where the file cannot be written.

    >>> import fnn, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder) / "product.html"
    ...     graph_page(fnn.graph(lambda w, x: w * x, 2.0, 3.0), file)
    ...     file.read_text(encoding="utf-8").count("<svg")
    1

    """
    if not isinstance(graph, Graph):
        raise InputError("a Graph", describe(graph), "pass what fnn.graph returns")
    check.text(title, "title")
    drawing = draw(graph, None)
    count = len(graph.nodes)
    # Everything that is drawn is known from a step on: the last of the values is that of step n.
    shown = _identify(drawing, graph)
    texts = ["Nothing is known yet.", *(frame.text for frame in graph.frames())]
    nodes = [-1, *range(count), *reversed(range(count))]
    stepped = Stepped(
        # What it shows in words, for those who cannot see it.
        content=f'<div class="graph" role="img" aria-label="{html.escape(graph.describe())}">\n'
        f"{_svg(drawing)}\n</div>",
        labels=[f"step {step} of {2 * count}" for step in range(2 * count + 1)],
        texts=texts,
        start=0,
        fallback=texts[-1],
        # In lines of text: smaller, the numbers would be too small to read.
        style=_STYLE.substitute(
            least=round(5.5 * drawing.figure.get_figwidth()),
            most=round(7 * drawing.figure.get_figwidth()),
        ),
        script=_SCRIPT,
        data={"shown": shown, "nodes": nodes},
    )
    write_page(file, title, stepped)


def _identify(drawing: Drawing, graph: Graph) -> dict[str, int]:
    """Name what is drawn, and return from which step on it is shown."""
    shown = {}
    count, names = len(graph.nodes), list(graph.nodes)
    parts = [(artists, i + 1) for i, artists in enumerate(drawing.values)]
    parts += [(artists, 2 * count - i) for i, artists in enumerate(drawing.gradients)]
    for edge, artists in zip(graph.edges, drawing.derivatives, strict=True):
        parts.append((artists, 2 * count - names.index(edge.source)))
    number = 0
    for artists, step in parts:
        for artist in artists:
            artist.set_gid(f"part-{number}")
            shown[f"part-{number}"] = step
            number += 1
    for i, box in enumerate(drawing.boxes):
        box.set_gid(f"node-{i}")
    return shown


def _svg(drawing: Drawing) -> str:
    """Return the picture as SVG to be put into a page; the same picture gives the same text."""
    buffer = io.StringIO()
    with require("matplotlib", "plot").rc_context({"svg.hashsalt": "fnn"}):
        drawing.figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


_STYLE = Template(""".graph { overflow-x: auto; }
.graph svg { display: block; height: auto; width: 100%; }
.graph svg { min-width: ${least}rem; max-width: ${most}rem; }
.current path { stroke: #000 !important; stroke-width: 3px !important; }
.unknown { visibility: hidden; }""")

_SCRIPT = """function draw(step) {
  for (const [name, first] of Object.entries(data.shown)) {
    const part = document.getElementById(name);
    if (part) part.classList.toggle("unknown", step < first);
  }
  document.querySelectorAll(".current").forEach(one => one.classList.remove("current"));
  const node = document.getElementById("node-" + data.nodes[step]);
  if (node) {
    node.classList.add("current");
    const box = node.getBoundingClientRect(), frame = document.querySelector(".graph");
    const edges = frame.getBoundingClientRect();
    if (box.left < edges.left || box.right > edges.right)
      frame.scrollLeft += (box.left + box.right - edges.left - edges.right) / 2;
  }
}"""
