"""Positions: what tells the time steps of a sequence apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.precision import downcast, upcast
from fnn._core.sums import leading_sum
from fnn._core.types import (
    Array,
    Cache,
    Cotangent,
    Input,
    Key,
    Output,
    Params,
    Residuals,
    State,
    Unchecked,
)
from fnn.layer import Layer, stateful, stateless
from fnn.layers._initializers import check_initializer, draw

BASE = 10_000.0
_small_normal = jax.nn.initializers.normal(0.02)


@constructor
def positional(
    kind: Literal["sinusoidal", "learned"] = "sinusoidal",
    length: int | None = None,
    *,
    initializer: jax.nn.initializers.Initializer | None = None,
) -> Layer:
    """Positional embedding, sinusoidal or learnable: a vector for each time step, added to x.

    Of a `fnn.Sequence` write ``fnn.over_sequence(fnn.positional())``.

    Forward:   y[..., t, c] = x[..., t, c] + p[t, c]
        sinusoidal: p[t, 2i] = sin(t / 10000^(2i / C)), p[t, 2i + 1] = cos(t / 10000^(2i / C))
        learned: p[t, c] = weight[t, c]
    Backward:  dx = dy
        learned: dweight[t, c] = sum_... dy[..., t, c], zero beyond T

    Args:
        kind: ``"sinusoidal"`` or ``"learned"``.
        length: of learned ones, how many positions there are: T at most.
        initializer: draws the weight of learned ones; None is normal with a standard deviation of
            0.02.
    Shapes:    x, y (..., T, C) with any leading axes; weight (length, C)
    Saves:     nothing
    Raises:    InputError for another kind, a length that is missing for learned positions, below 1,
        or given for sinusoidal ones, as an initializer is; for an x of integers or of fewer than 2
        axes, T beyond length, another C, and an odd C for sinusoidal ones.
    Source:    Vaswani et al. 2017, arXiv:1706.03762, section 3.5.

    >>> import numpy as np
    >>> np.asarray(positional().apply((), (), np.zeros((2, 2), "float32"))[0]).round(2)
    array([[0.  , 1.  ],
           [0.84, 0.54]], dtype=float32)

    """
    check.one_of(kind, "kind", ("sinusoidal", "learned"))
    if kind == "learned":
        remedy = "only learned positions come to an end: pass that as length"
        check.count(length, "length", remedy=remedy)
        initializer = _small_normal if initializer is None else initializer
        check_initializer(initializer)
        init = partial(_init_learned, length, initializer)
        return _added(init, _forward_learned, _backward_learned, _learned_at)
    for name, value in {"length": length, "initializer": initializer}.items():
        if value is not None:
            remedy = "leave it out, or pass kind='learned': only learned positions have one"
            raise InputError(f"no {name} for 'sinusoidal'", describe(value), remedy)
    return _added(
        _init_sinusoidal,
        _forward_sinusoidal,
        lambda params, residuals, dy: ((), dy),
        _sinusoidal_at,
    )


def _added(
    init: Callable[[Array, Input], Params],
    forward: Callable[[Params, Input], tuple[Output, Residuals]],
    backward: Callable[[Params, Residuals, Cotangent], tuple[Params, Cotangent]],
    vectors: Callable[[Params, Array, Input], Array],
) -> Layer:
    """Return a layer that adds vectors to x, of which ``vectors(params, t, x)`` are those of t."""

    def run(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        del key, train
        y, residuals = forward(params, x)
        return y, state, residuals

    def prefill(
        params: Params, state: State, x: Input, /, *, window: int, lengths: Array | None = None
    ) -> tuple[Output, Cache]:
        del state, lengths
        if params:
            _check_window(params["weight"], window)
        return forward(params, x)[0], ()

    def decode(
        params: Params, state: State, cache: Cache, x: Input, position: Array, /
    ) -> tuple[Output, Cache]:
        del state
        p = vectors(params, steps_from(position, 1), x)
        return (x + p.astype(x.dtype) if p.ndim == x.ndim else _with_positions(x, p)), cache

    return stateful(
        lambda key, x: (init(key, x), ()), run, backward, prefill=prefill, decode=decode
    )


def _check_window(weight: Array, window: int) -> None:
    """Raise unless there are positions for a window."""
    length = weight.shape[0]
    if window > length:
        raise InputError(
            f"a window of {length} positions at most",
            f"{window}, for all that is to be read and drawn",
            f"pass window={length}, which moves on when it is full, or learn more positions",
        )


def _check_steps(x: Unchecked, **sizes: int) -> None:
    check.floating(x)
    remedy = "keep the channels last, and the time steps before"
    check.shape(x, "... T C", "x", remedy, **sizes)


def _check_length(x: Unchecked, length: int) -> None:
    if x.shape[-2] > length:
        raise InputError(
            f"{length} steps at most", f"{x.shape[-2]}", "cut x, or learn more positions"
        )


def _init_learned(
    length: Unchecked, initializer: jax.nn.initializers.Initializer, key: Array, x: Input
) -> Params:
    _check_steps(x)
    _check_length(x, length)
    return {"weight": draw(initializer, key, (length, x.shape[-1]), x.dtype)}


def _forward_learned(params: Params, x: Input) -> tuple[Output, Residuals]:
    weight = params["weight"]
    _check_steps(x, C=weight.shape[1])
    _check_length(x, weight.shape[0])
    return _with_positions(x, weight[: x.shape[-2]]), ()


def _backward_learned(
    params: Params, residuals: Residuals, dy: Cotangent
) -> tuple[Params, Cotangent]:
    del residuals
    weight = params["weight"]
    dp = leading_sum(dy, 2).astype(weight.dtype)
    return {"weight": jnp.pad(dp, ((0, weight.shape[0] - dp.shape[0]), (0, 0)))}, dy


def _init_sinusoidal(key: Array, x: Input) -> Params:
    del key
    _check_sinusoidal(x)
    return ()


def _check_sinusoidal(x: Unchecked) -> None:
    _check_steps(x)
    if x.shape[-1] % 2:
        raise InputError(
            "an even number of channels", f"{x.shape[-1]}", "half of them are sines, half cosines"
        )


def _forward_sinusoidal(params: Params, x: Input) -> tuple[Output, Residuals]:
    _check_sinusoidal(x)
    return _with_positions(x, _sinusoidal_at(params, steps_from(jnp.int32(0), x.shape[-2]), x)), ()


def _sinusoidal_at(params: Params, steps: Array, x: Input) -> Array:
    """Return sines and cosines (..., T, C) of time steps (..., T)."""
    del params
    angles = _angles(steps, x.shape[-1], BASE, upcast(x).dtype)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1).reshape(*steps.shape, x.shape[-1])


def _learned_at(params: Params, steps: Array, x: Input) -> Array:
    """Return the learned vectors (..., T, C) of time steps (..., T)."""
    del x
    return params["weight"][steps]


def _with_positions(x: Any, p: Any) -> Any:
    """Return x (..., T, C) plus p (T, C)."""
    return x + p.astype(x.dtype).reshape((1,) * (x.ndim - 2) + p.shape)


@constructor
def rotary(base: float = BASE) -> Layer:
    """Rotary positional embedding: pairs of channels turned by angles that grow with the position.

    The product of two steps so turned depends on their distance, not on where they are: this is for
    queries and keys, and `fnn.attention` does it itself when told ``rotary=True``. Halves are
    paired as in Llama, not neighbors: x_1 and x_2 are the first and the second half of the D
    channels.

    Forward:   y_1 = x_1 cos(a) - x_2 sin(a), y_2 = x_2 cos(a) + x_1 sin(a)
        with the angles a[t, i] = t / base^(2i / D)
    Backward:  dx_1 = dy_1 cos(a) + dy_2 sin(a), dx_2 = dy_2 cos(a) - dy_1 sin(a)

    Args:
        base: > 0; the larger, the slower the last channels turn.
    Shapes:    x, y (..., T, N, D) with any leading axes; a (T, D / 2)
    Saves:     nothing
    Raises:    InputError for a base of 0 or less, an odd D, and an x of integers or of fewer than 3
        axes.
    Source:    Su et al. 2021, arXiv:2104.09864, eq. 34.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[[2.0, 0.0]], [[2.0, 0.0]]])
    >>> rotary().apply((), (), x)[0][:, 0].round(1)
    Array([[2. , 0. ],
           [1.1, 1.7]], dtype=float32)

    """
    check_base(base)
    return stateless(
        lambda key, x: (),
        partial(_forward_rotary, base),
        lambda params, residuals, dy: ((), rotate(dy, base, back=True)),
    )


def _forward_rotary(base: float, params: Params, x: Input) -> tuple[Output, Residuals]:
    del params
    check.floating(x)
    if len(x.shape) < 3 or x.shape[-1] % 2:
        raise InputError(
            "x of shape (..., T, N, D), D even",
            str(tuple(x.shape)),
            "give x an axis of heads; the channels turn in pairs",
        )
    return rotate(x, base), ()


def check_base(base: Unchecked) -> None:
    """Raise `InputError` unless the base is a positive number.

    Args:
        base: that of `rotary`.
    """
    check.number(base, "base", above=0, remedy="pass one such as 10_000.0: it sets the angles")


def rotate(x: Array, base: float, back: bool = False, first: Array | None = None) -> Array:
    """Turn x (..., T, N, D) as `rotary` does, or back.

    Args:
        x: (..., T, N, D), of even D.
        base: that of `rotary`.
        back: whether to turn by the opposite angles, which takes dy to dx.
        first: the position of the first step, () or (B,) for each row of x (B, T, N, D); None is 0.
    """
    steps, _, width = x.shape[-3:]
    z = upcast(x)
    at = steps_from(jnp.int32(0) if first is None else first, steps)
    angles = _angles(at, width, base, z.dtype)
    shape = (1,) * (x.ndim - 2 - at.ndim) + (*at.shape, 1, width // 2)
    cos, sin = (f(-angles if back else angles).reshape(shape) for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(z, 2, -1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
    return downcast(turned, x)


def steps_from(first: Array, steps: int) -> Array:
    """Return the positions (T,) of so many steps, or (B, T) for rows that begin elsewhere.

    Args:
        first: the position of the first one, () or (B,).
        steps: T.
    """
    return jnp.expand_dims(first, -1) + jnp.arange(steps, dtype=first.dtype).reshape(
        (1,) * first.ndim + (steps,)
    )


def _angles(steps: Array, width: int, base: float, dtype: Any) -> Any:
    """Return the angles (..., T, C / 2) of time steps (..., T), t / base^(2i / C)."""
    exponents = jnp.arange(0, width, 2, dtype=dtype) / width
    powers = jnp.power(jnp.asarray(base, dtype), -exponents)
    return steps.astype(dtype)[..., None] * powers.reshape((1,) * steps.ndim + powers.shape)
