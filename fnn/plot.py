"""Pictures of a training run, of gradients and of predictions; needs the extra ``run``.

Every function returns a `matplotlib.figure.Figure`, made without pyplot: nothing global, no window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fnn.errors import InputError, describe
from fnn.extras import require
from fnn.files import replacing
from fnn.gradient.compare import Comparison
from fnn.optim.tracing import Path as DescentPath
from fnn.train.fit import History

# Okabe and Ito's colours, told apart by colour-blind eyes.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
# A path of descent with at most so many points shows each.
_FEW = 150


def curves(history: History, metric: str = "accuracy") -> Any:
    """Draw the loss of every step, its mean over epochs, and the validation loss and metric."""
    figure = _figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    epochs = len(history.epoch_loss)
    ends = np.arange(1, epochs + 1)
    left.plot(
        np.arange(1, len(history.loss) + 1) * epochs / max(len(history.loss), 1),
        history.loss,
        color=BLUE,
        alpha=0.25,
        linewidth=0.8,
        label="training, every step",
    )
    left.plot(ends, history.epoch_loss, color=BLUE, label="training, mean of an epoch")
    if "loss" in history.validation:
        left.plot(ends, history.validation["loss"], color=ORANGE, label="held out")
    left.set(xlabel="epoch", ylabel="loss", yscale="log", title="Loss")
    left.legend(frameon=False)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    if metric in history.validation:
        values = history.validation[metric]
        right.plot(ends, values, color=ORANGE, marker="o", markersize=3)
        right.set(xlabel="epoch", ylabel=metric, title=f"Held-out {metric}: {values[-1]:.3f}")
    else:
        right.set_axis_off()
    return figure


def gradients(comparison: Comparison) -> Any:
    """Draw the error of manual and automatic gradients leaf by leaf, and the gradient's size.

    A comparison that holds costs gets a second row: time and memory of every layer, both ways.
    """
    figure = _figure(9, 0.9 + 0.25 * (len(comparison.leaves) + len(comparison.costs)) + 2)
    grid = figure.subplots(
        2 if comparison.costs else 1,
        2,
        sharey="row",
        squeeze=False,
        height_ratios=[max(len(rows), 3) for rows in (comparison.leaves, comparison.costs) if rows],
    )
    _leaves(comparison, *grid[0])
    if comparison.costs:
        _costs(comparison, *grid[1])
    return figure


def _leaves(comparison: Comparison, left: Any, right: Any) -> None:
    names = [leaf.name.removeprefix("params/") for leaf in comparison.leaves]
    # An error of exactly zero has no place on a logarithmic axis: it goes to the left edge.
    floor = float(np.finfo(comparison.dtype).eps) / 100
    rows = np.arange(len(names))
    for offset, colour, label, errors in (
        (0.18, BLUE, "manual against float64", [leaf.manual.error for leaf in comparison.leaves]),
        (-0.18, ORANGE, "auto against float64", [leaf.auto.error for leaf in comparison.leaves]),
    ):
        left.plot(
            np.maximum(errors, floor), rows + offset, "o", color=colour, markersize=5, label=label
        )
    left.axvline(comparison.bound, color=RED, linewidth=1, label="bound of rounding")
    left.set(
        xscale="log",
        xlabel="largest error, relative to the whole gradient",
        yticks=rows,
        yticklabels=names,
        title=f"Error in {comparison.dtype}",
    )
    left.invert_yaxis()
    left.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.08), ncols=3, fontsize=7)
    sizes = [max(leaf.norm, 1e-12) for leaf in comparison.leaves]
    right.barh(rows, sizes, color=GREEN, height=0.6)
    right.set(xscale="log", xlabel="norm of the gradient", title="Size of the gradient")
    right.tick_params(labelleft=False)


def _costs(comparison: Comparison, left: Any, right: Any) -> None:
    names = [f"{cost.path} {cost.name}".strip() for cost in comparison.costs]
    rows = np.arange(len(names))
    for axes, column, unit, title in (
        (left, "milliseconds", 1, "Time of forward and backward, ms"),
        (right, "temporary_bytes", 1024, "Temporary memory, KiB"),
    ):
        for i, (way, colour) in enumerate((("manual", BLUE), ("auto", ORANGE))):
            values = [getattr(cost.ways[i], column) / unit for cost in comparison.costs]
            axes.barh(rows + 0.4 * (i - 0.5), values, color=colour, height=0.38, label=way)
        axes.set_title(title)
    left.set(yticks=rows, yticklabels=names)
    left.invert_yaxis()
    left.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.08), ncols=2, fontsize=7)
    right.tick_params(labelleft=False)


def predictions(
    images: Any, labels: Any, probabilities: Any, names: list[str] | None = None
) -> Any:
    """Draw images with predicted label and probability, all mistakes first and marked.

    images (n, H, W), labels (n,) integers, probabilities (n, K). Shows up to 40 images; at most
    half of them are mistakes.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    probabilities = np.asarray(probabilities)
    guesses = probabilities.argmax(-1)
    wrong, right = np.flatnonzero(guesses != labels), np.flatnonzero(guesses == labels)
    chosen = np.concatenate([wrong[:20], right])[:40]
    names = names or [str(k) for k in range(probabilities.shape[-1])]
    columns = 10
    rows = max(1, -(-len(chosen) // columns))
    figure = _figure(columns * 0.95, rows * 1.25 + 0.5)
    for axes in (grid := figure.subplots(rows, columns, squeeze=False)).flat:
        axes.set_axis_off()
    for axes, i in zip(grid.flat, chosen, strict=False):
        axes.imshow(images[i], cmap="gray_r")
        mistake = guesses[i] != labels[i]
        title = f"{names[guesses[i]]}  {probabilities[i, guesses[i]]:.0%}"
        if mistake:
            title += f"\nis {names[labels[i]]}"
            axes.add_patch(
                require("matplotlib.patches", "plot").Rectangle(
                    (0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=RED, linewidth=3
                )
            )
        axes.set_title(title, fontsize=8, color=RED if mistake else "black")
    figure.suptitle(
        f"Predicted label and its probability: {len(right)} of {len(labels)} right; "
        f"{len(wrong[:20])} of {len(wrong)} mistakes shown, framed",
        fontsize=10,
    )
    return figure


def filters(weight: Any) -> Any:
    """Draw the filters of a first convolution, all on one scale: what each looks for in an image.

    weight (H, W, C, O), the parameter of `fnn.conv`: one channel is drawn in red where a bright
    pixel speaks for the filter and in blue where it speaks against it, three as colours.

    Raises `fnn.InputError` for weights of another shape.
    """
    weight = np.asarray(weight)
    if weight.ndim != 4 or weight.shape[2] not in (1, 3):
        raise InputError(
            "plot.filters",
            "a weight (H, W, 1, O) or (H, W, 3, O)",
            describe(weight),
            "pass the weight of the first convolution",
        )
    largest = np.abs(weight).max() or 1.0
    count, columns = weight.shape[-1], min(16, weight.shape[-1])
    rows = -(-count // columns)
    figure = _figure(columns * 0.6 + 0.4, rows * 0.6 + 0.6)
    for axes in (grid := figure.subplots(rows, columns, squeeze=False)).flat:
        axes.set_axis_off()
    for axes, one in zip(grid.flat, np.moveaxis(weight, -1, 0), strict=False):
        if one.shape[-1] == 1:
            axes.imshow(one[..., 0], cmap="RdBu_r", vmin=-largest, vmax=largest)
        else:
            axes.imshow((one / largest + 1) / 2)
    figure.suptitle(
        f"The {count} filters of the first layer, largest weight {largest:.2g}", size=10
    )
    return figure


def descent(
    function: Callable[[Any], Any],
    paths: Mapping[str, DescentPath],
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
) -> Any:
    """Draw paths of descent over the function that they descend, one panel for each.

    `function` is one of `fnn.optim.landscape`, or any that maps points (..., d), d 1 or 2, to
    heights (...), then with the corners `low` and `high` of the part to draw. `paths` are by title,
    as `fnn.optim.trace` returns them. A path starts at the circle and ends at the square; a
    landscape's minima are crosses. Over two numbers the ground is dark where it is low.

    Raises `fnn.InputError` for paths over more than two numbers, no path, and missing corners.

    >>> import fnn
    >>> saddle = fnn.optim.landscape.saddle()
    >>> path = fnn.optim.trace(fnn.optim.sgd(0.1), saddle, [1.0, 0.01], steps=100)
    >>> len(descent(saddle, {"off the saddle": path}).axes)
    1
    """
    low = getattr(function, "low", None) if low is None else low
    high = getattr(function, "high", None) if high is None else high
    if low is None or high is None or len(low) != len(high) or len(low) not in (1, 2):
        raise InputError(
            "plot.descent",
            "corners low and high of one or two numbers",
            f"{low} and {high}",
            "pass them, as in low=(-1, -1), high=(1, 1)",
        )
    if not paths or any(np.shape(path.points)[1:] != (len(low),) for path in paths.values()):
        raise InputError(
            "plot.descent",
            f"paths of points (steps + 1, {len(low)})",
            str({title: np.shape(path.points) for title, path in paths.items()}),
            "pass what fnn.optim.trace returns for this function",
        )
    draw = _over_plane if len(low) == 2 else _over_line
    figure = _figure(3.4 * len(paths) + 0.4, 3.4)
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


def save(figure: Any, file: Path | str) -> None:
    """Write a figure as PNG; the file appears once it is whole."""
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _figure(width: float, height: float) -> Any:
    figure = require("matplotlib.figure", "plot").Figure((width, height), layout="constrained")
    require("matplotlib.backends.backend_agg", "plot").FigureCanvasAgg(figure)
    return figure
