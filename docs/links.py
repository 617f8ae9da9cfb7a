"""Links between what stands in the repository and what the site makes of it; a hook of MkDocs.

A page links a lesson or an example as the file that it is; in the site that is a page. A public
name of fnn, wherever it stands as code in a text, leads to what the API says of it, and the name of
a lesson or an example to its page.
"""

from __future__ import annotations

import functools
import re

from api import PACKAGES, names, titled
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

# Where code is a link already, or stands for itself.
_KEPT = re.compile(
    r"(<a\b.*?</a>|<pre\b.*?</pre>|<h\d\b.*?</h\d>"
    r'|<span class="arithmatex">.*?</span>|<div class="arithmatex">.*?</div>)',
    re.S,
)
_FILE = re.compile(r"<code>(notebooks|examples)/(\w+)\.py</code>")
_CODE = re.compile(r"<code>[^<]*</code>")
# A dash is a place to end a line, but not that of an option or of a number.
_OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")
_NUMBER = re.compile(r"<[^>]*>|(?<![\w.-])\d[\d.]*(?:e-\d+|(?:-\d+)+)(?![\w-])")
_NAME = re.compile(r"<code>(fnn(?:\.\w+)+)(\(.*?\))?</code>")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files of the repository lead to their pages."""
    del config, files
    top = "../" * page.file.src_uri.count("/")
    text = re.sub(r"\]\((?:\.\./)*notebooks/(\w+)\.py", rf"]({top}lessons/\1.md", markdown)
    text = re.sub(r"\]\((?:\.\./)+README\.md", rf"]({top}index.md", text)
    return re.sub(r"\]\((?:\.\./)*examples/(\w+)\.py", rf"]({top}gallery.md#\1", text)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let every public name that stands as code lead to its place in the API."""
    del config, files
    top = "../" * page.file.src_uri.count("/")
    pieces = _KEPT.split(content)
    for i, piece in enumerate(pieces[::2]):
        named = _NAME.sub(lambda m: _linked(m, top), piece)
        linked = _FILE.sub(lambda m: _linked_file(m, top), named)
        whole = _CODE.sub(lambda m: _OPTION.sub(_whole, m[0]), linked)
        pieces[2 * i] = _NUMBER.sub(lambda m: m[0] if m[0][0] == "<" else _whole(m), whole)
    return "".join(pieces)


def _whole(found: re.Match[str]) -> str:
    return f'<span class="kept">{found[0]}</span>'


def _linked_file(found: re.Match[str], top: str) -> str:
    lesson = found[1] == "notebooks"
    place = f"lessons/{found[2]}.html" if lesson else f"gallery.html#{found[2]}"
    return f'<a href="{top}{place}">{found[0]}</a>'


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Say in which language a page is: browsers choose letters by it."""
    del config
    chinese = page.file.src_uri.startswith("zh/")
    return output.replace('<html lang="en"', '<html lang="zh-Hant"', 1) if chinese else output


def _linked(found: re.Match[str], top: str) -> str:
    place = _places().get(found[1])
    return f'<a href="{top}{place}">{found[0]}</a>' if place else found[0]


@functools.cache
def _places() -> dict[str, str]:
    """Return where each public name stands: `fnn.optim.sgd` and the packages themselves."""
    places = {titled(name): f"api/{name}.html" for name in PACKAGES if name != "fnn"}
    for name, things in names().items():
        places |= {full: f"api/{name}.html#{full}" for full in things}
    return places
