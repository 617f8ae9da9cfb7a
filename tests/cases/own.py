"""Cases of layers of one's own, by the functions that make them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

import fnn
from tests.cases.case import LayerCase


def centered() -> fnn.Layer:
    """Subtract a running mean, and scale: with parameters, a state, and a training mode."""

    def over(channels: Any, x: Any) -> Any:
        return channels.reshape((1,) * (x.ndim - 1) + (-1,))

    def init(key: Any, x: Any) -> Any:
        width = x.shape[-1]
        return {"scale": jnp.ones(width, x.dtype)}, jnp.zeros(width, x.dtype)

    def forward(params: Any, state: Any, x: Any, *, key: Any = None, train: bool = False) -> Any:
        y = (x - over(state, x)) * over(params["scale"], x)
        new = (state + x.reshape(-1, x.shape[-1]).mean(0)) / 2 if train else state
        return y, new, (x, state)

    def backward(params: Any, residuals: Any, dy: Any) -> Any:
        x, state = residuals
        dscale = ((x - over(state, x)) * dy).reshape(-1, dy.shape[-1]).sum(0)
        return {"scale": dscale}, dy * over(params["scale"], dy)

    return fnn.stateful(init, forward, backward)


LAYERS = [LayerCase("stateful", centered, lambda p, s, x: (x - s) * p["scale"])]
