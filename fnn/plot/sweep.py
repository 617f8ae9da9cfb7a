"""Sweep: several histories for each setting, as means with bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import Unchecked
from fnn.plot._figure import (
    chance_line,
    diverged_at,
    has_positive,
    legend,
    looks,
    new_figure,
    numbers,
)
from fnn.train.fit import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@entry
def sweep(
    histories: Mapping[str, Sequence[History] | History],
    metric: str | None = None,
    *,
    chance: float | None = None,
) -> Figure:
    """Draw the training loss and a validation metric of several settings over the epochs.

    A line is the mean over the runs of a setting, its band one standard error to each side. A run
    that is not finite counts as far as it is; the legend says at which step it diverged.

    Args:
        histories: what `fnn.fit` returns, one or several by setting, as
            ``{"rate 0.1": [first, second]}``.
        metric: the validation metric to draw, by its name; the first one where it is None.
        chance: the metric of guessing, drawn as a line; None for none.
    Raises:    InputError for what are no histories, none of them, and a metric that was not
        measured by all.

    >>> import numpy as np
    >>> from fnn.train.fit import History
    >>> runs = [History(np.array([a, 1.0]), np.array([a, 1.0]), {}, 0.0, 0.0) for a in (2.0, 4.0)]
    >>> sweep({"rate 0.1": runs}).axes[0].lines[0].get_ydata().tolist()
    [3.0, 1.0]

    """
    groups = _groups(histories)
    if chance is not None:
        check.number(chance, "chance")
    measured = [set(run.validation) - {"loss"} for runs in groups.values() for run in runs]
    common = set.intersection(*measured)
    order = [name for name in next(iter(groups.values()))[0].validation if name in common]
    if metric is not None:
        check.text(metric, "metric", "name one that all measured")
    if metric is not None and metric not in common:
        known = ", ".join(map(repr, order)) or "none"
        raise InputError(f"a metric of {known}", describe(metric), "name one that all measured")
    name = metric or (order[0] if order else None)
    figure = new_figure(10.5 if name else 6.5, 4)
    panels = figure.subplots(1, 2 if name else 1, squeeze=False)[0]
    for (setting, runs), look in zip(groups.items(), looks(marks=True), strict=False):
        label = f"{setting}{_divergence(runs)}"
        _draw_band(panels[0], [numbers(run.epoch_loss, "loss") for run in runs], label, look)
        if name:
            given = [numbers(run.validation[name], name) for run in runs]
            _draw_band(panels[1], given, label, look)
    values = [line.get_ydata() for line in panels[0].lines]
    panels[0].set_yscale("log" if has_positive(*map(np.asarray, values)) else "linear")
    panels[0].set(xlabel="epoch", ylabel="training loss", title="Loss")
    if name:
        panels[1].set(xlabel="epoch", ylabel=name, title=f"Held-out {name}")
    if chance is not None:
        chance_line(panels[-1], chance)
    for axes in panels:
        axes.xaxis.get_major_locator().set_params(integer=True)
    legend(panels[-1], outside=True)
    figure.set_label(
        f"Means over runs: {', '.join(f'{k}{_divergence(v)}' for k, v in groups.items())}."
    )
    return figure


def _groups(histories: Mapping[str, Sequence[History] | History]) -> dict[str, list[History]]:
    """Return the runs of every setting, or raise unless they are histories."""
    if not isinstance(histories, Mapping) or not histories:
        raise InputError("histories by setting", describe(histories), 'pass {"rate 0.1": history}')
    found = {}
    for setting, runs in histories.items():
        group = [runs] if isinstance(runs, History) else _elements(runs)
        if not group or not all(isinstance(run, History) for run in group):
            raise InputError(
                f"histories of {setting!r}", describe(runs), "pass the second that fnn.fit returns"
            )
        found[str(setting)] = group
    return found


def _elements(value: Unchecked) -> list[Unchecked]:
    return list(value) if isinstance(value, Sequence) else []


def _divergence(runs: Sequence[History]) -> str:
    """Say how many runs diverged, and at which step the first of them."""
    steps = [step for run in runs if (step := diverged_at(run.loss)) is not None]
    if not steps:
        return ""
    many = f" {len(steps)} of {len(runs)}" if len(runs) > 1 else ""
    return f":{many} diverged at step {min(steps)}"


def _draw_band(
    axes: Axes, given: Sequence[np.ndarray], label: str, look: Mapping[str, Unchecked]
) -> None:
    """Draw the mean over runs, and a band of one standard error to each side."""
    longest = max(map(len, given))
    table = np.full((len(given), longest), np.nan)
    for row, one in zip(table, given, strict=True):
        row[: len(one)] = np.where(np.isfinite(one), one, np.nan)
    there = np.isfinite(table).sum(0)
    total = np.where(np.isfinite(table), table, 0).sum(0)
    mean = np.where(there > 0, total / np.maximum(there, 1), np.nan)
    squares = np.where(np.isfinite(table), (table - mean) ** 2, 0).sum(0)
    error = np.sqrt(squares / np.maximum(there - 1, 1) / np.maximum(there, 1))
    x = np.arange(1, longest + 1)
    line = axes.plot(x, mean, label=label, **look)[0]
    if (there > 1).any():
        axes.fill_between(
            x, mean - error, mean + error, where=there > 1, color=line.get_color(), alpha=0.2,
            linewidth=0,
        )  # fmt: skip
