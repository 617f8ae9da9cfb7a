"""Page of one file with a slider: what is stepped through, and what is said of each step."""

from __future__ import annotations

import html
import json
from pathlib import Path
from string import Template
from typing import NamedTuple

from fnn._core.atomic_write import atomic_write
from fnn._core.types import Unchecked


class Stepped(NamedTuple):
    """What a page steps through.

    Args:
        content: HTML, as it is seen without scripts.
        labels: what the slider says at each step.
        texts: a sentence to each step.
        start: the step that is shown first.
        fallback: the sentence that is read without scripts.
        style: CSS of the content.
        script: JavaScript that defines `draw(step)`; it finds `data`.
        data: what the script reads.
    """

    content: str
    labels: list[str]
    texts: list[str]
    start: int
    fallback: str
    style: str
    script: str
    data: dict[str, Unchecked]


def write_page(file: Path | str, title: str, stepped: Stepped, intro: str = "") -> None:
    """Write a page that needs no network; the same content gives the same file."""
    said = {"labels": stepped.labels, "texts": stepped.texts, "start": stepped.start}
    page = _PAGE.substitute(
        title=html.escape(title),
        intro=f"<p>{html.escape(intro)}</p>\n" if intro else "",
        last=len(stepped.labels) - 1,
        start=stepped.start,
        label=html.escape(stepped.labels[stepped.start]),
        text=html.escape(stepped.fallback),
        style=stepped.style,
        content=stepped.content,
        data=json.dumps(stepped.data | said).replace("<", "\\u003c"),
        script=stepped.script,
    )
    with atomic_write(file) as temporary:
        temporary.write_text(page, encoding="utf-8")


_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; }
body { font-family: system-ui, sans-serif; margin: 1rem; color: #222; background: #fff; }
h1 { font-size: 1.4rem; }
.steps { display: flex; flex-wrap: wrap; gap: 0.6rem; align-items: center; }
.steps[hidden] { display: none; }
.steps input { flex: 1 1 12rem; max-width: 40rem; }
.steps button { font: inherit; padding: 0.2rem 0.8rem; }
#text { min-height: 2.8em; font-size: 1.05rem; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #1b1b1f; } }
$style
</style>
<h1>$title</h1>
$intro<div class="steps" hidden>
<button id="back" type="button">back</button>
<button id="next" type="button">next</button>
<input type="range" id="step" min="0" max="$last" value="$start" aria-label="step">
<output id="label" for="step">$label</output>
</div>
<p id="text" aria-live="polite">$text</p>
$content
<script type="application/json" id="data">$data</script>
<script>
const data = JSON.parse(document.getElementById("data").textContent);
const slider = document.getElementById("step");
$script
function show(step) {
  slider.value = step;
  slider.setAttribute("aria-valuetext", data.labels[step]);
  document.getElementById("label").value = data.labels[step];
  document.getElementById("text").textContent = data.texts[step];
  draw(step);
}
slider.addEventListener("input", () => show(Number(slider.value)));
document.getElementById("back").onclick = () => show(Math.max(Number(slider.value) - 1, 0));
document.getElementById("next").onclick = () => show(Math.min(Number(slider.value) + 1, $last));
document.querySelector(".steps").hidden = false;
show(data.start);
// Inside of another page it would take the reader to itself.
if (window === window.top) slider.focus();
</script>
</html>
""")
