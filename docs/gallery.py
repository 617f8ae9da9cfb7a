"""The page of the examples: each with its picture and what it printed; a hook of MkDocs.

Every example is executed once for its text and for the code of fnn, as its tests execute it, and
the page shows what came of it.
"""

from __future__ import annotations

import ast
import html
from pathlib import Path

from api import prose
from lessons import executed
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from fnn.lab import machine

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("[!_]*.py"))
_HEAD = """\
# Gallery

Every example is a script of one file, and runs in under a minute on two cores. Each was executed
for this page: the pictures and numbers are those that it gave, on {machine}. To change one, take
its file, and {shared} beside it.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the gallery, with the pictures and the files of the examples."""
    results = dict(zip(EXAMPLES, executed(*EXAMPLES), strict=True))
    shown = {
        f"gallery/{picture.name}": picture
        for folder in results.values()
        for picture in _pictures(folder)
    }
    shown |= {f"examples/{file.name}": file for file in sorted((ROOT / "examples").glob("*.py"))}
    for name, file in shown.items():
        files.append(File.generated(config, name, abs_src_path=str(file)))
    files.append(File.generated(config, "gallery.md", content=page(results)))
    return files


def _pictures(folder: Path) -> list[Path]:
    """Return what an example drew, in the order of the names."""
    return sorted((folder / "fnn-run").glob("*.png"))


def page(results: dict[Path, Path]) -> str:
    """Return the page: all at a glance, then each of the examples, by the folder of its results."""
    shared = " and ".join(_file(file) for file in sorted((ROOT / "examples").glob("_*.py")))
    parts = [_HEAD.format(machine=machine(), shared=shared)]
    parts.append('<div class="gallery">')
    parts += [_card(example, folder) for example, folder in results.items()]
    parts.append("</div>")
    parts += [section(example, folder) for example, folder in results.items()]
    return "\n\n".join(parts) + "\n"


def _file(file: Path) -> str:
    return f'<a href="examples/{file.name}" download><code>{file.name}</code></a>'


def _said(example: Path) -> tuple[str, str]:
    """Return the first sentence of an example, and what else it says of itself."""
    text = ast.get_docstring(ast.parse(example.read_text("utf-8"))) or ""
    title, _, rest = text.partition("\n")
    return title, rest.strip()


def _card(example: Path, folder: Path) -> str:
    """Return an example at a glance: its first picture, or its first sentence."""
    pictures, (title, _) = _pictures(folder), _said(example)
    if pictures:
        # The words below it are those of the link already.
        glance = f'<img src="gallery/{pictures[0].name}" alt="" loading="lazy" class="picture">'
    else:
        glance = f"<span>{html.escape(title)}</span>"
    return f'<a href="#{example.stem}">{glance}<code>{example.stem}</code></a>'


def section(example: Path, folder: Path) -> str:
    """Return what an example says of itself, draws and prints, and its code."""
    title, text = _said(example)
    printed = (folder / "printed.txt").read_text("utf-8").strip("\n")
    alt = html.escape(f"Drawn by {example.name}: {title}")
    parts = [f"## {example.stem}", f"**{prose(title)}**", prose(text)]
    parts += [
        f'<img src="gallery/{picture.name}" alt="{alt}" loading="lazy" class="picture wide">'
        for picture in _pictures(folder)
    ]
    parts += ["It prints:", f"```{{ .text .output }}\n{printed}\n```"]
    code = example.read_text("utf-8").rstrip()
    folded = "\n".join(f"    {line}" if line else "" for line in code.split("\n"))
    parts.append(f'??? abstract "Code of {example.name}"\n\n    ```python\n{folded}\n    ```')
    parts.append(f"All of it, to take home: {_file(example)}")
    return "\n\n".join(parts)
