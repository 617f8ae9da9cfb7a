"""Activation functions and their slopes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import Params
from fnn.layer import Layer
from fnn.plot._figure import legend, looks, new_figure, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@entry
def activation_functions(
    layers: Mapping[str, Layer], low: float = -4.0, high: float = 4.0
) -> Figure:
    """Draw activation functions, and beside them their slopes, derived by hand.

    The slope at a kink is the one that the layer's backward takes.

    Args:
        layers: layers without parameters that act on each number alone, by name.
        low: the smallest input.
        high: the largest input, above `low`.
    Raises:    InputError for no layers, for layers with parameters, and for ends that are turned
        round.

    >>> import fnn
    >>> drawn = activation_functions({"ReLU": fnn.relu(), "tanh": fnn.tanh()})
    >>> [line.get_label() for line in drawn.axes[0].lines if line.get_gid() == "curve"]
    ['ReLU', 'tanh']

    """
    known = isinstance(layers, Mapping) and layers
    if not known or not all(isinstance(layer, Layer) for layer in layers.values()):
        raise InputError("layers by name", describe(layers), 'pass {"ReLU": fnn.relu()}, say')
    learning = [name for name, layer in layers.items() if jax.tree.leaves(_init(layer))]
    if learning:
        remedy = "pass activations without any: not prelu or a gated one"
        raise InputError("layers without parameters", repr(learning[0]), remedy)
    check.number(low, "low")
    check.number(high, "high", above=low)
    # An odd number of points: the middle, where kinks are, is one of them.
    x = jnp.linspace(low, high, 401)[:, None]
    figure = new_figure(9, 3.6)
    left, right = figure.subplots(1, 2, sharex=True)
    for axes in (left, right):
        axes.axhline(0, color="0.8", linewidth=0.8)
        axes.axvline(0, color="0.8", linewidth=0.8)
    for (name, layer), look in zip(layers.items(), looks(), strict=False):
        left.plot(x[:, 0], numbers(layer(x), "y")[:, 0], label=name, gid="curve", **look)
        _, _, residuals = layer.forward((), (), x)
        slope = layer.backward((), residuals, jnp.ones_like(x))[1]
        right.plot(x[:, 0], numbers(slope, "slope")[:, 0], label=name, gid="curve", **look)
    left.set(xlabel="x", ylabel="y", title="Activation")
    right.set(xlabel="x", ylabel="dy / dx", title="Its slope, which multiplies what comes back")
    legend(left)
    figure.set_label(f"Activation functions and their slopes: {', '.join(layers)}.")
    return figure


def _init(layer: Layer) -> Params:
    """Return the shapes of a layer's parameters and state for one number."""
    return jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 1)))
