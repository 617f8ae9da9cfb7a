"""Positions: what tells the steps of a sequence apart."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.precision import downcast, upcast
from fnn._core.types import Array, PyTree
from fnn.layer import Layer, stateless

BASE = 10_000.0
small_normal = jax.nn.initializers.normal(0.02)


@constructor
def positional(
    kind: Literal["sinusoidal", "learned"] = "sinusoidal",
    length: int | None = None,
    *,
    initializer: jax.nn.initializers.Initializer = small_normal,
) -> Layer:
    """Learnable positional embedding: a vector for each time step, added to x.

    Forward ``y[..., t, c] = x[..., t, c] + p[t, c]``; backward ``dx = dy``. For ``"sinusoidal"``
    ``p[t, 2i] = sin(t / 10000^(2i / C))`` and ``p[t, 2i + 1] = cos(t / 10000^(2i / C))``. For
    ``"learned"`` p are the first T rows of the weight (length, C), drawn by `initializer`, and
    ``dweight[t, c] = sum_... dy[..., t, c]``, zero beyond T.

    x, y (..., T, C) with any leading axes. Saved: nothing. Of a `fnn.Sequence` write
    ``fnn.over_sequence(fnn.positional())``.

    Raises `fnn.InputError` for another kind, a `length` that is missing for ``"learned"``, below 1,
    or given for ``"sinusoidal"``; for an x of integers or of fewer than 2 axes, T beyond `length`,
    another C, and an odd C for ``"sinusoidal"``. Source: Vaswani et al. 2017, arXiv:1706.03762,
    section 3.5.

    >>> import numpy as np
    >>> np.asarray(positional().apply((), (), np.zeros((2, 2), "float32"))[0]).round(2)
    array([[0.  , 1.  ],
           [0.84, 0.54]], dtype=float32)
    """
    if kind not in ("sinusoidal", "learned"):
        raise InputError("'sinusoidal' or 'learned'", describe(kind), "pass one of the two")
    learned = kind == "learned"
    if not check.is_count(length, 1) if learned else length is not None:
        raise InputError(
            "a length of 1 or more" if learned else "no length for 'sinusoidal'",
            describe(length),
            "only learned positions come to an end: pass that as length",
        )

    def check_input(x: Any, channels: Any = "C") -> None:
        check.floating(x)
        if len(x.shape) < 2 or channels not in ("C", x.shape[-1]):
            raise InputError(
                f"x of shape (..., T, {channels})",
                str(tuple(x.shape)),
                "keep the channels last, and the steps before them",
            )
        if learned and x.shape[-2] > (length or 0):
            raise InputError(
                f"{length} steps at most",
                f"{x.shape[-2]}",
                "cut x, or learn more positions",
            )
        if not learned and x.shape[-1] % 2:
            raise InputError(
                "an even number of channels",
                f"{x.shape[-1]}",
                "half of them are sines, half cosines",
            )

    def init(key: Array, x: Any) -> PyTree:
        check_input(x)
        return {"weight": initializer(key, (length, x.shape[-1]), x.dtype)} if learned else ()

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        check_input(x, *(a.shape[1] for a in jax.tree.leaves(params)))
        steps, channels = x.shape[-2:]
        if learned:
            p = params["weight"][:steps].astype(x.dtype)
        else:
            angles = _angles(steps, channels, BASE, upcast(x).dtype)
            p = jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1).reshape(steps, channels)
        return x + p.astype(x.dtype).reshape((1,) * (x.ndim - 2) + p.shape), ()

    def backward(params: PyTree, residuals: PyTree, dy: Any) -> tuple[PyTree, Any]:
        del residuals
        if not learned:
            return (), dy
        weight = params["weight"]
        dp = dy.sum(tuple(range(dy.ndim - 2))).astype(weight.dtype)
        return {"weight": jnp.pad(dp, ((0, weight.shape[0] - dp.shape[0]), (0, 0)))}, dy

    return stateless(init, forward, backward)


@constructor
def rotary(base: float = BASE) -> Layer:
    """Rotary positional embedding: channels turned by angles that grow with the position.

    Forward, with x_1 and x_2 the first and the second half of the D channels and the angles
    ``a[t, i] = t / base^(2i / D)``: ``y_1 = x_1 cos(a) - x_2 sin(a)``,
    ``y_2 = x_2 cos(a) + x_1 sin(a)``. Backward turns dy back: ``dx_1 = dy_1 cos(a) + dy_2 sin(a)``,
    ``dx_2 = dy_2 cos(a) - dy_1 sin(a)``. The product of two steps so turned depends on their
    distance, not on where they are: this is for queries and keys, and `fnn.attention` does it
    itself when told ``rotary=True``.

    x, y (..., T, N, D) with any leading axes, a (T, D / 2). Saved: nothing.
    Halves are paired as in Llama, not neighbors.

    Raises `fnn.InputError` for a base of 0 or less, an odd D, and an x of integers or of fewer than
    3 axes. Source: Su et al. 2021, arXiv:2104.09864, eq. 34.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[[2.0, 0.0]], [[2.0, 0.0]]])
    >>> rotary().apply((), (), x)[0][:, 0].round(1)
    Array([[2. , 0. ],
           [1.1, 1.7]], dtype=float32)
    """
    check_base(base)

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        del params
        check.floating(x)
        if len(x.shape) < 3 or x.shape[-1] % 2:
            raise InputError(
                "x of shape (..., T, N, D), D even",
                str(tuple(x.shape)),
                "give x an axis of heads; the channels turn in pairs",
            )
        return rotated(x, base), ()

    def backward(params: PyTree, residuals: PyTree, dy: Any) -> tuple[PyTree, Any]:
        del params, residuals
        return (), rotated(dy, base, back=True)

    return stateless(lambda key, x: (), forward, backward)


def check_base(base: Any) -> None:
    """Raise `InputError` unless the base is a positive number."""
    if isinstance(base, bool) or not isinstance(base, int | float) or not 0 < base < float("inf"):
        raise InputError(
            "a base above 0", describe(base), "pass one such as 10_000.0: it sets the angles"
        )


def rotated(x: Any, base: float, back: bool = False) -> Any:
    """Turn x (..., T, N, D) as `rotary` does, or back."""
    steps, _, width = x.shape[-3:]
    z = upcast(x)
    angles = _angles(steps, width, base, z.dtype)
    shape = (1,) * (x.ndim - 3) + (steps, 1, width // 2)
    cos, sin = (f(-angles if back else angles).reshape(shape) for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(z, 2, -1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
    return downcast(turned, x)


def _angles(steps: int, width: int, base: float, dtype: Any) -> Any:
    """Return the angles (T, C / 2), t / base^(2i / C)."""
    exponents = jnp.arange(0, width, 2, dtype=dtype) / width
    return jnp.arange(steps, dtype=dtype)[:, None] * jnp.power(base, -exponents)[None]
