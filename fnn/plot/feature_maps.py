"""Feature maps: what each channel of a convolution makes of an image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import Array
from fnn.plot._figure import heading, new_figure, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 64
# Inches that a title can stand in.
_LEAST = 2.6


@entry
def feature_maps(y: Array, image: Array | None = None) -> Figure:
    """Draw the feature maps of one image, a panel for each channel, all on one scale.

    Red is above 0 and blue below; a map that is 0 everywhere is titled ``dead``. What is not finite
    is left white. At most 64 channels are drawn.

    Args:
        y: (H, W, C), the output of a layer for one image.
        image: (H, W), (H, W, 1) or (H, W, 3), the image itself, drawn first; None for none.
    Raises:    InputError for other shapes, and for no channel.

    >>> import jax.numpy as jnp
    >>> drawn = feature_maps(jnp.ones((6, 6, 3)), jnp.zeros((8, 8)))
    >>> [axes.get_title() for axes in drawn.axes if axes.images]
    ['image', '0', '1', '2']

    """
    maps = numbers(y, "y")
    check.shape(maps, "H W C", "y", "pass the output for one image, as y[0]")
    if not maps.size:
        raise InputError("at least one feature map", describe(y), "pass an output with channels")
    shown = min(maps.shape[-1], _MOST)
    first = image is not None
    columns = min(8, shown + first)
    rows = math.ceil((shown + first) / columns)
    figure = new_figure(max(columns * 1.15 + 0.3, _LEAST), rows * 1.35 + 0.5)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.set_axis_off()
    if first:
        picture = numbers(image, "image")
        if picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (1,), (3,)):
            remedy = "pass one image, as x[0]"
            raise InputError(
                "image of shape (H, W), (H, W, 1) or (H, W, 3)", describe(image), remedy
            )
        axes = panels.pop(0)
        axes.imshow(picture.squeeze(-1) if picture.shape[2:] == (1,) else picture, cmap="gray_r")
        axes.set_title("image", fontsize=9)
    largest = np.abs(maps[np.isfinite(maps)]).max(initial=0) or 1.0
    for channel, axes in zip(range(shown), panels, strict=False):
        one = maps[..., channel]
        axes.imshow(np.ma.masked_invalid(one), cmap="RdBu_r", vmin=-largest, vmax=largest)
        axes.set_title(f"{channel}" if one.any() else f"{channel}: dead", fontsize=9)
    dead = int((~maps.any((0, 1))).sum())
    cut = f", {shown} of them drawn" if shown < maps.shape[-1] else ""
    heading(
        figure,
        f"{maps.shape[-1]} feature maps of {maps.shape[0]}×{maps.shape[1]}{cut}; red above 0, blue "
        f"below, largest {largest:.2g}",
    )
    figure.set_label(f"{maps.shape[-1]} feature maps of one image, {dead} of them dead.")
    return figure
