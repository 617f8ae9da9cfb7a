"""Upsampling: nearest-neighbor and (bi-, tri-)linear interpolation; no parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.precision import downcast, upcast
from fnn._core.types import PyTree
from fnn.layer import Layer, stateless
from fnn.layers._window import Sizes, check_sizes, check_space, on_axes
from fnn.layers.pool._window_sum import dilate, split_axis, window_sum


@constructor
def upsample(factor: int | Sizes, method: str = "nearest") -> Layer:
    """Upsampling: nearest-neighbor and (bi-, tri-)linear interpolation by `factor`.

    Along each axis of x, n long, for p = i factor + r with r below `factor`; "nearest" is
    ``y[p] = x[i]``, and backward ``dx[i] = sum_r dy[i factor + r]``. "linear" is at the position
    ``i + o`` with ``o = (r + 1/2) / factor - 1/2``: the middle of each number is where it is, and
    the corners of x and y coincide (PyTorch's ``align_corners=False``). Forward ``y[p] = (1 - |o|)
    x[i] + |o| x[j]``, j being the neighbor i - 1 or i + 1 on the side of o, or i itself beyond an
    end; backward ``dx[i] = sum_r (1 - |o|) dy[i factor + r]``, and ``|o| dy[p]`` is added to dx[j].

    x (B, *space, C), y (B, *places, C), with any number of axes of space; an int holds for all of
    them, a tuple has one for each. "linear" on two or three is bilinear and trilinear: one axis
    after the other. Saved: the shape of x. `apply` is `jax.image.resize`.

    Raises `fnn.InputError` for a `factor` that is no integer of 1 or more, for an unknown `method`
    and an x of other axes or of integers.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[[0.0], [4.0]]])
    >>> upsample(2).apply((), (), x)[0][0, :, 0]
    Array([0., 0., 4., 4.], dtype=float32)
    >>> upsample(2, "linear").apply((), (), x)[0][0, :, 0]
    Array([0., 1., 3., 4.], dtype=float32)
    """
    check_sizes("factor", factor)
    if method not in ("nearest", "linear"):
        raise InputError("method 'nearest' or 'linear'", describe(method), "pass one of the two")

    def factors(x: Any) -> Sizes:
        check_space(x, len(factor) if isinstance(factor, tuple) else None)
        return on_axes(factor, len(x.shape) - 2)

    def apply(params: PyTree, x: Any) -> Any:
        del params
        sizes = (n * f for n, f in zip(x.shape[1:-1], factors(x), strict=True))
        shape = (x.shape[0], *sizes, x.shape[-1])
        return downcast(jax.image.resize(upcast(x), shape, method), x)

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        del params
        each, y = factors(x), upcast(x)
        for axis, f in enumerate(each, 1):
            enlarge = _linear if method == "linear" else _nearest
            y = enlarge(y, axis, f)
        return downcast(y, x), ()

    def backward(params: PyTree, residuals: PyTree, dy: Any) -> tuple[PyTree, Any]:
        del params, residuals
        dx = upcast(dy)
        for axis, f in enumerate(factors(dy), 1):
            shrink = _linear_back if method == "linear" else _nearest_back
            dx = shrink(dx, axis, f)
        return (), downcast(dx, dy)

    return stateless(lambda key, x: (), forward, backward, reference=apply)


def _nearest(x: Any, axis: int, factor: int) -> Any:
    return dilate(x, axis, factor, factor, factor * x.shape[axis])


def _nearest_back(dy: Any, axis: int, factor: int) -> Any:
    return window_sum(dy, axis, factor, factor, dy.shape[axis] // factor)


def _offsets(factor: int) -> list[float]:
    return [(r + 0.5) / factor - 0.5 for r in range(factor)]


def _linear(x: Any, axis: int, factor: int) -> Any:
    n = x.shape[axis]
    at = _at(x, axis)
    before = jnp.concatenate([at(0, 1), at(0, n - 1)], axis)
    after = jnp.concatenate([at(1, n), at(n - 1, n)], axis)
    rows = [(1 - abs(o)) * x + abs(o) * (before if o < 0 else after) for o in _offsets(factor)]
    y = jnp.stack(rows, axis + 1)
    return y.reshape(*x.shape[:axis], n * factor, *x.shape[axis + 1 :])


def _linear_back(dy: Any, axis: int, factor: int) -> Any:
    n = dy.shape[axis] // factor
    rows = jnp.moveaxis(split_axis(dy, axis, factor, n), axis + 1, 0)
    pairs = list(zip(_offsets(factor), rows, strict=True))
    zero = jnp.zeros_like(rows[0])
    to_before = _at(sum((-o * row for o, row in pairs if o < 0), zero), axis)
    to_after = _at(sum((o * row for o, row in pairs if o > 0), zero), axis)
    end = _at(zero, axis)(0, 1)
    return (
        sum(((1 - abs(o)) * row for o, row in pairs), zero)
        + jnp.concatenate([to_before(1, n), end], axis)
        + jnp.concatenate([end, to_after(0, n - 1)], axis)
        + _placed(to_before(0, 1), axis, 0, n)
        + _placed(to_after(n - 1, n), axis, n - 1, n)
    )


def _at(x: Any, axis: int) -> Callable[[int, int], Any]:
    return lambda start, stop: jax.lax.slice_in_dim(x, start, stop, axis=axis)


def _placed(x: Any, axis: int, start: int, length: int) -> Any:
    """Return zeros with x at one place along an axis."""
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (start, length - start - x.shape[axis], 0)
    return jax.lax.pad(x, x.dtype.type(0), config)
