"""Knobs: named values to choose from, and the picture at a choice."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe
from fnn._core.extras import require
from fnn._core.types import Unchecked

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def choices(name: Unchecked, values: Unchecked) -> tuple[Hashable, ...]:
    """Return the values of one knob, or raise unless they can be told apart.

    >>> choices("width", [1, 2])
    (1, 2)
    """
    if not isinstance(name, str):
        raise InputError(
            "a knob by the name of a parameter of draw",
            describe(name),
            "name it as in learning_rate",
        )
    found = tuple(check.several(values, f"values of {name}"))
    if not found:
        raise InputError(f"a value of {name} or more", describe(values), "list what to choose from")
    # Those of NumPy are printed and compared as what they hold.
    found = tuple(one.item() if isinstance(one, np.generic) else one for one in found)
    for i, one in enumerate(found):
        if not isinstance(one, Hashable) or hasattr(one, "shape"):
            raise InputError(
                f"values of {name} such as numbers and texts",
                describe(one),
                "name them, and look them up in draw",
            )
        if one in found[:i]:
            raise InputError(f"different values of {name}", f"{one!r} twice", "leave one out")
    return found


def label(value: Unchecked) -> str:
    """Return a value in a few signs.

    >>> label(0.1), label(1e-4), label(30), label("tanh"), label(len)
    ('0.1', '0.0001', '30', 'tanh', 'len')
    """
    if isinstance(value, float):
        return f"{value:g}"
    return str(getattr(value, "__name__", value))


def picture(draw: Callable[..., Figure], values: Mapping[str, Unchecked]) -> Figure:
    """Draw at some values, or raise where no figure comes."""
    found = draw(**values)
    if not isinstance(found, require("matplotlib.figure", "plot").Figure):
        raise InputError("draw to return a figure", describe(found), "end it in return figure")
    return found


def forget(figure: Figure) -> None:
    """Take a figure from pyplot, which would show it once more, and keep it for good."""
    pyplot: Unchecked = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close(figure)


def words(figure: Figure, values: Mapping[str, Unchecked]) -> str:
    """Return what is read to those who cannot see a picture: its values, and its own words."""
    chosen = ", ".join(f"{name} = {label(value)}" for name, value in values.items())
    return ": ".join(filter(None, (chosen, str(figure.get_label()) or _titles(figure))))


def _titles(figure: Figure) -> str:
    """Return the titles of a figure and its panels, or what their axes are called."""
    titles = [one.get_suptitle() for one in (figure, *figure.subfigs)]
    for axes in figure.axes:
        across, up = axes.get_xlabel(), axes.get_ylabel()
        above = filter(None, (axes.get_title(place) for place in ("center", "left", "right")))
        titles.append(next(above, f"{up} over {across}" if across and up else ""))
    return "; ".join(filter(None, titles))
