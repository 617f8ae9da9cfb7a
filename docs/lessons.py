"""The pages of the course: every notebook as it runs, in the order of the file names.

A hook of MkDocs. Text, code, what is printed and pictures stand as in the notebook; solutions are
folded, and pages that the lesson writes are shown below the cell that names them.
"""

from __future__ import annotations

import base64
import functools
import html
import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("*.py"))
COURSE = "The course"
# What a page to play with shows around its picture, and how wide it is inside of another page.
_AROUND, _WIDTH = 230, 650
_PICTURE = re.compile(r'<(?:img|svg)\b[^>]*? width="([\d.]+)(?:pt)?" height="([\d.]+)(?:pt)?"')
_DETAILS = re.compile(r"^<details>\s*<summary>(.*?)</summary>\n(.*?)^</details>", re.S | re.M)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the lessons behind what stands of the course in the navigation."""
    for entry in config.nav or ():
        if isinstance(entry, dict) and COURSE in entry:
            entry[COURSE] += [f"lessons/{path.stem}.md" for path in LESSONS]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each lesson, with its pictures and the notebook itself."""
    for lesson, folder in zip(LESSONS, executed(*LESSONS), strict=True):
        page, shown = lesson_page(lesson, folder)
        made: dict[str, str | bytes] = {f"{lesson.stem}.md": page}
        made |= {f"{lesson.stem}/{name}": content for name, content in shown.items()}
        for name, content in made.items():
            files.append(File.generated(config, f"lessons/{name}", content=content))
    return files


@functools.cache
def executed(*programs: Path) -> list[Path]:
    """Return the folder of each lesson or example, as it was executed in another process."""
    words = [sys.executable, ROOT / "docs/executed.py", *programs]
    run = subprocess.run([*map(str, words)], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(run.stderr)
    return [Path(line) for line in run.stdout.split("\n") if line]


def lesson_page(lesson: Path, folder: Path) -> tuple[str, dict[str, bytes]]:
    """Return a lesson as Markdown, and the files that it shows by their names."""
    shown = {f"{lesson.stem}.ipynb": _empty_notebook(lesson)}
    parts = []
    for cell in json.loads((folder / "lesson.ipynb").read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(_text(source))
        elif cell["cell_type"] == "code":
            parts.append(_code(cell, source, lesson.stem, folder, shown))
    title, _, rest = parts[0].partition("\n")
    link = f"{lesson.stem}/{lesson.stem}.ipynb"
    told = (
        f"*This page is `notebooks/{lesson.name}` as it runs. To run and change it yourself, take "
        f'the <a href="{link}" download>notebook</a>, or make it of the file: see '
        "[the course](index.md).*"
    )
    return "\n\n".join([title, told, rest, *parts[1:]]) + "\n", shown


def _empty_notebook(lesson: Path) -> bytes:
    """Return a lesson as a notebook that was not run yet."""
    notebook = jupytext.read(lesson)
    for i, cell in enumerate(notebook.cells):
        # Otherwise by chance.
        cell["id"] = f"cell-{i}"
    return nbformat.writes(notebook).encode()


def _text(source: str) -> str:
    """Return the text of a cell; what is folded in the notebook is folded."""
    # Formulas one below the other are one paragraph in a notebook, and one formula to Markdown.
    apart = re.sub(r"\$\$\n\$\$", "$$\n\n$$", source)
    return _DETAILS.sub(lambda m: _folded("question", m[1], m[2].strip()), apart)


def _folded(kind: str, title: str, content: str) -> str:
    return f'??? {kind} "{title}"\n\n{_indented(content)}\n'


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.split("\n"))


def _code(
    cell: dict[str, Any], source: str, stem: str, folder: Path, shown: dict[str, bytes]
) -> str:
    """Return a cell of code with what came of it."""
    tags = cell["metadata"].get("tags", ())
    hidden = cell["metadata"].get("jupyter", {}).get("source_hidden", False)
    code = f"```python\n{source}\n```"
    outputs = [_output(one, stem, shown) for one in _merged(cell["outputs"])]
    outputs += [
        _embedded(file, stem, shown)
        for file in sorted(folder.glob("*.html"))
        if f'"{file.name}"' in source
    ]
    after = "\n\n".join(filter(None, outputs))
    if "solution" in tags:
        return _folded("success", "Solution", f"{code}\n\n{after}")
    if "exercise" in tags:
        return f'!!! example "Exercise"\n\n{_indented(code)}\n\n{_indented(after)}'
    shown_code = _folded("abstract", "Code", code) if hidden else code
    return f"{shown_code}\n\n{after}"


def _merged(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return outputs with what is printed in one piece: a kernel sends it in several, by chance."""
    merged: list[dict[str, Any]] = []
    for one in outputs:
        if merged and one["output_type"] == merged[-1]["output_type"] == "stream":
            merged[-1] = merged[-1] | {"text": [*merged[-1]["text"], *one["text"]]}
        else:
            merged.append(one)
    return merged


def _output(output: dict[str, Any], stem: str, shown: dict[str, bytes]) -> str:
    """Return an output as Markdown; of a picture the file is added to what is shown."""
    data = output.get("data", {})
    if "image/png" in data:
        name = f"{len(shown)}.png"
        shown[name] = base64.b64decode(data["image/png"])
        words = output["metadata"].get("image/png", {}).get("alt", "")
        # A formula inside of a tag would be set, and end it.
        alt = html.escape(" ".join(words.replace("$", "").split()))
        width, height = _size(shown[name])
        kind = "picture wide" if width > _WIDTH else "picture"
        # With its size the text below stays where it is when the picture comes.
        return (
            f'<img src="{stem}/{name}" alt="{alt}" width="{width}" height="{height}" '
            f'loading="lazy" class="{kind}">'
        )
    if "application/vnd.jupyter.widget-view+json" in data:
        return "*In a notebook, sliders above this picture change it:*"
    text = "".join(output.get("text", data.get("text/plain", ()))).rstrip()
    return f"```{{ .text .output }}\n{text}\n```" if text else ""


def _size(picture: bytes) -> tuple[int, int]:
    """Return width and height of a PNG in pixels, which stand at its beginning."""
    width, height = struct.unpack(">II", picture[16:24])
    return width, height


def _embedded(file: Path, stem: str, shown: dict[str, bytes]) -> str:
    """Return a page that a lesson wrote, to play with inside of this one."""
    page = file.read_text("utf-8")
    shown[file.name] = page.encode()
    found = re.search(r"<title>(.*?)</title>", page)
    title = found[1] if found else file.stem
    height = _AROUND + _height(page)
    return (
        f'<iframe src="{stem}/{file.name}" title="{title}" height="{height}" loading="lazy" '
        f'class="page"></iframe>\n\n[{title}, on a page of its own]({stem}/{file.name})'
    )


def _height(page: str) -> int:
    """Return how high the picture of a page is, in pixels; wide ones scroll."""
    picture = _PICTURE.search(page)
    if picture is None:
        return _WIDTH
    width, height = map(float, picture.groups())
    least = re.search(r"min-width: (\d+)rem", page)
    drawn = max(16 * int(least[1]), _WIDTH) if least else min(width, _WIDTH)
    return round(drawn * height / width)
