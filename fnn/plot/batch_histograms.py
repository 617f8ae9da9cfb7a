"""Histograms of a value, batch by batch: what batch normalization brings together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn._core.extras import require
from fnn._core.types import Array
from fnn.plot._figure import new_figure, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 30
# More batches than this are named by the first and the last.
_NAMED = 6


@entry
def batch_histograms(values: Mapping[str, Array]) -> Figure:
    """Draw how a value is spread in each of several batches, a panel for each name.

    A batch is an outline, from dark for the first to light for the last; ticks above are the means.
    Panels have axes of their own. Values that are not finite are counted in the title.

    Args:
        values: (batches, n) by name, as ``{"before": x, "after": y}``.
    Raises:    InputError for nothing to draw, and for other shapes.

    >>> import numpy as np
    >>> spread = np.random.default_rng(0).normal(size=(3, 50))
    >>> drawn = batch_histograms({"bright and dark": spread + [[0], [5], [10]]})
    >>> [text.get_text() for text in drawn.axes[0].get_legend().texts]
    ['batch 1', 'batch 2', 'batch 3', 'above: means']

    """
    if not isinstance(values, Mapping) or not values:
        raise InputError("values by name", describe(values), 'pass {"before": x, "after": y}')
    known = {name: numbers(one, "values") for name, one in values.items()}
    for one in known.values():
        check.shape(one, "batches n", "values", "pass a row for each batch")
        if not one.size:
            raise InputError("values to draw", describe(one), "pass at least one batch")
    figure = new_figure(4.2 * len(known) + 0.6, 3.6)
    panels = figure.subplots(1, len(known), squeeze=False)[0]
    for axes, (name, batches) in zip(panels, known.items(), strict=True):
        finite = batches[np.isfinite(batches)]
        edges = (
            np.histogram_bin_edges(finite, _BINS) if len(finite) else np.linspace(0, 1, _BINS + 1)
        )
        shades = require("matplotlib", "plot").colormaps["viridis"](
            np.linspace(0, 0.85, len(batches))
        )
        for i, (batch, color) in enumerate(zip(batches, shades, strict=True)):
            here = batch[np.isfinite(batch)]
            named = len(batches) <= _NAMED or i in (0, len(batches) - 1)
            label = f"batch {i + 1}" if named else None
            counts, _ = np.histogram(here, edges)
            axes.stairs(counts, edges, color=color, linewidth=1.4, label=label)
            if len(here):
                axes.axvline(here.mean(), ymin=0.94, color=color, linewidth=1.6)
        # Below the ticks.
        tallest = max((stair.get_data().values.max() for stair in axes.patches), default=0)
        axes.set(xlabel="value", ylim=(0, max(tallest, 1) * 1.1))
        wrong = batches.size - len(finite)
        axes.set_title(name if not wrong else f"{name}: {wrong} not finite", fontsize=11)
    panels[0].set_ylabel("how many of a batch")
    handles, labels = panels[0].get_legend_handles_labels()
    mark = require("matplotlib.lines", "plot").Line2D(
        [], [], color="0.3", marker="|", markersize=9, markeredgewidth=1.6, linestyle=""
    )
    if handles:
        panels[0].legend([*handles, mark], [*labels, "above: means"], frameon=False, fontsize=9)
    figure.set_label(f"Histograms by batch: {', '.join(known)}.")
    return figure
