"""Images with their predictions."""

from __future__ import annotations

from typing import Any

import numpy as np

from fnn._core.errors import entry
from fnn._core.extras import require
from fnn.plot._figure import RED, new_figure


@entry
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
    figure = new_figure(columns * 0.95, rows * 1.25 + 0.5)
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
