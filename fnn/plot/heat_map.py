"""Heat map: a sweep over two of its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, entry
from fnn._core.types import Unchecked
from fnn.plot._figure import new_figure
from fnn.plot._settings import Setting, check_sweep, differing, setting
from fnn.train.sweep.sweep import Sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More rows or columns than these are no grid.
_MOST = 40
# Of so many squares each has its number written in it.
_WRITTEN = 150


@entry
def heat_map(
    result: Sweep,
    x: str | None = None,
    y: str | None = None,
    value: str = "loss",
    *,
    largest: bool = False,
) -> Figure:
    """Draw a value of a sweep over two of its settings, as squares on a grid.

    A square is the mean over all runs at these two values that came to their end; a cross stands
    where none did, and nothing where there was no run. A dot marks the best square.

    Args:
        result: what `fnn.sweep` returned.
        x: the setting of the columns; None for the first that differs between points.
        y: that of the rows; None for the next.
        value: a column of `fnn.train.Sweep.table`: ``"loss"``, ``"validation accuracy"``.
        largest: whether the largest value is the best, as of an accuracy.
    Raises:    InputError for what is no sweep, no such setting or column, and a setting with more
        than 40 values, as drawn points have.

    >>> import numpy as np
    >>> from fnn.train.fit import History
    >>> points = [{"rate": r, "size": s, "seed": 0} for r in (0.1, 1.0) for s in (8, 16)]
    >>> runs = [History(*2 * [np.array([float(i)])], {}, 0.0, 0.0) for i in range(4)]
    >>> heat_map(Sweep(points, runs, [], 1)).axes[0].images[0].get_array().tolist()
    [[0.0, 2.0], [1.0, 3.0]]

    """
    check_sweep(result, value)
    check.flag(largest, "largest")
    columns, rows = _chosen(result, x, y)
    table, runs = _means(result, columns, rows, value)
    width = max(3.2, 0.62 * len(columns.values) + 2.4)
    figure = new_figure(width, max(2.6, 0.5 * len(rows.values) + 1.5))
    axes = figure.add_subplot()
    image = axes.imshow(
        np.ma.masked_invalid(table), cmap="viridis" if largest else "viridis_r", aspect="auto",
        origin="lower",
    )  # fmt: skip
    middle = np.nanmean([np.nanmin(table), np.nanmax(table)]) if np.isfinite(table).any() else 0.0
    for row, column in np.argwhere(runs > 0):
        number = table[row, column]
        if not np.isfinite(number):
            axes.text(column, row, "x", ha="center", va="center", fontsize=9, color="0.4")
        elif table.size <= _WRITTEN:
            # Bright squares are those of large values where these are best, else of small ones.
            bright = (number > middle) == largest
            color = "black" if bright else "white"
            axes.text(column, row, f"{number:.3g}", ha="center", va="center", fontsize=8,
                      color=color)  # fmt: skip
    words = columns.words()
    axes.set_xticks(range(len(words)), words, rotation=90 if max(map(len, words)) > 6 else 0)
    axes.set_yticks(range(len(rows.values)), rows.words())
    axes.set(xlabel=columns.name, ylabel=rows.name)
    told = f"mean {value} over {_rest(result, columns, rows)}"
    axes.set_title(told, fontsize=10)
    if np.isfinite(table).any():
        best = np.unravel_index(
            np.nanargmax(table) if largest else np.nanargmin(table), table.shape
        )
        axes.plot(best[1] + 0.36, best[0] + 0.36, "o", color="#D55E00", markersize=5)
        at = f"{columns.name} {columns.words()[best[1]]}, {rows.name} {rows.words()[best[0]]}"
        told += f"; best {table[best]:.4g} at {at}"
    figure.colorbar(image, ax=axes, label=value)
    figure.set_label(f"{told}.")
    return figure


def _chosen(result: Sweep, x: Unchecked, y: Unchecked) -> tuple[Setting, Setting]:
    """Return the settings of columns and rows, or raise unless they are two."""
    names = differing(result)
    known = list(dict.fromkeys(name for point in result.points for name in point))
    for name, given in (("x", x), ("y", y)):
        if given is not None:
            check.one_of(given, f"{name}, a setting", known, "name one of these")
    free = [name for name in names if name not in (x, y)]
    chosen = [free.pop(0) if name is None and free else name for name in (x, y)]
    if None in chosen or chosen[0] == chosen[1]:
        got = f"{', '.join(names) or 'none'} that differ"
        remedy = "name them with x= and y=; with one draw parallel coordinates"
        raise InputError("two settings", got, remedy)
    columns, rows = (setting(result.points, name) for name in chosen)
    for one in (columns, rows):
        if len(one.values) > _MOST:
            expected, got = f"{_MOST} values of {one.name} at most", str(len(one.values))
            raise InputError(expected, got, "draw fnn.plot.parallel_coordinates")
    return columns, rows


def _means(
    result: Sweep, columns: Setting, rows: Setting, value: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of each square, NaN for none, and how many runs it has."""
    found = result.table()
    shape = len(rows.values), len(columns.values)
    total, fine, runs = np.zeros(shape), np.zeros(shape), np.zeros(shape, int)
    for point, number, stopped in zip(result.points, found[value], found["stopped"], strict=True):
        at = rows.find(point.get(rows.name)), columns.find(point.get(columns.name))
        runs[at] += 1
        if not stopped and np.isfinite(number):
            total[at], fine[at] = total[at] + number, fine[at] + 1
    return np.where(fine > 0, total / np.maximum(fine, 1), np.nan), runs


def _rest(result: Sweep, columns: Setting, rows: Setting) -> str:
    """Return what a square is the mean over, in words."""
    names = dict.fromkeys(name for point in result.points for name in point)
    rest = [name for name in names if name not in (columns.name, rows.name)
            and len(setting(result.points, name).values) > 1]  # fmt: skip
    return ", ".join(rest) or "one run each"
