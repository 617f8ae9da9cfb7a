"""What flows through the layers of a model: activations forwards and gradients backwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn._core.extras import require
from fnn.lab.trace import Activations
from fnn.plot._figure import RED, has_positive, legend, looks, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Over: TypeAlias = Literal["depth", "training"]


@entry
def activations(traces: Mapping[str | int, Activations], over: Over = "depth") -> Figure:
    """Draw the spread of activations and the size of gradients, layer by layer.

    Over depth each trace is a line from the first layer to the last: a line that falls towards the
    first is a vanishing gradient. Over training each layer is a line, dark for the first and light
    for the last. What is not finite is marked at the lower edge, and zero has no place on the
    logarithmic axis: it is marked there too.

    Args:
        traces: what `fnn.trace_activations` returns: by name, over depth; by step, over training.
        over: ``"depth"`` or ``"training"``.
    Raises:    InputError for what are no traces, for another axis, and over training for traces of
        different models and steps that are no integers.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model = fnn.serial(fnn.dense(4), fnn.tanh(), fnn.dense(2))
    >>> x = jax.random.normal(jax.random.key(1), (8, 4))
    >>> run = model, fnn.losses.squared_error(), *model.init(jax.random.key(0), x), (x, x[:, :2])
    >>> trace = fnn.trace_activations(*run, key=jax.random.key(2))
    >>> [len(line.get_xdata()) for line in activations({"tanh": trace}).axes[1].lines]
    [3]

    """
    check.one_of(over, "over", ("depth", "training"))
    known = isinstance(traces, Mapping) and traces
    if not known or not all(isinstance(trace, Activations) for trace in traces.values()):
        raise InputError("traces by name", describe(traces), "pass what trace_activations returns")
    figure = new_figure(10, 4)
    panels = figure.subplots(1, 2)
    draw = _over_depth if over == "depth" else _over_training
    for axes, way, title in (
        (panels[0], "y", "Forwards: standard deviation of the output"),
        (panels[1], "dy", "Backwards: norm of the output's gradient"),
    ):
        draw(axes, traces, way)
        axes.set_title(title, fontsize=11)
    legend(panels[1], outside=True)
    figure.set_label(
        f"Activations and gradients by layer, over {over}: {', '.join(map(str, traces))}."
    )
    return figure


def _sizes(trace: Activations, way: str) -> np.ndarray:
    """Return the spread of every layer's output, or the norm of its gradient."""
    found = [row.y.deviation if way == "y" else row.dy.norm for row in trace.layers]
    return np.asarray(found, np.float64)


def _over_depth(axes: Axes, traces: Mapping[str | int, Activations], way: str) -> None:
    lines = {str(name): _sizes(trace, way) for name, trace in traces.items()}
    for (name, sizes), look in zip(lines.items(), looks(marks=True), strict=False):
        axes.plot(np.arange(len(sizes)), _positive(sizes), label=name, **look)
    _finish(axes, lines, {name: np.arange(len(sizes)) for name, sizes in lines.items()})
    longest = max(traces.values(), key=lambda trace: len(trace.layers)).layers
    same = len({tuple(row.name for row in trace.layers) for trace in traces.values()}) == 1
    names = [f"{row.path or '.'} {row.name}" if same else row.path or "." for row in longest]
    step = -(-len(names) // 20)
    axes.set_xticks(np.arange(len(names))[::step], names[::step], rotation=90, fontsize=8)
    axes.set_xlabel("layer, the input to the left")


def _over_training(axes: Axes, traces: Mapping[str | int, Activations], way: str) -> None:
    steps = list(traces)
    for step in steps:
        check.count(step, "step", least=0, remedy="pass {step: trace}")
    layers = [tuple(f"{row.path or '.'} {row.name}" for row in t.layers) for t in traces.values()]
    if len(set(layers)) > 1:
        raise InputError("traces of one model", f"{len(set(layers))} models", "trace one model")
    table = np.stack([_sizes(trace, way) for trace in traces.values()], 1)
    shades = require("matplotlib", "plot").colormaps["viridis"](np.linspace(0, 0.9, len(table)))
    lines = dict(zip(layers[0], table, strict=True))
    for (name, sizes), color, look in zip(lines.items(), shades, looks(marks=True), strict=False):
        axes.plot(steps, _positive(sizes), label=name, **look | {"color": color})
    _finish(axes, lines, dict.fromkeys(lines, np.asarray(steps)))
    axes.set_xlabel("step")


def _positive(sizes: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(sizes) & (sizes > 0), sizes, np.nan)


def _finish(axes: Axes, lines: Mapping[str, np.ndarray], places: Mapping[str, np.ndarray]) -> None:
    """Set the axis, and mark at its lower edge what has no place on it."""
    axes.set_yscale("log" if has_positive(*lines.values()) else "linear")
    edge = axes.get_xaxis_transform()
    for mark, label, holds in (
        ("x", "not finite", lambda one: ~np.isfinite(one)),
        ("v", "exactly 0", lambda one: one == 0),
    ):
        found = [places[name][holds(sizes)] for name, sizes in lines.items()]
        at = np.unique(np.concatenate(found))
        if len(at):
            axes.plot(
                at, np.full(len(at), 0.02), mark, color=RED, transform=edge, label=label,
                clip_on=False, linestyle="", zorder=5,
            )  # fmt: skip
