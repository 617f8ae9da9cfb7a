"""Gradients compared, leaf by leaf, and their costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fnn._core.errors import InputError, describe, entry
from fnn.lab.compare import Comparison
from fnn.plot._figure import BLUE, GREEN, ORANGE, RED, has_positive, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SMALLEST_NORM = 1e-12


@entry
def gradients(comparison: Comparison) -> Figure:
    """Draw the error of manual and automatic gradients leaf by leaf, and the gradient's norm.

    A comparison that holds costs gets a second row: time and memory of every layer, both ways. An
    error of exactly zero stands at the left edge, one that is not finite is written ``not finite``.

    Args:
        comparison: what `fnn.compare` returns.
    Raises:    InputError for what is none.

    """
    if not isinstance(comparison, Comparison):
        raise InputError("a Comparison", describe(comparison), "pass what fnn.compare returns")
    height = 0.9 + 0.25 * (len(comparison.leaves) + len(comparison.costs)) + 2
    figure = new_figure(9, height)
    shown = [comparison.leaves, *([comparison.costs] if comparison.costs else [])]
    grid = figure.subplots(
        len(shown),
        2,
        sharey="row",
        squeeze=False,
        height_ratios=[max(len(rows), 3) for rows in shown],
    )
    _leaves(comparison, *grid[0])
    if comparison.costs:
        _costs(comparison, *grid[1])
    figure.set_label(f"Errors and norms of {len(comparison.leaves)} gradients, both ways.")
    return figure


def _leaves(comparison: Comparison, left: Axes, right: Axes) -> None:
    """Draw errors and norms, a row for each leaf."""
    names = [leaf.name.removeprefix("params/") for leaf in comparison.leaves]
    # An error of exactly zero has no place on a logarithmic axis: it goes to the left edge.
    floor = float(np.finfo(comparison.dtype).eps) / 100
    rows = np.arange(len(names))
    for offset, color, label, found in (
        (0.18, BLUE, "manual against float64", [leaf.manual.error for leaf in comparison.leaves]),
        (-0.18, ORANGE, "auto against float64", [leaf.auto.error for leaf in comparison.leaves]),
    ):
        errors = np.asarray(found, np.float64)
        finite = np.isfinite(errors)
        shown = np.where(finite, np.maximum(errors, floor), np.nan)
        left.plot(shown, rows + offset, "o", color=color, markersize=5, label=label)
        for row in rows[~finite]:
            left.text(floor, row + offset, "not finite", color=color, fontsize=7, va="center")
    left.axvline(comparison.bound, color=RED, linewidth=1, label="bound of rounding")
    left.set(
        xscale="log" if has_positive(np.asarray(comparison.bound)) else "linear",
        xlabel="largest error, relative to the whole gradient",
        yticks=rows,
        yticklabels=names,
        title=f"Error in {comparison.dtype}",
    )
    left.invert_yaxis()
    left.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.08), ncols=2, fontsize=7)
    norms = np.asarray([leaf.norm for leaf in comparison.leaves], np.float64)
    norms = np.where(np.isfinite(norms), np.maximum(norms, _SMALLEST_NORM), np.nan)
    right.hlines(rows, 0, 1, transform=right.get_yaxis_transform(), color="0.9", linewidth=0.8)
    right.plot(norms, rows, "o", color=GREEN, markersize=6)
    right.set(
        xscale="log" if has_positive(norms) else "linear",
        xlabel="norm of the gradient",
        title="Size of the gradient",
    )
    right.tick_params(labelleft=False)


def _costs(comparison: Comparison, left: Axes, right: Axes) -> None:
    """Draw time and memory, a row for each layer."""
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
