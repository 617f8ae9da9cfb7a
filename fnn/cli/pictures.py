"""Pictures of what a run learned, and of several runs at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn import plot
from fnn._core.extras import require
from fnn._core.types import Output
from fnn.cli.data import Problem
from fnn.cli.settings import LABELED, LossName
from fnn.plot._figure import new_figure
from fnn.train.fit import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE = 201
# Up to so many runs have colors that are told apart by their hue, more one that goes from dark to
# light.
_HUES = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
_MARKERS = "o^sDvP"
_GRAY = "0.45"
# Up to so many epochs each is a dot.
_FEW_EPOCHS = 30


def probabilities(loss: LossName | None, outputs: Output) -> Output | None:
    """Return the probability of each class, where the loss makes the outputs mean one.

    Args:
        loss: its name.
        outputs: (n, K).
    """
    if loss in LABELED:
        return jax.nn.softmax(outputs)
    return jax.nn.sigmoid(outputs) if loss in ("binary_cross_entropy", "logistic") else None


def predictions(
    problem: Problem, answer: Callable[[np.ndarray], Output], loss: LossName | None
) -> Figure:
    """Draw what a network makes of examples held out: images, regions of the plane, or a curve.

    Args:
        problem: what was learned: images, or points of one or two numbers.
        answer: takes x to the outputs of the network.
        loss: its name, which says whether the outputs mean probabilities.
    """
    x, target = problem.test
    if problem.has_images:
        outputs = answer(x)
        shares = probabilities(loss, outputs)
        return plot.predictions(
            jnp.asarray(x),
            jnp.asarray(target),
            outputs if shares is None else shares,
            problem.classes,
            percent=shares is not None,
        )
    figure = new_figure(6.4, 4.8 if x.shape[1] == 1 else 5.6)
    axes = figure.subplots()
    draw = _curve if x.shape[1] == 1 else _regions
    draw(axes, problem, answer)
    return figure


def _curve(axes: Axes, problem: Problem, answer: Callable[[np.ndarray], Output]) -> None:
    """Draw values or class scores over one number, with the points."""
    x, target = problem.test
    grid = np.linspace(x.min(), x.max(), 400, dtype=np.float32)[:, None]
    found = np.asarray(answer(grid), np.float64)
    names = problem.classes or [
        f"output {i}" if found.shape[1] > 1 else "network" for i in range(found.shape[1])
    ]
    if not problem.classes:
        for i in range(found.shape[1]):
            axes.plot(
                x[:, 0],
                target[:, i],
                ".",
                color=_GRAY,
                markersize=4,
                label="held out" if i == 0 else None,
            )
    for i, name in enumerate(names):
        axes.plot(grid[:, 0], found[:, i], color=_HUES[i % len(_HUES)], label=name)
    axes.set(xlabel="x", ylabel="output", title=f"{problem.name}: what the network answers")
    axes.legend(frameon=False)


def _regions(axes: Axes, problem: Problem, answer: Callable[[np.ndarray], Output]) -> None:
    """Draw the class, or the first value, that the network gives each point of a plane."""
    x, target = problem.test
    low, high = x.min(0) - 0.3, x.max(0) + 0.3
    sides = [np.linspace(low[i], high[i], _SIDE, dtype=np.float32) for i in range(2)]
    grid = np.stack(np.meshgrid(*sides), -1)
    found = np.asarray(answer(grid.reshape(-1, 2)), np.float64)
    axes.set(
        xlabel="$x_1$",
        ylabel="$x_2$",
        title=f"{problem.name}: what the network answers",
        xlim=(low[0], high[0]),
        ylim=(low[1], high[1]),
        aspect="equal",
    )
    if not problem.classes:
        bound = (found[:, 0].min(), found[:, 0].max())
        field = axes.pcolormesh(
            *sides, found[:, 0].reshape(_SIDE, _SIDE), shading="auto", vmin=bound[0], vmax=bound[1]
        )
        axes.scatter(
            x[:, 0],
            x[:, 1],
            c=target[:, 0],
            s=14,
            edgecolors="white",
            linewidths=0.4,
            vmin=bound[0],
            vmax=bound[1],
            label="held out",
        )
        axes.figure.colorbar(field, ax=axes, label="output")
    else:
        guess = found.argmax(-1).reshape(_SIDE, _SIDE)
        hues = [_HUES[i % len(_HUES)] for i in range(len(problem.classes))]
        colors = require("matplotlib.colors", "plot")
        axes.pcolormesh(
            *sides,
            guess,
            cmap=colors.ListedColormap(hues),
            alpha=0.25,
            vmin=-0.5,
            vmax=len(hues) - 0.5,
            shading="auto",
            linewidth=0,
        )
        for i, name in enumerate(problem.classes):
            at = x[target == i]
            axes.scatter(
                at[:, 0],
                at[:, 1],
                s=16,
                c=hues[i],
                marker=_MARKERS[i % len(_MARKERS)],
                edgecolors="white",
                linewidths=0.4,
                label=f"class {name}",
            )
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.1), ncols=4)


class Curve(NamedTuple):
    """One of several runs.

    Args:
        label: what tells it from the others.
        history: of its training.
        diverged: whether it did.
    """

    label: str
    history: History
    diverged: bool


def runs(curves: Sequence[Curve], title: str, metric: str, guess: float) -> Figure:
    """Draw several runs over each other: the training loss, and the metric on examples held out.

    Args:
        curves: the runs.
        title: what they differ by.
        metric: the name of the metric.
        guess: its value without looking at x.
    """
    columns = min(len(curves) + 1, 6)
    figure = new_figure(9, 4.0 + 0.22 * -(-(len(curves) + 1) // columns))
    left, right = figure.subplots(1, 2)
    for curve, color in zip(curves, _colors(len(curves)), strict=True):
        loss, label = curve.history.epoch_loss, curve.label
        if curve.diverged:
            bad = np.flatnonzero(~np.isfinite(curve.history.loss))
            label += f" (diverged at step {bad[0] if len(bad) else len(curve.history.loss)})"
        for axes, values in (
            (left, loss),
            (right, curve.history.validation.get(metric, np.zeros(0))),
        ):
            shown = np.where(np.isfinite(values), values, np.nan)
            axes.plot(
                np.arange(1, len(shown) + 1),
                shown,
                color=color,
                label=label,
                marker="o" if len(shown) <= _FEW_EPOCHS else None,
                markersize=3,
            )
    right.axhline(guess, color=_GRAY, linestyle=":", label="without looking at x")
    every = np.concatenate([curve.history.epoch_loss for curve in curves])
    left.set(
        xlabel="epoch",
        ylabel="training loss, mean of an epoch",
        title="Loss",
        yscale="log" if (every[np.isfinite(every)] > 0).any() else "linear",
    )
    words = metric.replace("_", " ")
    right.set(xlabel="epoch", ylabel=words, title=f"Held-out {words}")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        title=title,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=8,
    )
    return figure


def _colors(count: int) -> Sequence[object]:
    """Return as many colors as there are runs."""
    if count <= len(_HUES):
        return _HUES[:count]
    scale = require("matplotlib", "plot").colormaps["viridis"]
    return [scale(i / count) for i in range(count)]
