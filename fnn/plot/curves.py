"""Learning curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn.plot._figure import (
    BLUE,
    ORANGE,
    RED,
    chance_line,
    diverged_at,
    has_positive,
    legend,
    new_figure,
    numbers,
)
from fnn.train.fit import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@entry
def curves(history: History, metric: str | None = None, *, chance: float | None = None) -> Figure:
    """Draw the loss of every step, its mean over epochs, and the validation loss and metric.

    Losses of 0 or less, and what is not finite, have no place on the logarithmic axis; a history
    without any other loss gets a linear one. A run that is not finite says at which step it
    diverged.

    Args:
        history: what `fnn.fit` returns, of any number of epochs, none included.
        metric: the validation metric to draw, by its name; the first one where it is None.
        chance: the metric of guessing, drawn as a line; None for none.
    Raises:    InputError for what is no history, and for a metric that was not measured.

    >>> import numpy as np
    >>> history = History(np.array([2.3, 1.0]), np.array([1.5]), {}, 0.0, 0.0)
    >>> [line.get_ydata().tolist() for line in curves(history).axes[0].lines]
    [[2.3, 1.0], [1.5]]

    """
    if not isinstance(history, History):
        raise InputError("a History", describe(history), "pass the second that fnn.fit returns")
    if chance is not None:
        check.number(chance, "chance")
    known = [name for name in history.validation if name != "loss"]
    measured = isinstance(metric, str) and metric in history.validation
    if metric is not None and not measured:
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
    figure.set_label(f"Loss over {len(history.epoch_loss)} epochs.")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    name = metric or (known[0] if known else None)
    if name is None:
        right.set_axis_off()
        return figure
    values = numbers(history.validation[name], name)
    right.plot(np.arange(1, len(values) + 1), values, color=ORANGE, marker="o", markersize=3)
    last = f": {values[-1]:.3f}" if len(values) and np.isfinite(values[-1]) else ""
    if chance is not None:
        chance_line(right, chance)
        legend(right)
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
    step = diverged_at(steps)
    if step is not None:
        where = x[step - 1] if np.isfinite(x[step - 1]) else 0
        axes.axvline(where, color=RED, linewidth=1, label=f"diverged at step {step}")
    legend(axes)
