"""What all pictures share: the palette, the figure, the file."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fnn._core import check
from fnn._core.atomic_write import atomic_write
from fnn._core.errors import InputError, describe, entry
from fnn._core.extras import require
from fnn._core.types import Unchecked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colors, told apart by color-blind eyes.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"

# Told apart by hue, by mark and by line, for print without colors too.
HUES = (BLUE, ORANGE, GREEN, RED, "#56B4E9", "#CC79A7", "#000000", "#8C6D31")
MARKERS = "os^DvP*X"
_LINES = ("-", "--", "-.", ":")

# Where a format keeps what is read to those who cannot see the picture, and its date.
_FIELDS = {".png": "Description", ".svg": "Title", ".pdf": "Subject"}
_DATES = {".svg": "Date", ".pdf": "CreationDate"}


@entry
def save(figure: Figure, file: Path | str) -> None:
    """Write a figure as PNG, SVG or PDF; the file appears once it is whole.

    What the picture shows in words goes into the file, for those who cannot see it: into the title
    of an SVG, and the description of a PNG or PDF. The same figure gives the same file.

    Args:
        figure: what the functions of `fnn.plot` return, or any figure of matplotlib.
        file: its name, which ends in ``.png``, ``.svg`` or ``.pdf``; without an ending it is PNG.
    Raises:    InputError for what is no figure, and for another ending.

    """
    if not hasattr(figure, "savefig"):
        raise InputError("a figure", describe(figure), "pass what fnn.plot.curves returns, say")
    suffix = suffix_of(file)
    words = str(figure.get_label()) if hasattr(figure, "get_label") else ""
    metadata: dict[str, str | None] = {_FIELDS.get(suffix, "Description"): words} if words else {}
    if suffix in _DATES:
        metadata[_DATES[suffix]] = None
    with (
        require("matplotlib", "plot").rc_context({"svg.hashsalt": "fnn"}),
        atomic_write(file) as temporary,
    ):
        figure.savefig(temporary, dpi=150, format=suffix[1:] or "png", metadata=metadata)


def suffix_of(file: Unchecked) -> str:
    """Return the ending of a picture's name, or raise for another than those that are written.

    >>> suffix_of("curves.PNG")
    '.png'
    """
    suffix = Path(file).suffix.lower() if isinstance(file, Path | str) else "?"
    if suffix not in ("", *_FIELDS):
        raise InputError(
            "the name of a PNG, SVG or PDF file",
            describe(file),
            "end it in .png, .svg or .pdf, or call figure.savefig",
        )
    return suffix


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, without pyplot: nothing global, no window."""
    figure: Figure = require("matplotlib.figure", "plot").Figure(
        (width, height), layout="constrained"
    )
    require("matplotlib.backends.backend_agg", "plot").FigureCanvasAgg(figure)
    return figure


def looks(*, marks: bool = False) -> Iterator[dict[str, Unchecked]]:
    """Yield the looks of one line after another, without end.

    Args:
        marks: whether each point has a mark.

    >>> look = next(looks())
    >>> look["color"], look["linestyle"]
    ('#0072B2', '-')
    """
    for i in itertools.count():
        look: dict[str, Unchecked] = {"color": HUES[i % len(HUES)], "linewidth": 1.6}
        if marks:
            look |= {"marker": MARKERS[i % len(MARKERS)], "markersize": 4}
        yield look | {"linestyle": _LINES[(i // len(HUES) if marks else i) % len(_LINES)]}


def legend(axes: Axes, *, outside: bool = False) -> None:
    """Put a legend on a panel, where it hides nothing: inside, or to the right of it."""
    if not axes.get_legend_handles_labels()[0]:
        return
    if outside:
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1))
    else:
        axes.legend(frameon=False, fontsize=9)


def heading(figure: Figure, text: str, size: float = 10, color: str = "black") -> None:
    """Write the title of a figure, in as many lines as its width needs."""
    # A letter is about 0.6 of its height wide.
    letters = int(figure.get_figwidth() * 72 / (0.6 * size))
    figure.suptitle(textwrap.fill(text, max(letters, 12)), fontsize=size, color=color)


def chance_line(axes: Axes, chance: float) -> None:
    """Draw what guessing reaches as a line."""
    style: dict[str, Unchecked] = {"color": "0.4", "linewidth": 1, "linestyle": (0, (1, 1.5))}
    axes.axhline(chance, label=f"guessing: {chance:.3g}", **style)


def diverged_at(losses: Unchecked) -> int | None:
    """Return the first step whose loss is not finite, counted from 1; None where all are.

    >>> diverged_at([2.0, float("nan")]), diverged_at([2.0, 1.0])
    (2, None)
    """
    wrong = np.flatnonzero(~np.isfinite(numbers(losses, "loss")))
    return int(wrong[0]) + 1 if len(wrong) else None


def numbers(values: Unchecked, name: str) -> np.ndarray:
    """Return values as float64, which matplotlib draws; half precision it does not know.

    >>> numbers([1, 2], "loss").dtype
    dtype('float64')
    """
    try:
        return np.ma.filled(np.ma.asarray(values).astype(np.float64), np.nan)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} of numbers", describe(values), "pass an array") from error


def class_labels(
    values: Unchecked, name: str, count: int | None, classes: int | None
) -> np.ndarray:
    """Return labels as integers, one for each example.

    Args:
        values: what may be labels.
        name: what they are called.
        count: how many there are; None for any number.
        classes: of how many classes; None for any number.

    >>> class_labels([0, 1], "labels", 2, 2)
    array([0, 1])
    """
    known = numbers(values, name)
    if known.size:
        known = np.asarray(values)
    sizes = {} if count is None else {"n": count}
    check.shape(known, "n", name, "pass one for each example", **sizes)
    if len(known) and not np.issubdtype(known.dtype, np.integer):
        raise InputError(f"{name} of integers", describe(values), "pass classes from 0 on")
    most = np.inf if classes is None else classes - 1
    wanted = f"{name} of 0 or more" if classes is None else f"{name} of 0 to {most}"
    check.values(known, lambda k: (k < 0) | (k > most), wanted, "mend it", name)
    return known.astype(int)


def class_names(
    names: Unchecked, classes: int, usual: str = "", *, more: bool = False
) -> list[str]:
    """Return the names of classes: those given, or their numbers.

    Args:
        names: texts, or None.
        classes: how many there are.
        usual: what stands before a number.
        more: whether there may be names of more classes.

    >>> class_names(None, 2, "class "), class_names(("cat", "dog"), 2)
    (['class 0', 'class 1'], ['cat', 'dog'])
    """
    if names is None:
        return [f"{usual}{k}" for k in range(classes)]
    listed = isinstance(names, np.ndarray) and names.ndim == 1
    known = listed or (isinstance(names, Sequence) and not isinstance(names, str))
    if not known or not all(isinstance(name, str) for name in names):
        raise InputError("names of text", describe(names), "pass one for each class")
    if len(names) < classes or (len(names) > classes and not more):
        wanted = f"{classes} names{' or more' if more else ''}"
        raise InputError(wanted, str(len(names)), "pass one for each class")
    return list(names)


def has_positive(*values: np.ndarray) -> bool:
    """Say whether any value has a place on a logarithmic axis.

    >>> has_positive(np.array([np.nan, -1.0])), has_positive(np.array([0.0, 2.0]))
    (False, True)
    """
    return any(bool((np.isfinite(one) & (one > 0)).any()) for one in values)
