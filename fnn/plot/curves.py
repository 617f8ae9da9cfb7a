"""Learning curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fnn._core.errors import InputError, describe, entry
from fnn.plot._figure import BLUE, ORANGE, has_positive, new_figure, numbers
from fnn.train.fit import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@entry
def curves(history: History, metric: str | None = None) -> Figure:
    """Draw the loss of every step, its mean over epochs, and the validation loss and metric.

    Losses of 0 or less, and what is not finite, have no place on the logarithmic axis; a history
    without any other loss gets a linear one.

    Args:
        history: what `fnn.fit` returns, of any number of epochs, none included.
        metric: the validation metric to draw, by its name; the first one where it is None.
    Raises:    InputError for what is no history, and for a metric that was not measured.

    """
    if not isinstance(history, History):
        raise InputError("a History", describe(history), "pass the second that fnn.fit returns")
    known = [name for name in history.validation if name != "loss"]
    if metric is not None and metric not in history.validation:
        raise InputError(
            f"a metric of {', '.join(map(repr, known))}"
            if known
            else "a history of a fit with metrics",
            describe(metric),
            "name one that was measured, or none",
        )
    figure = new_figure(9, 3.6)
    left, right = figure.subplots(1, 2, squeeze=False)[0]
    _losses(left, history)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    name = metric or (known[0] if known else None)
    if name is None:
        right.set_axis_off()
        return figure
    values = numbers(history.validation[name], name)
    right.plot(np.arange(1, len(values) + 1), values, color=ORANGE, marker="o", markersize=3)
    last = f": {values[-1]:.3f}" if len(values) else ""
    right.set(xlabel="epoch", ylabel=name, title=f"Held-out {name}{last}")
    return figure


def _losses(axes: Axes, history: History) -> None:
    """Draw the losses of steps, epochs and validation."""
    given = history.loss, history.epoch_loss, history.validation.get("loss", ())
    # Beyond this the margin of a logarithmic axis is no number.
    steps, epochs, held_out = (
        np.where(np.abs(one) < 1e150, one, np.nan) for one in (numbers(g, "loss") for g in given)
    )
    x = np.arange(1, len(steps) + 1) * len(epochs) / max(len(steps), 1)
    axes.plot(x, steps, color=BLUE, alpha=0.25, linewidth=0.8, label="training, every step")
    ends = np.arange(1, len(epochs) + 1)
    axes.plot(ends, epochs, color=BLUE, label="training, mean of an epoch")
    if "loss" in history.validation:
        axes.plot(np.arange(1, len(held_out) + 1), held_out, color=ORANGE, label="held out")
    scale = "log" if has_positive(steps, epochs, held_out) else "linear"
    axes.set(xlabel="epoch", ylabel="loss", yscale=scale, title="Loss")
    axes.legend(frameon=False)
