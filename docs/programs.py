"""Functions of the programs in ``examples/coming_from``, shown in a page; a hook of MkDocs.

A line of a page that is a link to such a file, and names a function of it, becomes that function's
code: the page cannot say what the program, which the tests run, does not. Lines below each other
are two columns, fnn on the right; on a narrow screen they are one below the other.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
_LINK = re.compile(r"^\[`(\w+)`\]\((?:\.\./)+(examples/coming_from/\w+\.py)\)$", re.M)
_LINKS = re.compile(rf"(?:{_LINK.pattern}\s*)+", re.M)
_OURS = "in_fnn"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the code of a function where a line links it."""
    del page, config, files
    return _LINKS.sub(lambda m: columns(_LINK.findall(m[0])), markdown)


def columns(functions: list[tuple[str, str]]) -> str:
    """Return functions, each a name and a file, as two columns of code: theirs, and that of fnn."""
    ours = [one for one in functions if one[0] == _OURS]
    theirs = [one for one in functions if one not in ours]
    parts = ['<div class="columns" markdown>']
    for column in (theirs, ours):
        code = [f"```python\n{source(ROOT / file, name)}\n```" for name, file in column]
        parts += ["<div markdown>", *code, "</div>"]
    return "\n\n".join([*parts, "</div>"]) + "\n\n"


def source(file: Path, name: str) -> str:
    """Return a function or a class of a file, as it stands there.

    >>> source(ROOT / "examples/coming_from/from_stax.py", "in_fnn").splitlines()[0]
    'def in_fnn(weights, data):'
    """
    text = file.read_text("utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])
    raise ValueError(f"{file.name} has no {name}")
