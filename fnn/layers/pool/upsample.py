"""Upsampling: nearest-neighbor and (bi-, tri-)linear interpolation; no parameters."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.precision import downcast, upcast
from fnn._core.types import Array, Input, Params
from fnn._core.written import written
from fnn.layer import Layer, stateless
from fnn.layers._window import Sizes, check_sizes, check_spatial, per_axis
from fnn.layers.pool._window_sum import dilate, join_axis, strided_slices, window_sum


@constructor
def upsample(factor: int | Sizes, *, method: str = "nearest") -> Layer:
    """Upsampling: nearest-neighbor and (bi-, tri-)linear interpolation.

    Along each spatial axis of x, n long, position p of y is ``i factor + r`` with r below `factor`.
    "linear" looks at ``i + o`` with ``o = (r + 1/2) / factor - 1/2``: the middle of each element
    stays where it is, and the corners of x and y coincide (PyTorch's ``align_corners=False``). With
    j the neighbor i - 1 or i + 1 on the side of o, or i itself beyond an end:

    Forward:   y[p] = x[i] by "nearest"; y[p] = (1 - |o|) x[i] + |o| x[j] by "linear"
    Backward:  dx[i] = sum_r dy[i factor + r] by "nearest"; by "linear" (1 - |o|) dy[p] is added to
        dx[i] and |o| dy[p] to dx[j]

    Args:
        factor: how many times as large y is, an int or one for each spatial axis.
        method: "nearest" or "linear", which on two or three axes is bilinear and trilinear: one
            axis after the other.
    Shapes:    x (B, *spatial, C), y (B, *positions, C), any number of spatial axes
    Saves:     nothing
    Raises:    InputError for a `factor` that is no integer of 1 or more, for an unknown `method`,
        and an x of other axes or of integers.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[[0.0], [4.0]]])
    >>> upsample(2).apply((), (), x)[0][0, :, 0]
    Array([0., 0., 4., 4.], dtype=float32)
    >>> upsample(2, method="linear").apply((), (), x)[0][0, :, 0]
    Array([0., 1., 3., 4.], dtype=float32)

    """
    check_sizes("factor", factor)
    check.one_of(method, "method", _METHODS)
    enlarge, shrink = _METHODS[method]

    def factors(x: Input) -> Sizes:
        check_spatial(x, len(factor) if isinstance(factor, tuple) else None)
        return per_axis(factor, len(x.shape) - 2)

    def reference(params: Params, x: Input) -> Array:
        del params
        sizes = (n * f for n, f in zip(x.shape[1:-1], factors(x), strict=True))
        shape = (x.shape[0], *sizes, x.shape[-1])
        return downcast(jax.image.resize(upcast(x), shape, method), x)

    def forward(params: Params, x: Input) -> tuple[Array, tuple[()]]:
        del params
        each, y = factors(x), upcast(x)
        for axis, f in enumerate(each, 1):
            y = enlarge(y, axis, f)
        return downcast(y, x), ()

    def backward(params: Params, residuals: tuple[()], dy: Array) -> tuple[Params, Array]:
        del params, residuals
        dx = upcast(dy)
        for axis, f in enumerate(factors(dy), 1):
            dx = shrink(dx, axis, f)
        return (), downcast(dx, dy)

    return stateless(lambda key, x: (), forward, backward, reference=reference)


def _nearest(x: Array, axis: int, factor: int) -> Array:
    """Repeat the elements of an axis."""
    return dilate(x, axis, factor, factor, factor * x.shape[axis])


def _nearest_back(dy: Array, axis: int, factor: int) -> Array:
    """Return the transpose of `_nearest`."""
    return window_sum(dy, axis, factor, factor, dy.shape[axis] // factor)


def _offsets(factor: int) -> list[float]:
    """Return where the elements of y that belong to one of x lie beside its middle."""
    return [(r + 0.5) / factor - 0.5 for r in range(factor)]


def _linear(x: Array, axis: int, factor: int) -> Array:
    """Interpolate along an axis."""
    n = x.shape[axis]
    at = _at(x, axis)
    before = jnp.concatenate([at(0, 1), at(0, n - 1)], axis)
    after = jnp.concatenate([at(1, n), at(n - 1, n)], axis)
    # In the middle of x no neighbor counts, be it 0 times infinity.
    rows = [
        (1 - abs(o)) * x + abs(o) * (before if o < 0 else after) if o else x
        for o in _offsets(factor)
    ]
    return join_axis(jnp.stack(rows, axis + 1), axis)


def _linear_back(dy: Array, axis: int, factor: int) -> Array:
    """Return the transpose of `_linear`; one axis is written before the next reads it often."""
    back = functools.partial(_to_neighbors, axis=axis, factor=factor)
    dx: Array = written(back, dy) if factor > 1 else dy
    return dx


def _to_neighbors(dy: Array, axis: int, factor: int) -> Array:
    """Add each element of dy to its own of dx and to the neighbor it took from."""
    n = dy.shape[axis] // factor
    rows = list(zip(_offsets(factor), strided_slices(dy, axis, factor, factor, n), strict=True))
    own = functools.reduce(operator.add, ((1 - abs(o)) * row for o, row in rows))
    to_before = functools.reduce(operator.add, (-o * row for o, row in rows if o < 0))
    to_after = functools.reduce(operator.add, (o * row for o, row in rows if o > 0))
    before, after = _at(to_before, axis), _at(to_after, axis)
    # An end is its own neighbor.
    from_before = jnp.concatenate([before(0, 1), after(0, n - 1)], axis)
    from_after = jnp.concatenate([before(1, n), after(n - 1, n)], axis)
    return own + from_before + from_after


def _at(x: Array, axis: int) -> Callable[[int, int], Array]:
    """Return the function that cuts a part out of an axis."""
    return lambda start, stop: jax.lax.slice_in_dim(x, start, stop, axis=axis)


_METHODS = {"nearest": (_nearest, _nearest_back), "linear": (_linear, _linear_back)}
