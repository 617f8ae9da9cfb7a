"""The pages of the site that are made: one for each room of the API, and some that stand elsewhere.

A hook of MkDocs. The API is written from the objects themselves: every name of ``__all__``, with
its signature and the sections of its docstring, so that a public name without a page cannot be.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

import fnn

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "fnn", "losses", "optim", "optim.schedule", "optim.distributions", "optim.constraint", "train",
    "train.callbacks", "train.transforms", "lab", "plot", "landscapes", "datasets", "networks",
)  # fmt: skip
# The pages, by the rooms of fnn whose names they hold; names of a room in a room have its page.
PAGES = {
    "layer": "The contract of a layer",
    "layers": "Layers",
    "layers.activation": "Activations",
    "layers.attention": "Attention",
    "layers.conv": "Convolution",
    "layers.norm": "Normalization",
    "layers.pool": "Pooling",
    "layers.recurrent": "Recurrence",
    "combinators": "Combinators",
    "networks": "Networks",
    "losses": "Losses",
    "gradient": "Gradients",
    "optim": "What optimizers are",
    "optim.optimizers": "Optimizers",
    "optim.transforms": "Transforms",
    "optim.constraint": "Constraints",
    "optim.schedule": "Schedules",
    "optim.noise": "Noise",
    "optim.distributions": "Distributions",
    "train": "Training",
    "train.callbacks": "Callbacks",
    "train.transforms": "Data augmentation",
    "train.files": "Files",
    "train.sweep": "Sweeps",
    "train.generation": "Generation",
    "lab": "Laboratory",
    "plot": "Pictures",
    "landscapes": "Landscapes",
    "datasets": "Data",
    "interop": "Other libraries",
    "cli": "Runs of the command line",
}
# Packages that hold the names of several rooms, and the page of what stands in none of them.
_DIVIDED = {"fnn": "layer", "optim": "optim", "train": "train"}
API = "API"
PICTURES = ROOT / "examples/pictures"
# Search in a page that was opened from a folder needs it.
SHIM = "iframe-worker.js"
_FETCHED = "https://unpkg.com/iframe-worker/shim"
SECTIONS = ("Forward", "Backward", "Update", "Args", "Shapes", "Saves", "Raises", "Source")
_SECTION = re.compile(rf"^({'|'.join(SECTIONS)}):[ \t]*", re.MULTILINE)
# Longer signatures have a line for each parameter.
_WIDTH = 80


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the API behind their index in the navigation."""
    for entry in config.nav or ():
        if isinstance(entry, dict) and API in entry:
            entry[API] += [f"api/{name}.md" for name in PAGES]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made to those that are written."""
    made = {f"api/{name}.md": room_page(name) for name in PAGES}
    made |= {
        "api/index.md": index_page(),
        "index.md": moved(ROOT / "README.md"),
        "speed.md": moved(ROOT / "benchmarks/README.md"),
        "changes.md": moved(ROOT / "CHANGELOG.md"),
    }
    for picture in sorted(PICTURES.glob("*.png")):
        name = f"pictures/{picture.name}"
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, SHIM, abs_src_path=str(ROOT / "docs/vendor" / SHIM)))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Take from the site what the theme would fetch from the network."""
    del config
    return output.replace(_FETCHED, get_relative_url(SHIM, page.url))


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """Do the same for the page of those who are lost."""
    del template_name, config
    return output_content.replace(_FETCHED, SHIM)


def moved(file: Path) -> str:
    """Return a page that stands elsewhere, with its links to the pages of the site."""
    text = file.read_text("utf-8")
    text = re.sub(r"\]\(docs/pages/([^)]+)\)", r"](\1)", text)
    text = text.replace("](benchmarks/README.md)", "](speed.md)")
    text = text.replace("](CHANGELOG.md)", "](changes.md)")
    # What the site does not hold is named, and not linked.
    return re.sub(r"\[([^\]]+)\]\((?!https?:|[\w/]+\.(?:md|png|svg)\))[^)]+\)|"
                  r"\[([^\]]+)\]\((?:CONTRIBUTING|CITATION|\.github)[^)]*\)",
                  lambda m: m[1] or m[2], text)  # fmt: skip


def package(name: str) -> ModuleType:
    """Return a public package by its last name."""
    return fnn if name == "fnn" else functools.reduce(getattr, name.split("."), fnn)


def public(name: str) -> list[str]:
    """Return the names of a package, or of a module of one; those of packages in it left out."""
    whole = package(name)
    own = [one for one, thing in vars(whole).items() if getattr(thing, "__module__", "") ==
           whole.__name__ and not one.startswith("_")]  # fmt: skip
    listed = getattr(whole, "__all__", own)
    return [one for one in listed if not inspect.ismodule(getattr(whole, one))]


def titled(name: str) -> str:
    """Return a package as it is imported."""
    return "fnn" if name == "fnn" else f"fnn.{name}"


@functools.cache
def names() -> dict[str, dict[str, object]]:
    """Return every public name with what it stands for, by the page where it has its place."""
    found: dict[str, dict[str, object]] = {name: {} for name in PAGES}
    for name in PACKAGES:
        whole = package(name)
        for one in public(name):
            thing = getattr(whole, one)
            found[page_of(name, thing)][f"{titled(name)}.{one}"] = thing
    return found


def page_of(name: str, thing: object) -> str:
    """Return the page of what a package holds: that of the room where it is written."""
    if name not in _DIVIDED:
        return name
    written = getattr(inspect.unwrap(thing), "__module__", "") if callable(thing) else ""
    rooms = [one for one in PAGES if f"{written}.".startswith(f"fnn.{one}.")]
    if name != "fnn":
        rooms = [one for one in rooms if one.startswith(name)]
    return max(rooms, key=len, default=_DIVIDED[name])


def index_page() -> str:
    """Return the list of every public name, with its first line."""
    parts = [f"# {API}", "Every public name, with the first line of what is said of it."]
    for name, things in names().items():
        rows = [
            f"| [`{full}`]({name}.md#{full}) | {first_line(thing)} |"
            for full, thing in things.items()
        ]
        head = f"## [{PAGES[name]}]({name}.md) {{ #{name} }}"
        parts.append("\n".join([head, "", "| name | |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def first_line(thing: object) -> str:
    """Return the first line of a docstring, as a cell of a table."""
    if not callable(thing):
        return f"`{thing!r}`"
    return cell((inspect.getdoc(thing) or "").partition("\n")[0])


def cell(text: str) -> str:
    """Return text that a table of Markdown keeps as it is."""
    return prose(text).replace("|", "\\|")


def room_page(name: str) -> str:
    """Return the page of a room: every public name that has its place there."""
    things = names()[name]
    packages = dict.fromkeys(full.rpartition(".")[0] for full in things)
    parts = [f"# {PAGES[name]}", f"*In {' and '.join(f'`{one}`' for one in packages)}.*"]
    said = inspect.getdoc(room(name)) or ""
    # Of a room that is not public one line is no more than the title.
    parts += [prose(said)] if name in PACKAGES or "\n" in said else []
    parts += [entry(full, thing) for full, thing in things.items()]
    return "\n\n".join(parts) + "\n"


def room(name: str) -> ModuleType:
    """Return a room of fnn, public or not, by its name."""
    return package(name) if name in PACKAGES else importlib.import_module(f"fnn.{name}")


def entry(full: str, thing: object) -> str:
    """Return what is said of one name: its signature, and the sections of its docstring."""
    head = f"## {full.rpartition('.')[2]} {{ #{full} }}"
    if not callable(thing):
        return f"{head}\n\n```python\n{full} = {thing!r}\n```"
    parts = [head, f"```python\n{signature(full, thing)}\n```", source(thing)]
    parts += docstring(inspect.getdoc(thing) or "")
    if inspect.isclass(thing):
        for name, member in vars(thing).items():
            function = member.fget if isinstance(member, property) else member
            shown = inspect.isfunction(function) and not name.startswith("_")
            if shown and function.__module__.startswith("fnn.") and function.__doc__:
                call = name if isinstance(member, property) else signature(name, function)
                parts += [f"**`{' '.join(call.split())}`**", *docstring(inspect.getdoc(function))]
    return "\n\n".join(part for part in parts if part)


def signature(full: str, thing: object) -> str:
    """Return the call of a function or a class, in lines that fit a page."""
    try:
        found = inspect.signature(inspect.unwrap(thing))
    except (TypeError, ValueError):
        return full
    given = [one for one in found.parameters.values() if one.name != "self"]
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in given]
    bare = [one.replace(default=Shown(one.default)) if one.default is not one.empty else one
            for one in bare]  # fmt: skip
    words = str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    line = f"{full}{words}"
    if len(line) <= _WIDTH:
        return line
    inside = [str(one) for one in inspect.Signature(bare).parameters.values()]
    marks = re.findall(r"(?<=[(, ])[*/](?=[,)])", words)
    if "*" in marks:
        first = next(i for i, one in enumerate(bare) if one.kind is one.KEYWORD_ONLY)
        inside.insert(first, "*")
    return f"{full}(\n" + "".join(f"    {one},\n" for one in inside) + ")"


class Shown:
    """A default as it is written in a call: a function by its name."""

    def __init__(self, value: object):
        named = callable(value) and not hasattr(value, "call")
        name = str(getattr(value, "__qualname__", repr(value))) if named else repr(value)
        self.text = name.partition(".<locals>")[0]

    def __repr__(self) -> str:
        return self.text


def source(thing: object) -> str:
    """Return where a thing is written."""
    module = getattr(inspect.unwrap(thing), "__module__", "") or ""
    return f"*in `{module.replace('.', '/')}.py`*" if module.startswith("fnn.") else ""


def docstring(text: str) -> list[str]:
    """Return the parts of a docstring by the template as Markdown: formulas and tests as code."""
    body, examples = split_examples(text)
    starts = list(_SECTION.finditer(body))
    parts = [prose(body[: starts[0].start() if starts else None])]
    ends = [one.start() for one in starts[1:]] + [len(body)] * bool(starts)
    for found, end in zip(starts, ends, strict=True):
        # What stands at the margin again belongs to no section.
        inside, *after = re.split(r"\n+(?=\S)", body[found.end() : end], maxsplit=1)
        name, content = found[1], inspect.cleandoc(inside)
        if name == "Args":
            rows = re.findall(r"^(\S[^:]*): ((?:.*)(?:\n[ \t]+.*|\n(?=\n[ \t]))*)", content, re.M)
            listed = "\n".join(f"- `{one}`: {prose(' '.join(what.split()))}" for one, what in rows)
            parts.append(f"**Args**\n\n{listed}")
        elif name in ("Forward", "Backward", "Update"):
            parts.append(f"**{name}**\n\n```text\n{content}\n```")
        else:
            parts.append(f"**{name}**: {prose(' '.join(content.split()))}")
        parts += map(prose, after)
    if examples:
        parts.append(f"```pycon\n{examples}\n```")
    return parts


def split_examples(text: str) -> tuple[str, str]:
    """Return a docstring without its tests, and these."""
    at = text.find(">>> ")
    return (text, "") if at < 0 else (text[:at].rstrip(), text[at:].rstrip())


def prose(text: str) -> str:
    """Return text of a docstring as Markdown; paragraphs that are indented are code, and stay."""
    paragraphs = re.split(r"\n{2,}", text)
    made = [one if one.startswith("    ") else _marked(one) for one in paragraphs]
    return "\n\n".join(made)


def _marked(text: str) -> str:
    """Return a paragraph as Markdown: double backticks are code, signs are themselves."""
    pieces = re.split(r"(``.+?``|`[^`]+`)", re.sub(r"::$", ":", text), flags=re.S)
    for i, piece in enumerate(pieces):
        pieces[i] = f"`{piece.strip('`')}`" if i % 2 else _escaped(piece)
    return "".join(pieces)


def _escaped(text: str) -> str:
    # Markdown knows no backslash before a bracket of HTML.
    return re.sub(r"([*_])", r"\\\1", text).replace("<", "&lt;")
