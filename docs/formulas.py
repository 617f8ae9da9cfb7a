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
_APPLIED = re.compile(r"(\\(?:log|ln|exp|sin|cos|tan|sinh|cosh|tanh|max|min))\s+(?=[A-Za-z0-9\\])")
# One thing, so that an exponent is that of the whole.
_MATRIX = re.compile(r"\\begin\{(\w*matrix)\}.*?\\end\{\1\}")
_NAMED_OPERATOR = re.compile(r"<mo>([a-z]{2,})</mo>")
# To browsers a sign behind another one is a difference, unless it is said to be that of a number,
# and a bar stands between two things, unless it is said to be close to what it is around.
_SIGN = re.compile(r"(<mo[^>]*>(?!&#x000(?:29|5D|7C|7D);)[^<]+</mo>)<mo>(&#x02212;|&#x0002B;)</mo>")
_BAR = re.compile(r'<mo(?: stretchy="false")?>(&#x0007C;|&#x02016;)</mo>')
# With the marks behind it, which would otherwise begin the next line.
_FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>([.,:;?!)、。，；：）」]*)', re.S
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the font of the formulas."""
    files.append(File.generated(config, f"assets/{FONT}", abs_src_path=str(VENDOR / FONT)))
    return files


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Set the formulas that the Markdown extension arithmatex found."""
    del page, config, files
    return _FORMULA.sub(_set, content)


def _set(found: re.Match[str]) -> str:
    block = found[1] == "div"
    formula = mathml(html.unescape(found[2]), block=block) + found[3]
    return f'<span class="kept">{formula}</span>' if found[3] and not block else formula


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
    found = _SIGN.sub(r'\1<mo form="prefix">\2</mo>', found)
    found = _BAR.sub(lambda m: f'<mo lspace="0" rspace="0" stretchy="false">{m[1]}</mo>', found)
    return f'<div class="formula">{found}</div>' if block else found
