"""Masks of dropout: which units take part in a step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, entry
from fnn._core.extras import require
from fnn._core.types import Array
from fnn.layer import Layer, require_layer
from fnn.plot._figure import BLUE, heading, new_figure, numbers
from fnn.plot._thumbnail import CHANNELS, mosaic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@entry
def dropout_masks(layer: Layer, x: Array, *, key: Array, count: int = 8) -> Figure:
    """Draw which units a dropout layer keeps in some steps: each step trains another network.

    Kept units are blue, dropped ones white; the title of a panel says how many are dropped.

    Args:
        layer: a layer of dropout, as ``fnn.dropout(0.5)``.
        x: one example: (H, W) or (H, W, C), whose channels, 16 at most, stand side by side, or
            (n,).
        key: the randomness of the first step; the others have keys split from it.
        count: the number of steps.
    Raises:    InputError for what is no layer or key, another shape, and no step.

    >>> import fnn, jax, jax.numpy as jnp
    >>> drawn = dropout_masks(fnn.dropout(0.5), jnp.ones(100), key=jax.random.key(0), count=2)
    >>> [axes.images[0].get_array().shape for axes in drawn.axes]
    [(10, 10), (10, 10)]

    """
    require_layer(layer)
    check.count(count, "count")
    known = numbers(x, "x")
    check.shape(known, "H ..." if known.ndim != 2 else "H W", "x", "pass one example")
    if not known.size:
        raise InputError("x with units", f"shape {known.shape}", "pass one example")
    ones = jnp.ones((1, *known.shape), jnp.float32)
    masks = [
        numbers(layer.apply((), (), ones, key=one, train=True)[0][0], "y") != 0
        for one in jax.random.split(check.key(key), count)
    ]
    columns = min(count, 4)
    figure = new_figure(columns * 1.9 + 0.3, -(-count // columns) * 2.1 + 0.5)
    panels = figure.subplots(-(-count // columns), columns, squeeze=False).flat
    shades = require("matplotlib.colors", "plot").ListedColormap(["white", BLUE])
    for i, axes in enumerate(panels):
        if i >= count:
            axes.set_axis_off()
            continue
        axes.imshow(_in_rows(masks[i]), cmap=shades, vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{1 - masks[i].mean():.0%} dropped", fontsize=10)
    heading(figure, f"{layer!r} in {count} steps: blue is kept, white is dropped")
    shares = ", ".join(f"{1 - mask.mean():.0%}" for mask in masks)
    figure.set_label(f"Units dropped by {layer!r} in {count} steps: {shares}.")
    return figure


def _in_rows(mask: np.ndarray) -> np.ndarray:
    """Return a mask as an image: channels side by side, a row of units in rows of equal length."""
    if mask.ndim > 1:
        return mosaic(mask.reshape(*mask.shape[:2], -1)[..., :CHANNELS].astype(np.float64))
    width = math.ceil(math.sqrt(len(mask)))
    rows = np.full((-(-len(mask) // width), width), np.nan)
    rows.flat[: len(mask)] = mask
    return rows
