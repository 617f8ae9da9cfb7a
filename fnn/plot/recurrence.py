"""Unrolled recurrence: how much of the gradient comes back to each time step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fnn._core.errors import InputError, describe, entry
from fnn._core.extras import require
from fnn._core.types import Array
from fnn.plot._figure import RED, legend, looks, new_figure, numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# More cells in a row have no room for arrows between them.
_ARROWS = 16


@entry
def recurrence(gradients: Mapping[str, Array]) -> Figure:
    """Draw the norm of the gradient that comes back to each time step, and the unrolled cells.

    The norm is that of an example, the root of its mean square over the batch, on a logarithmic
    axis: a straight line downwards to the left is a gradient that vanishes exponentially. The cells
    below are the darker the more comes back to them.

    Args:
        gradients: (B, T, ...) by name: the derivatives of a loss in the inputs or hidden states of
            each time step.
    Raises:    InputError for no gradients, and for shapes without two axes or without time steps.

    >>> import numpy as np
    >>> drawn = recurrence({"rnn": 0.5 ** np.arange(6.0)[None, ::-1, None]})
    >>> drawn.axes[0].lines[0].get_ydata()[-3:].tolist()
    [0.25, 0.5, 1.0]

    """
    if not isinstance(gradients, Mapping) or not gradients:
        raise InputError("gradients by name", describe(gradients), 'pass {"rnn": gradient}')
    norms = {name: _norms(one) for name, one in gradients.items()}
    figure = new_figure(9, 3.4 + 0.55 * len(norms))
    top, cells = figure.subplots(2, 1, sharex=True, height_ratios=[3, 0.55 * len(norms) + 0.2])
    for (name, one), look in zip(norms.items(), looks(marks=True), strict=False):
        known = np.where(np.isfinite(one) & (one > 0), one, np.nan)
        first, last = one[0], one[-1]
        share = f": first over last {first / last:.1e}" if first and last else ""
        top.plot(np.arange(1, len(one) + 1), known, label=f"{name}{share}", **look)
        lost = np.flatnonzero(~(np.isfinite(one) & (one > 0))) + 1
        if len(lost):
            top.plot(
                lost, np.full(len(lost), 0.03), "x", color=RED, transform=top.get_xaxis_transform(),
                label=f"{name}: 0 or not finite", linestyle="",
            )  # fmt: skip
    positive = any((np.isfinite(one) & (one > 0)).any() for one in norms.values())
    top.set(ylabel="norm of the gradient", yscale="log" if positive else "linear")
    top.set_title("What comes back through time")
    legend(top)
    _draw_cells(cells, norms)
    figure.set_label(f"Gradient norms over time steps: {', '.join(norms)}.")
    return figure


def _norms(gradient: Array) -> np.ndarray:
    """Return the root mean square over the batch of each time step's norm."""
    known = numbers(gradient, "gradient")
    if known.ndim < 2 or not known.size:
        raise InputError("gradients of shape (B, T, ...)", describe(gradient), "keep both axes")
    squares = (known.reshape(*known.shape[:2], -1) ** 2).sum(-1).mean(0)
    found: np.ndarray = np.sqrt(squares)
    return found


def _draw_cells(axes: Axes, norms: Mapping[str, np.ndarray]) -> None:
    """Draw a row of cells for each name, dark where much comes back, with arrows backwards."""
    patches, maps = require("matplotlib.patches", "plot"), require("matplotlib", "plot").colormaps
    for row, one in enumerate(norms.values()):
        scale = np.where(np.isfinite(one), one, 0) / (
            np.nanmax(np.where(np.isfinite(one), one, 0)) or 1
        )
        for t, share in enumerate(scale, 1):
            color = maps["Oranges"](0.05 + 0.9 * share)
            axes.add_patch(
                patches.Rectangle((t - 0.3, row - 0.3), 0.6, 0.6, facecolor=color, edgecolor="0.4")
            )
            if len(one) <= _ARROWS and t > 1:
                arrow = {"arrowstyle": "-|>", "color": "0.4", "lw": 0.8}
                axes.annotate("", (t - 0.7, row), (t - 0.3, row), arrowprops=arrow)
    longest = max(map(len, norms.values()))
    axes.set(xlim=(0.4, longest + 0.6), ylim=(len(norms) - 0.5, -0.5), xlabel="time step")
    axes.set_yticks(range(len(norms)), list(norms))
    axes.xaxis.set_major_locator(require("matplotlib.ticker", "plot").MaxNLocator(integer=True))
    for side in axes.spines.values():
        side.set_visible(False)
