"""Learning curves."""

from __future__ import annotations

from typing import Any

import numpy as np

from fnn._core.errors import entry
from fnn.plot._figure import BLUE, ORANGE, new_figure
from fnn.train.fit import History


@entry
def curves(history: History, metric: str = "accuracy") -> Any:
    """Draw the loss of every step, its mean over epochs, and the validation loss and metric."""
    figure = new_figure(9, 3.6)
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
