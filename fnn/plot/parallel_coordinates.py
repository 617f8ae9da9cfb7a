"""Parallel coordinates: a sweep over many settings at once."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, entry
from fnn._core.extras import require
from fnn._core.types import Unchecked
from fnn.plot._figure import new_figure
from fnn.plot._settings import SAMPLES, Setting, check_sweep, differing, setting
from fnn.train.sweep.sweep import Summary, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

# More values than these are not written beside an axis: its ends, and some between, are.
_WRITTEN = 8
# Below the axes, where runs end that have no value.
_STOPPED = -0.12


@entry
def parallel_coordinates(result: Sweep, value: str = "loss", *, largest: bool = False) -> Figure:
    """Draw a sweep in parallel coordinates: an axis for every setting, a line for every point.

    The last axis is the value, the mean over seeds and folds of the runs that came to their end,
    which colors the line too: the better, the darker, and the best is drawn over the others. A
    point of which no run came to its end is a gray line that ends below. Settings that are the same
    in all points have no axis; numbers that differ by more than a factor of 20 have a logarithmic
    one.

    Args:
        result: what `fnn.sweep` returned.
        value: a column of `fnn.train.Sweep.table`: ``"loss"``, ``"validation accuracy"``.
        largest: whether the largest value is the best, as of an accuracy.
    Raises:    InputError for what is no sweep, no such column, and a sweep whose points differ in
        nothing but seed and fold.

    >>> import numpy as np
    >>> from fnn.train.fit import History
    >>> runs = [History(*2 * [np.array([loss])], {}, 0.0, 0.0) for loss in (2.0, 1.0)]
    >>> points = [{"rate": 0.1, "seed": 0}, {"rate": 0.2, "seed": 0}]
    >>> figure = parallel_coordinates(Sweep(points, runs, [], 1))
    >>> [text.get_text() for text in figure.axes[0].texts if text.get_text()[0].isalpha()]
    ['rate', 'loss']

    """
    check_sweep(result, value)
    check.flag(largest, "largest")
    names = differing(result)
    if not names:
        remedy = "draw fnn.plot.sweep of its histories"
        raise InputError("points that differ in a setting", "one setting", remedy)
    rows = result.summary(value, over=SAMPLES)
    settings = [setting(result.points, name) for name in names]
    found = np.array([row[value] for row in rows])
    fine = np.isfinite(found)
    width = 2.4 + 1.6 * len(names)
    figure = new_figure(width, 4.2)
    axes = figure.add_subplot()
    lost = int((~fine).sum())
    low_end = _STOPPED - 0.1 if lost else -0.05
    axes.set(xlim=(-0.35, len(names) + 0.35), ylim=(low_end, 1.16))
    axes.axis("off")
    low, high = (found[fine].min(), found[fine].max()) if fine.any() else (0.0, 1.0)
    scale = require("matplotlib.colors", "plot").Normalize(low, high)
    _draw_axes(axes, settings, value, (low, high) if fine.any() else None)
    _draw_lines(axes, settings, rows, found, scale, largest)
    if lost:
        words = f"{lost} of {len(rows)} stopped"
        axes.text(len(names), _STOPPED, words, ha="center", va="top", fontsize=8, color="0.4")
    best = "" if not fine.any() else _best(rows, found, names, value, largest)
    axes.set_title(textwrap.fill(best, int(13 * width)), fontsize=10)
    figure.set_label(f"{len(rows)} points of a sweep over {', '.join(names)}; {best or 'all lost'}")
    return figure


def _best(rows: Summary, found: np.ndarray, names: Sequence[str], value: str, largest: bool) -> str:
    """Return the best point in words."""
    i = int(np.nanargmax(found) if largest else np.nanargmin(found))
    told = ", ".join(f"{name} {_shown(rows[i].get(name))}" for name in names)
    return f"best {value} {found[i]:.4g}: {told}"


def _shown(value: Unchecked) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _draw_axes(
    axes: Axes, settings: Sequence[Setting], value: str, ends: tuple[float, float] | None
) -> None:
    """Draw the vertical axes with their names and what is written beside them."""
    for x in range(len(settings) + 1):
        axes.plot([x, x], [0, 1], color="0.3", linewidth=0.8, zorder=3)
    for x, one in enumerate(settings):
        axes.text(x, 1.06, one.name, ha="center", va="bottom", fontsize=10)
        places, words = one.places(), one.words()
        if len(words) > _WRITTEN:
            # Those nearest to even places.
            picked = {int(np.abs(places - at).argmin()) for at in np.linspace(0, 1, 5)}
            places, words = places[sorted(picked)], [words[i] for i in sorted(picked)]
        for y, word in zip(places, words, strict=True):
            _write(axes, x, y, word)
    axes.text(len(settings), 1.06, value, ha="center", va="bottom", fontsize=10)
    for y, number in zip((0, 0.5, 1), () if ends is None else np.linspace(*ends, 3), strict=False):
        _write(axes, len(settings), y, f"{number:.4g}")


def _write(axes: Axes, x: float, y: float, word: str) -> None:
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
    axes.plot([x - 0.015, x + 0.015], [y, y], color="0.3", linewidth=0.8, zorder=3)
    axes.text(x + 0.03, y, word, ha="left", va="center", fontsize=8, zorder=5, bbox=box)


def _draw_lines(
    axes: Axes,
    settings: Sequence[Setting],
    rows: Summary,
    found: np.ndarray,
    scale: Normalize,
    largest: bool,
) -> None:
    """Draw a line for every point, the best over the others."""
    # Both ends are seen on white.
    maps = require("matplotlib", "plot").colormaps
    shades = maps["viridis_r" if largest else "viridis"]
    places = [one.places() for one in settings]
    order = np.argsort(np.where(np.isfinite(found), found if largest else -found, -np.inf))
    for rank, i in enumerate(order):
        ys = [at[one.find(rows[i].get(one.name))] for one, at in zip(settings, places, strict=True)]
        look: dict[str, Unchecked] = {"color": "0.7", "linestyle": ":"}
        end = _STOPPED
        if np.isfinite(found[i]):
            end = float(scale(found[i]))
            look = {"color": shades(0.08 * largest + 0.92 * end)}
        width = 2.6 if rank == len(order) - 1 else 1.1
        axes.plot(range(len(ys) + 1), [*ys, end], linewidth=width, zorder=2, alpha=0.9, **look)
