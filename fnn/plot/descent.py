"""Trajectories of optimizers over toy functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, entry
from fnn._core.extras import require
from fnn._core.types import Input, Output, Unchecked
from fnn.landscapes.trajectory import Trajectory
from fnn.plot._figure import ORANGE, RED, diverged_at, new_figure, numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A trajectory with at most so many points shows each.
_FEW = 150


@entry
def descent(
    function: Callable[[Input], Output],
    paths: Mapping[str, Trajectory],
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
) -> Figure:
    """Draw trajectories over the function that they descend, one panel for each.

    A trajectory starts at the circle and ends at the square; a landscape's minima are crosses. Over
    two coordinates the ground is dark where it is low. What is not finite, of a function or of a
    trajectory, is left out, and a trajectory that diverged is told with the step.

    Args:
        function: one of `fnn.landscapes`, or any that maps points (..., d), d 1 or 2, to heights
            (...).
        paths: trajectories by title, as `fnn.landscapes.descend` returns them.
        low: (d,), the corner of the part to draw; that of the landscape where it is None.
        high: (d,), the other corner, above it in every coordinate.
    Raises:    InputError for trajectories over more than two coordinates, none of them, one
        without points, and missing corners.

    >>> import fnn
    >>> saddle = fnn.landscapes.saddle()
    >>> path = fnn.landscapes.descend(fnn.optim.sgd(0.1), saddle, [1.0, 0.01], steps=100)
    >>> len(descent(saddle, {"off the saddle": path}).axes)
    1

    """
    check.function(function, "function", takes="point")
    low = getattr(function, "low", None) if low is None else low
    high = getattr(function, "high", None) if high is None else high
    corners = _corners(low, high)
    d = len(corners[0])
    points = _points(paths, d)
    draw = _over_plane if d == 2 else _over_line
    figure = new_figure(3.4 * len(points) + 0.4, 3.4)
    panels = figure.subplots(1, len(points), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, path) in zip(panels, points.items(), strict=True):
        axes.set_title(title, fontsize=10)
        for minimum in getattr(function, "minima", ()):
            height = () if d == 2 else (function(minimum),)
            axes.plot(*minimum, *height, "x", color="white", markersize=11, markeredgewidth=4)
            axes.plot(
                *minimum, *height, "x", color="black", markersize=10, markeredgewidth=1.5,
                label="minimum",
            )  # fmt: skip
        draw(axes, function, path, *corners)
        _say_whether_diverged(axes, path[1])
    handles = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    legend = figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles),
        frameon=False, fontsize=9,
    )  # fmt: skip
    for handle in filter(None, legend.legend_handles):
        # As it is in the legend, and not as where many lie on each other.
        handle.set_alpha(1.0)
    figure.set_label(f"Trajectories over a function of {d} coordinates: {', '.join(points)}.")
    return figure


def _corners(low: Unchecked, high: Unchecked) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners, or raise unless they are two of one or two finite coordinates."""
    try:
        corners = np.asarray(low, np.float64), np.asarray(high, np.float64)
        fits = corners[0].shape == corners[1].shape in ((1,), (2,))
        fits = fits and bool((corners[0] < corners[1]).all() and np.isfinite(corners).all())
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise InputError(
            "corners low and high of one or two numbers",
            f"{low} and {high}",
            "pass them, low below high, as in low=(-1, -1), high=(1, 1)",
        )
    return corners


def _points(paths: Unchecked, d: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return points and values by title, or raise unless they are of d coordinates."""
    known = isinstance(paths, Mapping) and all(isinstance(p, Trajectory) for p in paths.values())
    shapes = {title: np.shape(path.points) for title, path in paths.items()} if known else {}
    if not shapes or any(len(s) != 2 or s[1] != d or not s[0] for s in shapes.values()):
        raise InputError(
            f"paths of points (steps + 1, {d})",
            str(shapes) if known else str(type(paths).__name__),
            "pass what fnn.landscapes.descend returns for this function, by title",
        )
    return {
        title: (numbers(path.points, "points"), numbers(path.values, "values"))
        for title, path in paths.items()
    }


def _over_plane(
    axes: Axes,
    function: Callable[[Input], Output],
    path: tuple[np.ndarray, np.ndarray],
    low: np.ndarray,
    high: np.ndarray,
) -> None:
    """Draw a trajectory over a function of two coordinates."""
    sides = [np.linspace(a, b, 201) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*sides), -1).astype(np.float32)
    heights = np.ma.masked_invalid(_heights(function, grid))
    # As much of the plane between any two lines: bowls and cliffs are both seen.
    known = heights.compressed()
    levels = np.unique(np.quantile(known, np.linspace(0, 1, 22))) if len(known) else known
    if len(levels) > 1:
        shades = require("matplotlib", "plot").colormaps["Blues_r"](
            np.linspace(0.35, 1, len(levels) - 1)
        )
        axes.contourf(*sides, heights, levels=levels, colors=shades)
        axes.contour(*sides, heights, levels=levels, colors="white", linewidths=0.4)
    x, y = path[0].T
    few = len(x) <= _FEW
    axes.plot(
        x, y, "o-" if few else "-", color=RED, markersize=3, label="steps",
        linewidth=1.2 if few else 0.7, alpha=1.0 if few else 0.8,
    )  # fmt: skip
    _ends(axes, x, y)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="$x_1$", ylabel="$x_2$")
    axes.label_outer()


def _heights(function: Callable[[Input], Output], points: np.ndarray) -> np.ndarray:
    heights = numbers(function(points), "heights")
    if heights.shape != points.shape[:-1]:
        expected = f"heights of shape {points.shape[:-1]} for points {points.shape}"
        remedy = "pass a function that takes points along the last axis"
        raise InputError(expected, f"shape {heights.shape}", remedy)
    return heights


def _over_line(
    axes: Axes,
    function: Callable[[Input], Output],
    path: tuple[np.ndarray, np.ndarray],
    low: np.ndarray,
    high: np.ndarray,
) -> None:
    """Draw a trajectory over a function of one coordinate."""
    side = np.linspace(low[0], high[0], 401)
    heights = _heights(function, side[:, None].astype(np.float32))
    known = heights[np.isfinite(heights)]
    bottom, top = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    room = 0.08 * (top - bottom) or 1.0
    axes.fill_between(side, heights, bottom - room, color="0.85", linewidth=0)
    axes.plot(side, heights, color="0.4", linewidth=1)
    x, y = path[0][:, 0], path[1]
    few = len(x) <= _FEW
    axes.plot(
        x, y, "o-" if few else "o", color=RED, linewidth=0.8, markersize=4, label="steps",
        alpha=1.0 if few else 0.2, markeredgewidth=0,
    )  # fmt: skip
    _ends(axes, x, y)
    axes.set(xlim=(low[0], high[0]), ylim=(bottom - room, top + room))
    axes.set(xlabel="x", ylabel="height")
    axes.label_outer()


def _ends(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """Mark the first point and the last."""
    for i, mark, color, label in ((0, "o", "white", "start"), (-1, "s", ORANGE, "end")):
        axes.plot(
            x[i], y[i], mark, color=color, markersize=7, markeredgecolor="black",
            markeredgewidth=1.2, label=label,
        )  # fmt: skip


def _say_whether_diverged(axes: Axes, heights: np.ndarray) -> None:
    """Write the first step whose height is not finite; the start is step 0."""
    step = diverged_at(heights)
    if step is not None:
        axes.text(
            0.5, 0.03, f"diverged at step {step - 1}", transform=axes.transAxes, ha="center",
            fontsize=9, bbox={"facecolor": "white", "edgecolor": RED, "pad": 2.5},
        )  # fmt: skip
