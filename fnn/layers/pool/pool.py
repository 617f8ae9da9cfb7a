"""Pools: the largest number or the average of every window, channel by channel.

x is (B, *space, C) with one axis of space or more, y (B, *places, C). What is an int holds for all
axes of space; a tuple has one for each. `stride` is that of `window` where it is not given: windows
side by side. `padding` is "VALID" for none, "SAME" for as many places as ``ceil(size / stride)``,
padded as XLA does (see `fnn.conv`), an int, or pairs ``((before, after), ...)`` for each axis; it
is less than the window, so that no window has padding alone.

All raise `fnn.InputError` for an option that is no integer of 1
or more, options that disagree in their axes, an unknown padding or one as large as the window, a
window larger than the padded x, and an x of other axes or of integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.description import constructor
from fnn._core.errors import InputError
from fnn._core.precision import downcast, upcast
from fnn._core.tree import shape_witness
from fnn._core.types import PyTree
from fnn.layer import Layer, stateless
from fnn.layers._window import Geometry, Padding, Sizes, Window, pad, reduced, unpadded
from fnn.layers.pool._argmax import first_largest, to_the_first
from fnn.layers.pool._window_sum import dilate, window_sum


@constructor
def max_pool(
    window: int | Sizes, stride: int | Sizes | None = None, padding: Padding = "VALID"
) -> Layer:
    """Max pooling: the largest element of every window.

    Forward ``y[b, p, c] = max_k x[b, p stride + k - before, c]``, k running over the places of the
    window; backward ``dx[b, q, c] = sum dy[b, p, c]`` over the p whose window has its first largest
    number at q, in row-major order: of several equal ones the first takes all. (So does autodiff of
    `jax.lax.reduce_window`; that of `jnp.max` shares among them.) A NaN is larger than all numbers.

    Saved: the place of that number in its window, one byte for each number of y where a window has
    fewer than 256 places. Source: Riesenhuber and Poggio 1999, doi:10.1038/14819.

    >>> import jax.numpy as jnp
    >>> layer = max_pool(2)
    >>> y, state, residuals = layer.forward((), (), jnp.array([[[7.0], [9.0], [4.0], [4.0]]]))
    >>> y[0, :, 0]
    Array([9., 4.], dtype=float32)
    >>> layer.backward((), residuals, jnp.array([[[1.0], [2.0]]]))[1][0, :, 0]
    Array([0., 1., 2., 0.], dtype=float32)
    """
    options = _pool(window, stride, padding)

    def apply(params: PyTree, x: Any) -> Any:
        del params
        return reduced(x, _geometry(options, x), -math.inf, jax.lax.max)

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        del params
        geometry = _geometry(options, x)
        y, index = first_largest(x, geometry)
        return y, (index, shape_witness(x))

    def backward(params: PyTree, residuals: PyTree, dy: Any) -> tuple[PyTree, Any]:
        del params
        index, witness = residuals
        x = jax.ShapeDtypeStruct(witness.shape[1:], witness.dtype)
        geometry = _geometry(options, x)
        return (), to_the_first(index, dy, geometry, x.shape[1:-1])

    return stateless(lambda key, x: (), forward, backward, reference=apply)


@constructor
def average_pool(
    window: int | Sizes,
    stride: int | Sizes | None = None,
    padding: Padding = "VALID",
    *,
    count_padding: bool = False,
) -> Layer:
    """Average pooling: the mean of every window.

    Forward ``y[b, p, c] = sum_k x[b, p stride + k - before, c] / M[p]``, k running over the places
    of the window and x being 0 outside of its axes; M[p] is how many of them lie inside, as in
    TensorFlow, or with `count_padding` how many there are, as in PyTorch. Backward ``dx[b, q, c] =
    sum dy[b, p, c] / M[p]`` over the p whose window has q. Saved: the shape of x. The sum is taken
    along one axis after the other. Source: LeCun et al. 1998, doi:10.1109/5.726791, section II.B.

    >>> import jax.numpy as jnp
    >>> average_pool(2).apply((), (), jnp.array([[[7.0], [9.0], [4.0], [4.0]]]))[0][0, :, 0]
    Array([8., 4.], dtype=float32)
    """
    options = _pool(window, stride, padding)

    def counts(x: Any, geometry: Geometry) -> Any:
        """Return M (*places, 1), each axis by itself."""
        total = np.ones((), np.int64)
        axes = zip(
            x.shape[1:-1], geometry.size, geometry.stride, geometry.padding,
            geometry.places(x.shape[1:-1]), strict=True,
        )  # fmt: skip
        for n, k, s, (low, _), m in axes:
            start = np.arange(m) * s - low
            inside = np.minimum(start + k, n) - np.maximum(start, 0)
            total = total[..., None] * (np.full(m, k) if count_padding else inside)
        return jnp.asarray(total[None, ..., None], upcast(jnp.zeros((), x.dtype)).dtype)

    def apply(params: PyTree, x: Any) -> Any:
        del params
        geometry = _geometry(options, x)
        total = reduced(upcast(x), geometry, 0.0, jax.lax.add)
        return downcast(total / counts(x, geometry), x)

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        del params
        geometry = _geometry(options, x)
        total = pad(upcast(x), geometry)
        for axis, (k, s, m) in _axes(geometry, x.shape[1:-1]):
            total = window_sum(total, axis, k, s, m)
        return downcast(total / counts(x, geometry), x), shape_witness(x)

    def backward(params: PyTree, witness: PyTree, dy: Any) -> tuple[PyTree, Any]:
        del params
        x = jax.ShapeDtypeStruct(witness.shape[1:], witness.dtype)
        geometry = _geometry(options, x)
        back = upcast(dy) / counts(x, geometry)
        sizes = geometry.padded(x.shape[1:-1])
        for axis, (k, s, _) in _axes(geometry, x.shape[1:-1]):
            back = dilate(back, axis, k, s, sizes[axis - 1])
        return (), downcast(unpadded(back, geometry), dy)

    return stateless(lambda key, x: (), forward, backward, reference=apply)


def _pool(window: int | Sizes, stride: int | Sizes | None, padding: Padding) -> Window:
    options = Window(window, window if stride is None else stride, padding)
    options.check("window")
    return options


def _geometry(options: Window, x: Any) -> Geometry:
    geometry = options.over(x)
    sides = zip(geometry.size, geometry.padding, strict=True)
    if any(max(pair) >= k for k, pair in sides):
        raise InputError(
            f"padding of less than the window {geometry.size}",
            str(geometry.padding),
            "take a larger window: one in the padding alone has nothing to pool",
        )
    return geometry


def _axes(geometry: Geometry, space: Sizes) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Return the axes of x in space, each with the window, stride and places along it."""
    return enumerate(zip(geometry.size, geometry.stride, geometry.places(space), strict=True), 1)
