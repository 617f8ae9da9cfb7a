"""Pictures of what a run learned, and of several runs at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from fnn import plot
from fnn._core.types import Output, Params, State
from fnn.cli.data import Problem
from fnn.cli.settings import LABELED, LossName
from fnn.layer import Layer
from fnn.plot._figure import HUES, new_figure
from fnn.train.evaluate import predict
from fnn.train.fit import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GRAY = "0.45"
# So many images are evaluated as one batch: a rest after full ones would be compiled by itself.
_MOST = 1024
_softmax = jax.jit(jax.nn.softmax)


def probabilities(loss: LossName | None, outputs: Output) -> Output | None:
    """Return the probability of each class, where the loss makes the outputs mean one.

    Args:
        loss: its name.
        outputs: (n, K).
    """
    if loss in LABELED:
        return _softmax(outputs)
    return jax.nn.sigmoid(outputs) if loss in ("binary_cross_entropy", "logistic") else None


def can_be_drawn(problem: Problem) -> bool:
    """Say whether there is a picture of what a network makes of a problem.

    Args:
        problem: what is learned.
    """
    plane = problem.example == (2,) and bool(problem.classes)
    return problem.has_images or problem.example == (1,) or plane


def predictions(
    problem: Problem, model: Layer, params: Params, state: State, loss: LossName | None
) -> Figure:
    """Draw what a network makes of examples held out: images, regions of the plane, or a curve.

    Args:
        problem: what was learned, which `can_be_drawn`.
        model: the network.
        params: its parameters.
        state: its state.
        loss: the name of the loss, which says whether the outputs mean probabilities.
    """
    x, target = problem.test
    if problem.example == (2,):
        names = [f"class {name}" for name in problem.classes]
        points = jnp.asarray(x), jnp.asarray(target)
        return plot.regions(model, params, state, *points, names=names)
    if problem.example == (1,):
        return _curve(problem, lambda x: predict(model, params, state, x))
    outputs = predict(model, params, state, x, batch_size=len(x) if 0 < len(x) <= _MOST else 256)
    shares = probabilities(loss, outputs)
    return plot.predictions(
        jnp.asarray(x),
        jnp.asarray(target),
        outputs if shares is None else shares,
        problem.classes,
        percent=shares is not None,
    )


def _curve(problem: Problem, answer: Callable[[np.ndarray], Output]) -> Figure:
    """Draw values or class scores over one number, with the points."""
    figure = new_figure(6.4, 4.8)
    axes = figure.subplots()
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
        axes.plot(grid[:, 0], found[:, i], color=HUES[i % len(HUES)], label=name)
    axes.set(xlabel="x", ylabel="output", title=f"{problem.name}: what the network answers")
    axes.legend(frameon=False)
    return figure


def runs(labels: Sequence[str], histories: Sequence[History], metric: str, guess: float) -> Figure:
    """Draw several runs over each other; those of one label as their mean, with a band.

    Args:
        labels: what tells each run from the others.
        histories: of their training.
        metric: the name of the metric.
        guess: its value without looking at x.
    """
    grouped: dict[str, list[History]] = {}
    for label, history in zip(labels, histories, strict=True):
        # One that diverged in its first epoch was never validated.
        measured = {metric: history.validation.get(metric, np.zeros(0))}
        grouped.setdefault(label, []).append(history._replace(validation=measured))
    return plot.sweep(grouped, metric, chance=guess)
