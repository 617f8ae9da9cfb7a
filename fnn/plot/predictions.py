"""Images with their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fnn._core import check
from fnn._core.errors import entry
from fnn._core.extras import require
from fnn._core.types import Array
from fnn.plot._figure import RED, class_labels, class_names, heading, new_figure, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@entry
def predictions(
    images: Array,
    labels: Array,
    probabilities: Array,
    names: Sequence[str] | None = None,
    *,
    percent: bool = True,
) -> Figure:
    """Draw images with predicted label and probability, all mistakes first and marked.

    Shows up to 40 images; at most half of them are mistakes. Probabilities with a NaN among them
    predict no label: that is a mistake, written ``?``.

    Args:
        images: (n, H, W), dark where a value is large.
        labels: (n,), integers.
        probabilities: (n, K), one for each class; or scores, the largest of which decides.
        names: K names of the classes; their numbers where it is None.
        percent: whether the probabilities are written; False for scores, which are none.
    Raises:    InputError for other shapes, labels that are no integers of 0 to K - 1, and another
        number of names.

    """
    check.flag(percent, "percent")
    pixels, shares = numbers(images, "images"), numbers(probabilities, "probabilities")
    check.shape(pixels, "n H W", "images", "pass gray images, as images[..., 0]")
    n = len(pixels)
    check.shape(shares, "n K", "probabilities", "pass a row for each image", n=n)
    truth = class_labels(labels, "labels", n, shares.shape[-1])
    names = class_names(names, shares.shape[-1])

    unknown = np.isnan(shares).any(-1)
    guesses = np.where(unknown, -1, np.nan_to_num(shares).argmax(-1) if shares.size else -1)
    wrong, right = np.flatnonzero(guesses != truth), np.flatnonzero(guesses == truth)
    chosen = np.concatenate([wrong[:20], right])[:40]
    columns, rows = 10, max(1, -(-len(chosen) // 10))
    figure = new_figure(columns * 0.95, rows * 1.25 + 0.5)
    for axes in (grid := figure.subplots(rows, columns, squeeze=False)).flat:
        axes.set_axis_off()
    for axes, i in zip(grid.flat, chosen, strict=False):
        axes.imshow(np.ma.masked_invalid(pixels[i]), cmap="gray_r")
        guess, mistake = int(guesses[i]), guesses[i] != truth[i]
        share = f"  {shares[i, guess]:.0%}" if percent else ""
        title = "?" if guess < 0 else f"{names[guess]}{share}"
        if mistake:
            title += f"\nis {names[truth[i]]}"
            axes.add_patch(
                require("matplotlib.patches", "plot").Rectangle(
                    (0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=RED, linewidth=3
                )
            )
        # At a place given, or it is sought among the ticks that are switched off, which takes long.
        axes.set_title(title, y=1.0, fontsize=8, color=RED if mistake else "black")
    what = "Predicted label and its probability" if percent else "Predicted label"
    heading(
        figure,
        f"{what}: {len(right)} of {n} right; "
        f"{len(wrong[:20])} of {len(wrong)} mistakes shown, framed",
    )
    figure.set_label(f"{len(chosen)} images with predictions; {len(right)} of {n} are right.")
    return figure
