"""Gates: one half of the channels says how much of the other passes; and a ReLU that learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.elementary import sigmoid
from fnn._core.errors import InputError
from fnn._core.precision import downcast, upcast
from fnn._core.types import Array, Cotangent, Input, Output, Params, Residuals
from fnn.layer import Layer, stateless
from fnn.layers._initializers import check_initializer, draw, lecun_normal
from fnn.layers.activation.smooth import gelu_function, gelu_slope, silu_function, silu_slope
from fnn.layers.dense import outer_sum

_CHANNELS = "keep the channels last, and initialize the layer for as many"


@constructor
def prelu() -> Layer:
    """Parametric ReLU: x where positive, a learnable slope times x elsewhere.

    Forward:   y[..., c] = x[..., c] where x[..., c] > 0, else slope[c] x[..., c]
    Backward:  dx[..., c] = dy[..., c] where x[..., c] > 0, else slope[c] dy[..., c], also at the
        kink; dslope[c] = sum_... x[..., c] dy[..., c] over all x[..., c] <= 0

    Shapes:    x, y (..., C) with any leading axes, slope (C,) starting at 0.25
    Saves:     x, since a slope may become 0 or negative, and then y does not tell x
    Raises:    InputError for another number of channels, and for x without axes or of integers.
    Source:    He et al. 2015, arXiv:1502.01852, eqs. 1 and 8.

    >>> import jax, jax.numpy as jnp
    >>> layer = prelu()
    >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 2)))
    >>> layer.apply(params, state, jnp.array([[-4.0, 3.0]]))[0]
    Array([[-1.,  3.]], dtype=float32)
    """

    def init(key: Array, x: Input) -> Params:
        del key
        check.floating(x)
        check.shape(x, "... C", remedy=_CHANNELS)
        return {"slope": jnp.full(x.shape[-1], 0.25, x.dtype)}

    def forward(params: Params, x: Input) -> tuple[Output, Residuals]:
        check.floating(x)
        check.shape(x, "... C", remedy=_CHANNELS, C=params["slope"].shape[0])
        return jnp.where(x > 0, x, _slope_over(params, x) * x), x

    def backward(params: Params, x: Residuals, dy: Cotangent) -> tuple[Params, Cotangent]:
        product = jnp.where(x > 0, 0, upcast(x) * upcast(dy))
        dslope = product.sum(tuple(range(x.ndim - 1))).astype(params["slope"].dtype)
        return {"slope": dslope}, jnp.where(x > 0, dy, _slope_over(params, x) * dy)

    return stateless(init, forward, backward, positionwise=True)


def _slope_over(params: Params, x: Array) -> Array:
    """Return the slopes in the rank and dtype of x."""
    return params["slope"].reshape((1,) * (x.ndim - 1) + (-1,)).astype(x.dtype)


@constructor
def glu() -> Layer:
    """Gated linear unit (GLU): one half of the channels is the gate of the other.

    a and b are the first and the second half of the last axis of x. Of bfloat16 and float16 all
    between x and y, and between dy and dx, is float32.

    Forward:   y = a s, with s = sigmoid(b)
    Backward:  da = dy s, db = dy a s sigmoid(-b); dx is the two side by side

    Shapes:    x (..., 2C) with any leading axes, y (..., C)
    Saves:     x
    Raises:    InputError for an odd last axis, and for x without axes or of integers.
    Source:    Dauphin et al. 2016, arXiv:1612.08083, section 2.

    >>> import jax.numpy as jnp
    >>> glu().apply((), (), jnp.array([3.0, 5.0, 0.0, 100.0]))[0]
    Array([1.5, 5. ], dtype=float32)
    """

    def forward(params: Params, x: Input) -> tuple[Output, Residuals]:
        del params
        check.floating(x)
        check.shape(x, "... C", remedy=_CHANNELS)
        if x.shape[-1] % 2:
            raise InputError(
                "x of shape (..., 2C)",
                str(tuple(x.shape)),
                "give the layer in front an even width: half of it is the gate",
            )
        a, b = jnp.split(upcast(x), 2, -1)
        return downcast(a * sigmoid(b), x), x

    def backward(params: Params, x: Residuals, dy: Cotangent) -> tuple[Params, Cotangent]:
        del params
        a, b = jnp.split(upcast(x), 2, -1)
        s, wide = sigmoid(b), upcast(dy)
        # a first meets what is 1 at most: a product with dy may overflow where the result does not.
        # Of a stack XLA makes one kernel, where it copies the parts of a concatenation; the second
        # exponential costs less than to write what both halves share.
        dx = jnp.stack([wide * s, wide * (a * (s * sigmoid(-b)))], -2)
        return (), downcast(dx.reshape(x.shape), dy)

    return stateless(lambda key, x: (), forward, backward, positionwise=True)


@constructor
def swiglu(width: int, *, initializer: jax.nn.initializers.Initializer = lecun_normal) -> Layer:
    """SwiGLU: two dense layers without bias, one the gate of the other through a SiLU.

    One matrix product serves both. Follow it with ``fnn.dense(I, bias=False)`` for the feed-forward
    block of a Llama, with ``weight = concatenate([W_gate, W_up], 1)``. Of bfloat16 and float16 all
    between the product and y is float32.

    Forward:   [g, u] = x weight, y = silu(g) u, with silu(g) = g s and s = sigmoid(g)
    Backward:  dg = dy u s (1 + g (1 - s)), du = dy silu(g),
        dweight = sum_... x[..., :, None] [dg, du][..., None, :], dx = [dg, du] weight^T

    Args:
        width: O, the width of y, of g and of u.
        initializer: of the weight, one of `jax.nn.initializers`.
    Shapes:    x (..., I) with any leading axes, y, g, u (..., O); weight (I, 2O): the first O
        columns make the gate g, the last O make u
    Saves:     x, g and u
    Raises:    InputError for a width below 1, and for x of another last axis, without axes or of
        integers.
    Source:    Shazeer 2020, arXiv:2002.05202, eq. 6.

    >>> import jax.numpy as jnp
    >>> params = {"weight": jnp.array([[100.0, 3.0]])}
    >>> swiglu(1).apply(params, (), jnp.array([2.0]))[0]
    Array([1200.], dtype=float32)
    """
    return _gated_dense(width, initializer, _Gate(silu_function, silu_slope))


@constructor
def geglu(
    width: int,
    *,
    approximate: bool = False,
    initializer: jax.nn.initializers.Initializer = lecun_normal,
) -> Layer:
    """GEGLU: two dense layers without bias, one the gate of the other through a GELU.

    Of bfloat16 and float16 all between the product and y is float32.

    Forward:   [g, u] = x weight, y = gelu(g) u, with gelu(g) = g P(g) as in `fnn.gelu`
    Backward:  dg = dy u (P(g) + g p(g)), du = dy gelu(g),
        dweight = sum_... x[..., :, None] [dg, du][..., None, :], dx = [dg, du] weight^T

    Args:
        width: O, the width of y, of g and of u.
        approximate: take the tanh for P, as `fnn.gelu` explains.
        initializer: of the weight, one of `jax.nn.initializers`.
    Shapes:    x (..., I) with any leading axes, y, g, u (..., O); weight (I, 2O): the first O
        columns make the gate g, the last O make u
    Saves:     x, g and u
    Raises:    InputError for a width below 1, an approximate that is no bool, and for x of another
        last axis, without axes or of integers.
    Source:    Shazeer 2020, arXiv:2002.05202, eq. 6.

    >>> import jax.numpy as jnp
    >>> params = {"weight": jnp.array([[100.0, 3.0]])}
    >>> geglu(1).apply(params, (), jnp.array([2.0]))[0]
    Array([1200.], dtype=float32)
    """
    check.flag(approximate, "approximate", "pass True for the tanh")
    gate = _Gate(lambda g: gelu_function(g, approximate), lambda g: gelu_slope(g, approximate))
    return _gated_dense(width, initializer, gate)


class _Gate(NamedTuple):
    """What a gate does to its half, and the derivative of that."""

    function: Callable[[Array], Array]
    slope: Callable[[Array], Array]


def _gated_dense(width: int, initializer: jax.nn.initializers.Initializer, gate: _Gate) -> Layer:
    """Make the layer of one matrix product, half of which is the gate of the other."""
    check.count(width, "width")
    check_initializer(initializer)

    def init(key: Array, x: Input) -> Params:
        check.floating(x)
        check.shape(x, "... C", remedy=_CHANNELS)
        return {"weight": draw(initializer, key, (x.shape[-1], 2 * width), x.dtype)}

    def forward(params: Params, x: Input) -> tuple[Output, Residuals]:
        check.floating(x)
        check.shape(x, "... C", remedy=_CHANNELS, C=params["weight"].shape[0])
        both = x @ params["weight"]
        g, u = jnp.split(upcast(both), 2, -1)
        return downcast(gate.function(g) * u, both), (x, both)

    def backward(params: Params, residuals: Residuals, dy: Cotangent) -> tuple[Params, Cotangent]:
        x, both = residuals
        # Else XLA keeps what gate and slope have in common with forward beside x and both halves.
        g, u = jnp.split(upcast(jax.lax.optimization_barrier(both)), 2, -1)
        wide = upcast(dy)
        # u first meets the slope, which is about 1 at most: a product with dy may overflow where
        # the result does not.
        dg, du = wide * (u * gate.slope(g)), wide * gate.function(g)
        dboth = downcast(jnp.concatenate([dg, du], -1), dy)
        return {"weight": outer_sum(x, dboth)}, dboth @ params["weight"].T

    return stateless(init, forward, backward, positionwise=True)
