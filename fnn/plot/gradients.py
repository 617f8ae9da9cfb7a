"""Gradients compared, leaf by leaf, and their costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from fnn._core.errors import entry
from fnn.lab.compare import Comparison
from fnn.plot._figure import BLUE, GREEN, ORANGE, RED, new_figure


@entry
def gradients(comparison: Comparison) -> Any:
    """Draw the error of manual and automatic gradients leaf by leaf, and the gradient's size.

    A comparison that holds costs gets a second row: time and memory of every layer, both ways.
    """
    figure = new_figure(9, 0.9 + 0.25 * (len(comparison.leaves) + len(comparison.costs)) + 2)
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
    for offset, color, label, errors in (
        (0.18, BLUE, "manual against float64", [leaf.manual.error for leaf in comparison.leaves]),
        (-0.18, ORANGE, "auto against float64", [leaf.auto.error for leaf in comparison.leaves]),
    ):
        left.plot(
            np.maximum(errors, floor), rows + offset, "o", color=color, markersize=5, label=label
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
        for i, (way, color) in enumerate((("manual", BLUE), ("auto", ORANGE))):
            values = [getattr(cost.ways[i], column) / unit for cost in comparison.costs]
            axes.barh(rows + 0.4 * (i - 0.5), values, color=color, height=0.38, label=way)
        axes.set_title(title)
    left.set(yticks=rows, yticklabels=names)
    left.invert_yaxis()
    left.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.08), ncols=2, fontsize=7)
    right.tick_params(labelleft=False)
