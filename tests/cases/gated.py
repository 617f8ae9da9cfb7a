"""Cases of gates."""

from __future__ import annotations

import jax
import numpy as np

import fnn
from tests.cases.activation import each, gelu, sigmoid, tanh_gelu
from tests.cases.case import ANY_SHAPE, LayerCase

NORMAL = jax.nn.initializers.normal(0.5)
silu = each(lambda x: x * sigmoid(x))


def gated(gate):
    """The formula of two dense layers, one the gate of the other."""

    def formula(p, s, x):
        width = p["weight"].shape[1] // 2
        g, u = x @ p["weight"][:, :width], x @ p["weight"][:, width:]
        return gate(None, None, g) * u

    return formula


LAYERS = [
    LayerCase(
        "prelu",
        fnn.prelu,
        lambda p, s, x: np.where(x > 0, x, p["slope"] * x),
        ANY_SHAPE,
        kink=True,
    ),
    LayerCase(
        "glu",
        fnn.glu,
        lambda p, s, x: (
            x[..., : x.shape[-1] // 2] * each(sigmoid)(p, s, x[..., x.shape[-1] // 2 :])
        ),
        {"plain": (4, 6), "leading-axes": (2, 3, 2)},
    ),
    LayerCase(
        "swiglu",
        lambda: fnn.swiglu(3, initializer=NORMAL),
        gated(silu),
        ANY_SHAPE,
    ),
    LayerCase("geglu", lambda: fnn.geglu(3), gated(each(gelu))),
    LayerCase("geglu-tanh", lambda: fnn.geglu(2, approximate=True), gated(each(tanh_gelu))),
]
