"""The weights of a convolution as images."""

from __future__ import annotations

from typing import Any

import numpy as np

from fnn._core.errors import InputError, describe, entry
from fnn.plot._figure import new_figure


@entry
def filters(weight: Any) -> Any:
    """Draw the filters of a first convolution, all on one scale: what each looks for in an image.

    weight (H, W, C, O), the parameter of `fnn.conv`: one channel is drawn in red where a bright
    pixel speaks for the filter and in blue where it speaks against it, three as colors.

    Raises `fnn.InputError` for weights of another shape.
    """
    weight = np.asarray(weight)
    if weight.ndim != 4 or weight.shape[2] not in (1, 3):
        raise InputError(
            "a weight (H, W, 1, O) or (H, W, 3, O)",
            describe(weight),
            "pass the weight of the first convolution",
        )
    largest = np.abs(weight).max() or 1.0
    count, columns = weight.shape[-1], min(16, weight.shape[-1])
    rows = -(-count // columns)
    figure = new_figure(columns * 0.6 + 0.4, rows * 0.6 + 0.6)
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
