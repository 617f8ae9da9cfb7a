"""Functions of the programs in ``examples/coming_from``, shown in a page; a hook of MkDocs.

A line of a page that is a link to such a file, and names a function of it, becomes that function's
code: the page cannot say what the program, which the tests run, does not.
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


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the code of a function where a line links it."""
    del page, config, files
    return _LINK.sub(lambda m: f"```python\n{source(ROOT / m[2], m[1])}\n```", markdown)


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
