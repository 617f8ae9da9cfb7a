"""Small images of images, of feature maps, and of weights that read images."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from fnn._core.extras import require
from fnn._core.types import Unchecked

# Flat rows of so many entries by side, and more, may be images; channels that are shown at most.
_SIDE, CHANNELS = 8, 16


def thumbnail(
    array: Unchecked, kind: str, flat: Collection[int] = (), *, plain: bool = False
) -> np.ndarray | None:
    """Return the colors (H, W, 4) of an array that is an image, or None where it is none.

    Of a batch the first example is shown, and of channels and neurons 16 in rows.

    Args:
        array: (B, H, W, C), or weights (H, W, I, O); images (B, H, H) and flat ones (B, H H) from
            8 by 8 on, and the weights (H H, O) that read them.
        kind: the kind of its node in a graph.
        flat: the widths of the flat images that it reads, of weights.
        plain: whether it is shown dark where it is large, else red above 0 and blue below.

    >>> thumbnail(np.ones((2, 28, 28, 1)), "input").shape
    (28, 28, 4)
    >>> thumbnail(np.ones((3, 3, 1, 4)), "parameter").shape
    (7, 7, 4)
    >>> thumbnail(np.ones((2, 3)), "layer")
    """
    if array is None or isinstance(array, list | tuple) or array.dtype.kind != "f":
        return None
    images = _as_images(np.asarray(array, np.float64), kind, flat)
    if images is None:
        return None
    tiles = mosaic(images[..., :CHANNELS])
    finite = np.abs(tiles[np.isfinite(tiles)])
    largest = finite.max(initial=0) or 1.0
    colors = require("matplotlib", "plot").colormaps["gray_r" if plain else "RdBu_r"]
    scaled = (tiles - (0 if plain else -largest)) / (largest if plain else 2 * largest)
    found: np.ndarray = colors(np.ma.masked_invalid(scaled))
    return found


def _as_images(array: np.ndarray, kind: str, flat: Collection[int]) -> np.ndarray | None:
    """Return the images in an array as (H, W, count)."""
    shape, weight = array.shape, kind == "parameter"
    if array.ndim == 4 and weight and min(shape[:2]) > 1:
        return array.mean(2)
    if array.ndim == 4 and not weight and min(shape[1:3]) > 3 and shape[0]:
        return array[0]
    if array.ndim == 3 and kind == "input" and shape[1] == shape[2] >= _SIDE and shape[0]:
        return array[0][..., None]
    side = math.isqrt(shape[-1 if kind == "input" else 0]) if array.ndim == 2 else 0
    if side < _SIDE:
        return None
    if kind == "input" and side**2 == shape[1]:
        return array[0].reshape(side, side, 1)
    if weight and side**2 == shape[0] and shape[0] in flat:
        return array.reshape(side, side, -1)
    return None


def mosaic(images: np.ndarray) -> np.ndarray:
    """Return images (H, W, count) as one, in rows, with a gap of one pixel that is not a number.

    >>> mosaic(np.zeros((2, 2, 3))).shape
    (5, 5)
    """
    tall, wide, count = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    tiles = np.full((rows * (tall + 1), columns * (wide + 1)), np.nan)
    for i in range(count):
        row, column = (i // columns) * (tall + 1), (i % columns) * (wide + 1)
        tiles[row : row + tall, column : column + wide] = images[..., i]
    return tiles[:-1, :-1]
