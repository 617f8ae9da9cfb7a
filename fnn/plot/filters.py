"""The weights of a convolution as images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fnn._core.errors import InputError, describe, entry
from fnn._core.types import Array
from fnn.plot._figure import heading, new_figure, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure
# Inches that a title can stand in.
_LEAST = 2.6


@entry
def filters(weight: Array) -> Figure:
    """Draw the filters of a first convolution, all on one scale: what each looks for in an image.

    One channel is drawn in red where a bright pixel speaks for the filter and in blue where it
    speaks against it, three as colors. A weight that is not finite is left white, or gray among
    colors.

    Args:
        weight: (H, W, C, O), the parameter of `fnn.conv`, with C 1 or 3.
    Raises:    InputError for weights of another shape, and for no filter.

    """
    known = numbers(weight, "weight")
    if known.ndim != 4 or known.shape[2] not in (1, 3) or not known.size:
        raise InputError(
            "a weight (H, W, 1, O) or (H, W, 3, O)",
            describe(weight),
            "pass the weight of the first convolution",
        )
    finite = np.isfinite(known)
    largest = np.abs(known[finite]).max(initial=0) or 1.0
    count, columns = known.shape[-1], min(16, known.shape[-1])
    rows = -(-count // columns)
    figure = new_figure(max(columns * 0.6 + 0.4, _LEAST), rows * 0.6 + 0.6)
    for axes in (grid := figure.subplots(rows, columns, squeeze=False)).flat:
        axes.set_axis_off()
    for axes, one in zip(grid.flat, np.moveaxis(known, -1, 0), strict=False):
        if one.shape[-1] == 1:
            shown = np.ma.masked_invalid(one[..., 0])
            axes.imshow(shown, cmap="RdBu_r", vmin=-largest, vmax=largest)
        else:
            axes.imshow((np.where(np.isfinite(one), one, 0) / largest + 1) / 2)
    colors = "red above 0, blue below" if known.shape[2] == 1 else "gray is 0, bright is above"
    heading(
        figure, f"The {count} filters of the first layer; {colors}, largest weight {largest:.2g}"
    )
    figure.set_label(f"{count} filters of {known.shape[0]} by {known.shape[1]} weights.")
    return figure
