"""Gates: one half of the numbers says how much of the other passes; and a relu that learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.precision import upcast
from fnn._core.types import Array, PyTree
from fnn.layer import Layer, stateless
from fnn.layers._initializers import lecun_normal
from fnn.layers.activation.smooth import check_approximate, gelu_slope, sigmoids, silu_slope
from fnn.layers.dense import outer_sum


@constructor
def prelu() -> Layer:
    """Parametric ReLU: x where positive, a learnable slope times x elsewhere.

    Forward ``y[..., c] = x[..., c] where x[..., c] > 0, else slope[c] x[..., c]``; backward
    ``dx[..., c] = dy[..., c] where x[..., c] > 0, else slope[c] dy[..., c]`` and
    ``dslope[c] = sum_... x[..., c] dy[..., c]`` over the places where ``x[..., c] <= 0``. At the
    kink the slope is ``slope[c]``.

    x, y (..., C) with any leading axes, slope (C,) starting at 0.25. Saved: x, since a slope may
    become 0 or negative, and then y does not tell x.

    Raises `fnn.InputError` for another number of channels, and for an x without axes or of
    integers. Source: He et al. 2015, arXiv:1502.01852, eqs. 1 and 8.

    >>> import jax, jax.numpy as jnp
    >>> layer = prelu()
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 2)))
    >>> layer.apply(params, state, jnp.array([[-4.0, 3.0]]))[0]
    Array([[-1.,  3.]], dtype=float32)
    """

    def init(key: Array, x: Any) -> PyTree:
        del key
        _check(x)
        return {"slope": jnp.full(x.shape[-1], 0.25, x.dtype)}

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        _check(x, params["slope"].shape[0])
        return jnp.where(x > 0, x, over(params, x) * x), x

    def backward(params: PyTree, x: PyTree, dy: Any) -> tuple[PyTree, Any]:
        product = jnp.where(x > 0, 0, upcast(x) * upcast(dy))
        dslope = product.sum(tuple(range(x.ndim - 1))).astype(params["slope"].dtype)
        return {"slope": dslope}, jnp.where(x > 0, dy, over(params, x) * dy)

    def over(params: PyTree, x: Any) -> Array:
        return params["slope"].reshape((1,) * (x.ndim - 1) + (-1,)).astype(x.dtype)

    return stateless(init, forward, backward)


@constructor
def glu() -> Layer:
    """Gated linear unit: one half of the channels is the gate of the other.

    Forward, a and b being the first and the second half of the last axis of x: ``y = a s`` with
    ``s = sigmoid(b)``; backward ``da = dy s``, ``db = dy a s sigmoid(-b)``, and dx is the two side
    by side. x (..., 2C) with any leading axes, y (..., C). Saved: x.

    Raises `fnn.InputError` for an odd last axis, and for an x without axes or of integers. Source:
    Dauphin et al. 2016, arXiv:1612.08083, section 2.

    >>> import jax.numpy as jnp
    >>> glu().apply((), (), jnp.array([3.0, 5.0, 0.0, 100.0]))[0]
    Array([1.5, 5. ], dtype=float32)
    """

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        del params
        _check(x)
        if x.shape[-1] % 2:
            raise InputError(
                "x of shape (..., 2C)",
                str(tuple(x.shape)),
                "give the layer in front an even width: half of it is the gate",
            )
        a, b = jnp.split(x, 2, -1)
        return a * jax.nn.sigmoid(b), x

    def backward(params: PyTree, x: PyTree, dy: Any) -> tuple[PyTree, Any]:
        del params
        a, b = jnp.split(x, 2, -1)
        s, rest = sigmoids(b)
        da = dy * s
        return (), jnp.concatenate([da, da * a * rest], -1)

    return stateless(lambda key, x: (), forward, backward)


@constructor
def swiglu(width: int, *, initializer: jax.nn.initializers.Initializer = lecun_normal) -> Layer:
    """SwiGLU: two dense layers without bias, one the gate of the other through a SiLU.

    Forward ``[g, u] = x weight``, ``y = silu(g) u`` with ``silu(g) = g s``, ``s = sigmoid(g)``: one
    matrix product for both. Backward ``dg = dy u s (1 + g (1 - s))``, ``du = dy silu(g)``,
    ``dweight = sum_... x[..., :, None] [dg, du][..., None, :]``, ``dx = [dg, du] weight^T``.

    x (..., I) with any leading axes, y and g and u (..., O), O being `width`; weight (I, 2O) drawn
    by `initializer`: the first O columns make the gate g, the last O make u. Follow it with
    ``fnn.dense(I, bias=False)`` for the feed-forward block of a Llama, with ``weight =
    concatenate([W_gate, W_up], 1)``. Saved: x, g and u.

    Raises `fnn.InputError` for a width below 1, and for an x of another last axis, without axes or
    of integers. Source: Shazeer 2020, arXiv:2002.05202, eq. 6.

    >>> import jax.numpy as jnp
    >>> params = {"weight": jnp.array([[100.0, 3.0]])}
    >>> swiglu(1).apply(params, (), jnp.array([2.0]))[0]
    Array([1200.], dtype=float32)
    """
    return _gated_dense(width, initializer, _Gate(jax.nn.silu, silu_slope))


@constructor
def geglu(
    width: int,
    *,
    approximate: bool = False,
    initializer: jax.nn.initializers.Initializer = lecun_normal,
) -> Layer:
    """GEGLU: two dense layers without bias, one the gate of the other through a GELU.

    Forward ``[g, u] = x weight``, ``y = gelu(g) u`` with ``gelu(g) = g P(g)``, P and its density p
    as in `fnn.gelu`, which also explains `approximate`. Backward ``dg = dy u (P(g) + g p(g))``,
    ``du = dy gelu(g)``, ``dweight = sum_... x[..., :, None] [dg, du][..., None, :]``,
    ``dx = [dg, du] weight^T``. Shapes, what is saved and errors are those of `swiglu`. Source:
    Shazeer 2020, arXiv:2002.05202, eq. 6.

    >>> import jax.numpy as jnp
    >>> params = {"weight": jnp.array([[100.0, 3.0]])}
    >>> geglu(1).apply(params, (), jnp.array([2.0]))[0]
    Array([1200.], dtype=float32)
    """
    check_approximate(approximate)
    gate = _Gate(lambda g: jax.nn.gelu(g, approximate), lambda g: gelu_slope(g, approximate))
    return _gated_dense(width, initializer, gate)


class _Gate(NamedTuple):
    function: Callable[[Any], Any]
    slope: Callable[[Any], Any]


def _gated_dense(width: int, initializer: jax.nn.initializers.Initializer, gate: _Gate) -> Layer:
    if not check.is_count(width, 1):
        raise InputError("a width of 1 or more", describe(width), "pass a positive int")

    def init(key: Array, x: Any) -> PyTree:
        _check(x)
        return {"weight": initializer(key, (x.shape[-1], 2 * width), x.dtype)}

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        _check(x, params["weight"].shape[0])
        both = x @ params["weight"]
        g, u = jnp.split(both, 2, -1)
        return gate.function(g) * u, (x, both)

    def backward(params: PyTree, residuals: PyTree, dy: Any) -> tuple[PyTree, Any]:
        x, both = residuals
        g, u = jnp.split(both, 2, -1)
        dboth = jnp.concatenate([dy * u * gate.slope(g), dy * gate.function(g)], -1)
        return {"weight": outer_sum(x, dboth)}, dboth @ params["weight"].T

    return stateless(init, forward, backward)


def _check(x: Any, channels: Any = "C") -> None:
    check.floating(x)
    if not x.shape or channels not in ("C", x.shape[-1]):
        raise InputError(
            f"x of shape (..., {channels})",
            str(tuple(x.shape)),
            "keep the channels last, and initialize the layer for as many",
        )
