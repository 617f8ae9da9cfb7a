"""Formulas as MathML, which browsers set without scripts and offline; a hook of MkDocs."""

from __future__ import annotations

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

VENDOR = Path(__file__).parent / "vendor"
# Without a font that knows where they go, browsers misplace indices.
FONT = "STIXTwoMath.woff2"
# Names of functions, which stand off from what they are applied to unless it is in brackets.
_APPLIED = re.compile(r"(\\(?:log|ln|exp|sin|cos|tan|sinh|cosh|tanh|max|min))\s+(?=[A-Za-z\\])")
# One thing, so that an exponent is that of the whole.
_MATRIX = re.compile(r"\\begin\{(\w*matrix)\}.*?\\end\{\1\}")
_NAMED_OPERATOR = re.compile(r"<mo>([a-z]{2,})</mo>")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the font of the formulas."""
    files.append(File.generated(config, f"assets/{FONT}", abs_src_path=str(VENDOR / FONT)))
    return files


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Set the formulas that the Markdown extension arithmatex found."""
    del page, config, files
    return _FORMULA.sub(lambda m: mathml(html.unescape(m[2]), block=m[1] == "div"), content)


def mathml(formula: str, *, block: bool) -> str:
    """Return a formula of LaTeX as MathML, or raise for a command that is not known."""
    spaced = _APPLIED.sub(r"\1\\, ", " ".join(formula.split()))
    spaced = _MATRIX.sub(r"{\g<0>}", spaced)
    try:
        found: str = convert(spaced, display="block" if block else "inline")
    except Exception as error:
        raise ValueError(f"{formula!r} cannot be set as MathML") from error
    # Commands that are not known are handed on, and so is the end of a formula inside of one.
    unknown = re.search(r">(\\[^<]+|\$)<", found)
    if unknown:
        raise ValueError(f"{unknown[1]} of {formula!r} is nothing that MathML is made of")
    found = _NAMED_OPERATOR.sub(r"<mi>\1</mi>", found)
    return f'<div class="formula">{found}</div>' if block else found
