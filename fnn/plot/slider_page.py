"""Page with a slider over pictures that are drawn beforehand."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fnn._core import check
from fnn._core.errors import entry
from fnn._core.extras import require
from fnn.plot._knobs import choices, forget, label, picture, words
from fnn.plot._page import Stepped, write_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Pixels: on a phone, wider pictures scroll, as they could not be read.
_LEAST = 520


@entry
def slider_page(
    draw: Callable[..., Figure],
    name: str,
    values: Iterable[Hashable],
    file: Path | str,
    *,
    title: str,
    text: str = "",
) -> None:
    """Write a page with a slider over the pictures of a function, one for each value.

    The page is one file that needs no network and nothing that computes; its slider follows the
    arrow keys, and each picture has its words. Without scripts it shows the first picture.

    Args:
        draw: a function that returns a figure, as for `show`; it gets the value by the name.
        name: the knob, a parameter of `draw`.
        values: the values in the order of the slider.
        file: the HTML file.
        title: the heading of the page.
        text: a sentence or more below the heading.
    Raises:    InputError for values that are missing, for what is no figure, and where the file
        cannot be written.

    >>> import pathlib, tempfile
    >>> from matplotlib.figure import Figure
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder) / "size.html"
    ...     slider_page(lambda size: Figure((size, 1)), "size", (1, 2), file, title="Two sizes")
    ...     file.read_text(encoding="utf-8").count("<img")
    2

    """
    known = choices(name, values)
    check.function(draw, "draw", f"give it the parameter {name}", takes=f"*, {name}")
    check.text(title, "title")
    check.text(text, "text")
    frames = [_frame(draw, {name: value}, i) for i, value in enumerate(known)]
    labels = [f"{name} = {label(value)}" for value in known]
    stepped = Stepped(
        content="\n".join(['<div class="frames">', *frames, "</div>"]),
        labels=labels,
        texts=[f"Picture {i} of {len(known)}." for i in range(1, len(known) + 1)],
        start=0,
        fallback=f"Picture 1 of {len(known)}.",
        style=_STYLE,
        script=_SCRIPT,
        data={},
    )
    write_page(file, title, stepped, text)


def _frame(draw: Callable[..., Figure], values: Mapping[str, Hashable], i: int) -> str:
    """Return one picture as HTML; all but the first are hidden."""
    figure = picture(draw, values)
    forget(figure)
    kind, data = _smaller(figure)
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    alt = html.escape(words(figure, values))
    width, height = (round(100 * inches) for inches in figure.get_size_inches())
    hidden = " hidden" if i else ""
    return (
        f'<img class="frame" src="{source}" alt="{alt}" width="{width}" height="{height}" '
        f'style="min-width: {min(width, _LEAST)}px"{hidden}>'
    )


def _smaller(figure: Figure) -> tuple[str, bytes]:
    """Return a picture as lines, or as pixels where those are fewer bytes, and its kind."""
    found = {}
    with require("matplotlib", "plot").rc_context({"svg.hashsalt": "fnn"}):
        for kind, name in (("svg+xml", "svg"), ("png", "png")):
            buffer = io.BytesIO()
            metadata = {"Date": None} if name == "svg" else None
            figure.savefig(buffer, dpi=150, format=name, metadata=metadata)
            found[kind] = buffer.getvalue()
    kind = min(found, key=lambda one: len(found[one]))
    return kind, found[kind]


_STYLE = """.frames { overflow-x: auto; }
.frame { max-width: 100%; height: auto; background: #fff; }"""

_SCRIPT = """const frames = document.querySelectorAll(".frame");
function draw(step) {
  frames.forEach((frame, i) => { frame.hidden = i !== step; });
}"""
