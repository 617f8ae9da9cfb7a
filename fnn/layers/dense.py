"""The dense layer: every output is a weighted sum of all inputs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import Array, PyTree
from fnn.layer import Layer, stateless
from fnn.layers._initializers import lecun_normal


@constructor
def dense(
    width: int, *, bias: bool = True, initializer: jax.nn.initializers.Initializer = lecun_normal
) -> Layer:
    """Dense (fully connected) layer: a matrix product with a weight, plus a bias.

    Forward ``y[..., o] = sum_i x[..., i] weight[i, o] + bias[o]``; with dy the cotangent of y,
    backward ``dweight[i, o] = sum_... x[..., i] dy[..., o]``, ``dbias[o] = sum_... dy[..., o]``,
    ``dx[..., i] = sum_o dy[..., o] weight[i, o]``.

    x is (..., I) with any leading axes, weight (I, O) drawn by `initializer` (one of
    `jax.nn.initializers`), bias (O,) starting at zero, y (..., O), O being `width`. Saved: x.

    Raises `fnn.InputError` for a width below 1, and for an x of another last axis or of integers.
    Source: Rumelhart, Hinton and Williams 1986, doi:10.1038/323533a0, eqs. 1, 6 and 7.

    >>> import jax, jax.numpy as jnp
    >>> layer = dense(2)
    >>> params = {"weight": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "bias": jnp.array([0.5, 0.0])}
    >>> y, state, residuals = layer.forward(params, (), jnp.array([1.0, 1.0]))
    >>> y
    Array([4.5, 6. ], dtype=float32)
    >>> dparams, dx = layer.backward(params, residuals, jnp.array([1.0, 0.0]))
    >>> dx
    Array([1., 3.], dtype=float32)
    """
    if not check.is_count(width, 1):
        raise InputError("a width of 1 or more", describe(width), "pass a positive int")

    def init(key: Array, x: Any) -> PyTree:
        check.floating(x)
        if not x.shape:
            raise InputError("x of shape (..., I)", describe(x), "give x a last axis")
        weight = initializer(key, (x.shape[-1], width), x.dtype)
        return {"weight": weight} | ({"bias": jnp.zeros(width, x.dtype)} if bias else {})

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        check.floating(x)
        inputs = params["weight"].shape[0]
        if x.shape[-1:] != (inputs,):
            raise InputError(
                f"x of shape (..., {inputs})",
                str(tuple(x.shape)),
                f"reshape x, or initialize the layer for {(x.shape or (0,))[-1]} inputs",
            )
        y = x @ params["weight"]
        return y + params["bias"].reshape((1,) * (y.ndim - 1) + (-1,)) if bias else y, x

    def backward(params: PyTree, x: PyTree, dy: Any) -> tuple[PyTree, Any]:
        dparams = {"weight": outer_sum(x, dy)}
        if bias:
            dparams["bias"] = dy.sum(tuple(range(dy.ndim - 1)))
        return dparams, dy @ params["weight"].T

    return stateless(init, forward, backward)


def outer_sum(x: Any, dy: Any, dtype: Any = None) -> Any:
    """Return ``sum_... x[..., i] dy[..., o]``, the gradient of a weight (I, O), summed in a dtype.

    With the leading axes made one, since for several of them XLA transposes x, and computes what it
    comes from again in that order, number by number.
    """
    x, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return jnp.tensordot(x, dy, (0, 0), preferred_element_type=dtype)
