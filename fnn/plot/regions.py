"""Decision regions of a classifier of points in the plane."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from fnn._core import check
from fnn._core.errors import entry
from fnn._core.extras import require
from fnn._core.place import check_place
from fnn._core.types import Array, Params, State, Unchecked
from fnn.layer import Layer, require_layer
from fnn.plot._figure import HUES, MARKERS, class_labels, class_names, new_figure, numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE = 201
# More lines than this hide what they explain.
_MOST_LINES = 16
# A plane that is longer is not drawn to scale.
_FLATTEST = 4


@entry
def regions(
    model: Layer,
    params: Params,
    state: State,
    x: Array,
    labels: Array,
    *,
    names: Sequence[str] | None = None,
    threshold: float = 0.0,
) -> Figure:
    """Draw what a model says of every point of the plane, and the lines of its first neurons.

    The ground has the color of the class that scores highest; of one output, of class 1 above a
    threshold and of class 0 below. A dashed line is where a neuron of the first layer is zero, and
    its arrow points to where it is positive. Points have the color of their label, those that the
    model gets wrong a black ring. Where an output is not a number the ground stays white.

    Args:
        model: a layer or model from (n, 2) to (n, K), or to (n, 1).
        params: its parameters.
        state: its state.
        x: (n, 2), points.
        labels: (n,), integers of 0 to K - 1.
        names: names of the classes; their numbers where it is None.
        threshold: of one output, the smallest that means class 1.
    Raises:    InputError for what is no model, points or labels of other shapes, labels that are
        no classes, and another number of names.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model = fnn.serial(fnn.dense(3), fnn.tanh(), fnn.dense(2))
    >>> x = jnp.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> params, state = model.init(jax.random.key(0), x)
    >>> drawn = regions(model, params, state, x, jnp.array([0, 1, 1]))
    >>> sum(line.get_gid() == "neuron" for line in drawn.axes[0].lines)
    3

    """
    require_layer(model)
    points = numbers(x, "x")
    check.shape(points, "n D", "x", "pass points of the plane", D=2)
    check_place(model, params, state, jax.ShapeDtypeStruct(points.shape, "float32"))
    check.number(threshold, "threshold")
    count = _count(model, params, state, points)
    truth = class_labels(labels, "labels", len(points), count)
    names = class_names(names, count, "class ")
    guesses = _classes(model, params, state, points, threshold)
    low, high = _corners(points)
    sides = [np.linspace(a, b, _SIDE) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*sides), -1).reshape(-1, 2)
    ground = _classes(model, params, state, grid, threshold).reshape(_SIDE, _SIDE)
    figure = new_figure(7, 4.4)
    axes: Axes = figure.add_subplot()
    colors = [HUES[k % len(HUES)] for k in range(count)]
    shades = require("matplotlib.colors", "plot").ListedColormap(colors)
    axes.imshow(
        np.ma.masked_less(ground, 0), extent=(low[0], high[0], low[1], high[1]), origin="lower",
        cmap=shades, vmin=-0.5, vmax=count - 0.5, alpha=0.25, interpolation="nearest",
        aspect="auto",
    )  # fmt: skip
    for k in range(count):
        here = points[truth == k]
        mark = MARKERS[k % len(MARKERS)]
        axes.plot(*here.T, mark, color=colors[k], markersize=5, label=names[k], linestyle="")
    wrong = points[guesses != truth]
    ring: dict[str, Unchecked] = {
        "marker": "o",
        "color": "black",
        "fillstyle": "none",
        "markersize": 9,
    }
    axes.plot(*wrong.T, linestyle="", **ring, label=f"wrong: {len(wrong)} of {len(points)}")
    _draw_neurons(axes, params, (low + high) / 2, float(np.ptp([low, high])) / 12)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="$x_1$", ylabel="$x_2$")
    # So that a normal stands upright on its line.
    wide, tall = high - low
    axes.set_aspect("equal" if 1 / _FLATTEST <= tall / wide <= _FLATTEST else "auto")
    axes.set_title("What the network says of every point")
    # Beside the plane, which keeps its aspect: a legend of the axes would be cut off.
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    # With an aspect the layout has settled at the second drawing only.
    figure.draw_without_rendering()
    figure.set_label(f"Decision regions of {count} classes; {len(wrong)} of {len(points)} wrong.")
    return figure


def _outputs(model: Layer, params: Params, state: State, x: np.ndarray) -> np.ndarray:
    scores = numbers(model.apply(params, state, x.astype(np.float32))[0], "scores")
    check.shape(scores, "n K", "outputs of the model", "pass a model of one row to a point")
    return scores


def _count(model: Layer, params: Params, state: State, x: np.ndarray) -> int:
    """Return how many classes there are: two of one output."""
    return max(2, _outputs(model, params, state, x[:1]).shape[1])


def _classes(
    model: Layer, params: Params, state: State, x: np.ndarray, threshold: float
) -> np.ndarray:
    """Return the class of every point, -1 where an output is not a number."""
    scores = _outputs(model, params, state, x)
    one = scores.shape[1] == 1
    found = (scores[:, 0] >= threshold) * 1 if one else np.nan_to_num(scores).argmax(1)
    return np.where(np.isnan(scores).any(1), -1, found)


def _corners(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of the part of the plane that holds the points with some room."""
    finite = points[np.isfinite(points).all(1)]
    if not len(finite):
        return np.full(2, -1.0), np.full(2, 1.0)
    low, high = finite.min(0), finite.max(0)
    room = np.maximum(0.12 * (high - low), 0.1)
    return low - room, high + room


def _neurons(params: Params) -> Iterator[tuple[np.ndarray, float]]:
    """Yield weight and bias of each neuron of the first layer that reads the plane."""
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(params)
    }
    for path, leaf in leaves.items():
        if path.split("/")[-1] == "weight" and np.shape(leaf)[:1] == (2,) and np.ndim(leaf) == 2:
            weight = numbers(leaf, "weight").T
            bias = numbers(leaves.get(path.removesuffix("weight") + "bias", 0.0), "bias")
            yield from zip(weight, np.broadcast_to(bias, len(weight)), strict=True)
            return


def _draw_neurons(axes: Axes, params: Params, middle: np.ndarray, length: float) -> None:
    """Draw where each first neuron is zero, with an arrow to where it is positive."""
    lines = [(w, b) for w, b in _neurons(params) if np.isfinite([*w, b]).all() and w.any()]
    for i, (weight, bias) in enumerate(lines[:_MOST_LINES]):
        size = np.linalg.norm(weight)
        foot = middle - weight * (weight @ middle + bias) / size**2
        label = "a neuron of the first layer is 0" if i == 0 else None
        style: dict[str, Unchecked] = {
            "color": "0.25",
            "linestyle": "--",
            "linewidth": 1,
            "gid": "neuron",
        }
        along = foot + np.array([-weight[1], weight[0]])
        axes.axline(foot, along, label=label, **style)
        arrow = {"arrowstyle": "-|>", "color": "0.25", "lw": 1}
        axes.annotate("", foot + length * weight / size, foot, arrowprops=arrow)
