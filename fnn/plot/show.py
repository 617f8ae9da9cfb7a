"""Picture with knobs to turn."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import Unchecked
from fnn.plot._knobs import choices, forget, label, picture, words
from fnn.plot._notebook import image_of, in_a_kernel

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@entry
def show(
    draw: Callable[..., Figure],
    knobs: Mapping[str, Iterable[Hashable]],
    *,
    start: Mapping[str, Hashable] | None = None,
) -> Figure | None:
    """Interactive picture: one slider for each knob, drawn anew when one is turned.

    In a notebook that has ipywidgets (the extra ``notebook``) the sliders and the picture are
    shown, and nothing is returned. Everywhere else the picture at the start is returned. Whatever
    `draw` does, such as training, is done again for every choice.

    Args:
        draw: a function that returns a figure; it gets the value of each knob by its name.
        knobs: for each name the values to choose from: numbers, texts or other things that can be
            told apart.
        start: the values that are drawn first, by name; the first of a knob that is not named.
    Raises:    InputError for a knob without values, for a start that is none of them, and for what
        is no figure.

    >>> from matplotlib.figure import Figure
    >>> def parabola(slope):
    ...     figure = Figure()
    ...     figure.add_subplot().plot([0, 1, 2], [0, slope, 4 * slope])
    ...     return figure
    >>> figure = show(parabola, {"slope": (1, 2, 3)}, start={"slope": 2})
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [0, 2, 8]

    """
    offered, first = _offered(draw, knobs, {} if start is None else start)
    figure = picture(draw, first)
    if not in_a_kernel():
        return figure
    # The notebook itself would show what pyplot holds, once more.
    forget(figure)
    try:
        widgets = importlib.import_module("ipywidgets")
    except ImportError:
        return figure
    _Panel(widgets, draw, offered, first, figure).display()
    return None


def _offered(
    draw: Unchecked, knobs: Unchecked, start: Unchecked
) -> tuple[dict[str, tuple[Hashable, ...]], dict[str, Hashable]]:
    """Return the values of each knob, and those to start with."""
    for given, name in ((knobs, "knobs"), (start, "start")):
        if not isinstance(given, Mapping):
            raise InputError(
                f"{name} by name", describe(given), 'pass a dict such as {"learning_rate": ...}'
            )
    if not knobs:
        raise InputError("a knob or more", "none", 'pass {"learning_rate": (0.01, 0.1)}, say')
    offered = {name: choices(name, values) for name, values in knobs.items()}
    for name, value in start.items():
        check.one_of(name, "a name in start", offered, "name a knob")
        if not isinstance(value, Hashable) or value not in offered[name]:
            listed = ", ".join(map(label, offered[name]))
            raise InputError(f"start of {name} among {listed}", describe(value), "pick one of them")
    remedy = "give it a parameter for every knob"
    check.function(draw, "draw", remedy, takes=f"*, {', '.join(offered)}")
    return offered, {name: start.get(name, values[0]) for name, values in offered.items()}


class _Panel:
    """Sliders and a picture in the output of a cell, where a saved notebook keeps the picture."""

    def __init__(
        self,
        widgets: ModuleType,
        draw: Callable[..., Figure],
        offered: Mapping[str, tuple[Hashable, ...]],
        first: Mapping[str, Hashable],
        figure: Figure,
    ):
        self._draw, self._first, self._figure = draw, first, figure
        self._sliders = {
            name: widgets.SelectionSlider(
                options=[(label(one), one) for one in values],
                value=first[name],
                description=name,
                # Drawing may take longer than a slider is dragged over a value.
                continuous_update=False,
                style={"description_width": "initial"},
            )
            for name, values in offered.items()
        }
        self._complaint = widgets.Label()
        self._box = widgets.VBox([*self._sliders.values(), self._complaint])
        self._display = importlib.import_module("IPython.display")

    def display(self) -> None:
        """Show sliders and picture, and follow the sliders from now on."""
        self._display.display(self._box)
        self._handle = self._display.display(
            self._image(self._figure, self._first), display_id=True
        )
        for slider in self._sliders.values():
            slider.observe(self._redraw, names="value")

    def _redraw(self, _: Unchecked) -> None:
        values = {name: slider.value for name, slider in self._sliders.items()}
        try:
            figure = picture(self._draw, values)
        except Exception as error:
            # A notebook hides what is raised while a slider moves.
            self._complaint.value = f"{type(error).__name__}: {error}"
            raise
        forget(figure)
        self._complaint.value = ""
        self._handle.update(self._image(figure, values))

    def _image(self, figure: Figure, values: Mapping[str, Hashable]) -> Unchecked:
        return image_of(figure, words(figure, values))
