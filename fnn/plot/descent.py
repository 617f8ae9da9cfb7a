"""Trajectories of optimizers over toy functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fnn._core.errors import InputError, entry
from fnn._core.extras import require
from fnn.landscapes.trajectory import Trajectory
from fnn.plot._figure import ORANGE, RED, new_figure

# A path of descent with at most so many points shows each.
_FEW = 150


@entry
def descent(
    function: Callable[[Any], Any],
    paths: Mapping[str, Trajectory],
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
) -> Any:
    """Draw paths of descent over the function that they descend, one panel for each.

    `function` is one of `fnn.landscapes`, or any that maps points (..., d), d 1 or 2, to
    heights (...), then with the corners `low` and `high` of the part to draw. `paths` are by title,
    as `fnn.landscapes.descend` returns them. A path starts at the circle and ends at the square; a
    landscape's minima are crosses. Over two numbers the ground is dark where it is low.

    Raises `fnn.InputError` for paths over more than two numbers, no path, and missing corners.

    >>> import fnn
    >>> saddle = fnn.landscapes.saddle()
    >>> path = fnn.landscapes.descend(fnn.optim.sgd(0.1), saddle, [1.0, 0.01], steps=100)
    >>> len(descent(saddle, {"off the saddle": path}).axes)
    1
    """
    low = getattr(function, "low", None) if low is None else low
    high = getattr(function, "high", None) if high is None else high
    if low is None or high is None or len(low) != len(high) or len(low) not in (1, 2):
        raise InputError(
            "corners low and high of one or two numbers",
            f"{low} and {high}",
            "pass them, as in low=(-1, -1), high=(1, 1)",
        )
    if not paths or any(np.shape(path.points)[1:] != (len(low),) for path in paths.values()):
        raise InputError(
            f"paths of points (steps + 1, {len(low)})",
            str({title: np.shape(path.points) for title, path in paths.items()}),
            "pass what fnn.landscapes.descend returns for this function",
        )
    draw = _over_plane if len(low) == 2 else _over_line
    figure = new_figure(3.4 * len(paths) + 0.4, 3.4)
    panels = figure.subplots(1, len(paths), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, path) in zip(panels, paths.items(), strict=True):
        axes.set_title(title, fontsize=10)
        for minimum in getattr(function, "minima", ()):
            height = () if len(low) == 2 else (function(minimum),)
            axes.plot(*minimum, *height, "x", color="white", markersize=8, markeredgewidth=4)
            axes.plot(*minimum, *height, "x", color="black", markersize=7, markeredgewidth=1.5)
        draw(axes, function, path, np.asarray(low), np.asarray(high))
    return figure


def _over_plane(axes: Any, function: Any, path: Any, low: Any, high: Any) -> None:
    sides = [np.linspace(a, b, 201) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*sides), -1).astype(np.float32)
    heights = np.asarray(function(grid))
    # As much of the plane between any two lines: bowls and cliffs are both seen.
    levels = np.unique(np.quantile(heights, np.linspace(0, 1, 22)))
    shades = require("matplotlib", "plot").colormaps["Blues_r"](
        np.linspace(0.35, 1, len(levels) - 1)
    )
    axes.contourf(*sides, heights, levels=levels, colors=shades)
    axes.contour(*sides, heights, levels=levels, colors="white", linewidths=0.4)
    x, y = np.asarray(path.points, np.float64).T
    few = len(x) <= _FEW
    axes.plot(x, y, color=RED, linewidth=1.2 if few else 0.7, alpha=1.0 if few else 0.8)
    if few:
        axes.plot(x, y, "o", color=RED, markersize=3)
    _ends(axes, x, y)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="$x_1$", ylabel="$x_2$")
    axes.label_outer()


def _over_line(axes: Any, function: Any, path: Any, low: Any, high: Any) -> None:
    side = np.linspace(low[0], high[0], 401)
    heights = np.asarray(function(side[:, None].astype(np.float32)))
    room = 0.08 * np.ptp(heights)
    axes.fill_between(side, heights, heights.min() - room, color="0.85", linewidth=0)
    axes.plot(side, heights, color="0.4", linewidth=1)
    x, y = np.asarray(path.points, np.float64)[:, 0], np.asarray(path.values, np.float64)
    few = len(x) <= _FEW
    if few:
        axes.plot(x, y, color=RED, linewidth=0.8)
    axes.plot(x, y, "o", color=RED, markersize=4, alpha=1.0 if few else 0.2, markeredgewidth=0)
    _ends(axes, x, y)
    axes.set(xlim=(low[0], high[0]), ylim=(heights.min() - room, heights.max() + room))
    axes.set(xlabel="x", ylabel="height")
    axes.label_outer()


def _ends(axes: Any, x: Any, y: Any) -> None:
    style = {"markersize": 8, "markeredgecolor": "black", "markeredgewidth": 1.2}
    axes.plot(x[0], y[0], "o", color="white", **style)
    axes.plot(x[-1], y[-1], "s", color=ORANGE, **style)
