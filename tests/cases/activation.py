"""Cases of activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import fnn
from tests.cases.case import LayerCase

SLOPE, ALPHA = 0.2, 1.7


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def each(function: Callable[[float], float]) -> Callable[[Any, Any, Any], Any]:
    """Lift a formula for one number to arrays."""
    return lambda p, s, x: np.vectorize(function, otypes=[np.float64])(x)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def gelu(x: float) -> float:
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def tanh_gelu(x: float) -> float:
    return x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


LAYERS = [
    LayerCase("identity", fnn.identity, lambda p, s, x: x),
    LayerCase("sign", fnn.sign, lambda p, s, x: np.sign(x), kink=True),
    LayerCase(
        "straight_through_sign",
        fnn.straight_through_sign,
        lambda p, s, x: np.sign(x),
        surrogate=True,
    ),
    LayerCase("sigmoid", fnn.sigmoid, each(sigmoid)),
    LayerCase("tanh", fnn.tanh, each(math.tanh), large=10),
    LayerCase("relu", fnn.relu, each(lambda x: max(x, 0)), kink=True),
    LayerCase(
        "leaky_relu",
        lambda: fnn.leaky_relu(SLOPE),
        each(lambda x: x if x > 0 else SLOPE * x),
        kink=True,
    ),
    LayerCase(
        "elu",
        lambda: fnn.elu(ALPHA),
        each(lambda x: x if x > 0 else ALPHA * (math.exp(x) - 1)),
        kink=True,
    ),
    LayerCase("gelu", fnn.gelu, each(gelu)),
    LayerCase("gelu-tanh", lambda: fnn.gelu(approximate=True), each(tanh_gelu)),
    LayerCase("silu", fnn.silu, each(lambda x: x * sigmoid(x))),
    LayerCase(
        "mish", fnn.mish, each(lambda x: x * math.tanh(max(x, 0) + math.log1p(math.exp(-abs(x)))))
    ),
    LayerCase(
        "selu",
        fnn.selu,
        each(lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x))),
        kink=True,
    ),
    LayerCase("softplus", fnn.softplus, each(lambda x: max(x, 0) + math.log1p(math.exp(-abs(x))))),
    LayerCase("softmax", fnn.softmax, lambda p, s, x: softmax(x)),
    LayerCase(
        "softmax-first-axis",
        lambda: fnn.softmax(axis=0),
        lambda p, s, x: np.moveaxis(softmax(np.moveaxis(x, 0, -1)), -1, 0),
    ),
    LayerCase(
        "log_softmax",
        fnn.log_softmax,
        lambda p, s, x: (
            x
            - x.max(-1, keepdims=True)
            - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))
        ),
    ),
    LayerCase("log_softmax-first-axis", lambda: fnn.log_softmax(axis=0)),
]
