"""How the weights of one PyTorch module become parameters and state of the fnn layer like it.

Each converter is ``(layer, weights) -> (params, state)``; `weights` holds the arrays of the
module's state_dict by their names in it. It uses jax.numpy alone, so that gradients go through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import fnn
from fnn.layer import Array, Layer, PyTree

Weights = Mapping[str, Array]
Converter = Callable[[Layer, Weights], tuple[PyTree, PyTree]]


def dense(layer: Layer, weights: Weights) -> tuple[PyTree, PyTree]:
    """Convert Linear: its weight is (O, I)."""
    del layer
    return {"weight": weights["weight"].T} | bias(weights), ()


def batch_norm(layer: Layer, weights: Weights) -> tuple[PyTree, PyTree]:
    """Convert BatchNorm1d, 2d, 3d."""
    del layer
    params = {"scale": weights["weight"], "shift": weights["bias"]}
    return params, {"mean": weights["running_mean"], "var": weights["running_var"]}


def bias(weights: Weights) -> dict[str, Array]:
    """Return the bias, if there is one."""
    return {"bias": weights["bias"]} if "bias" in weights else {}


CONVERTERS: dict[Callable[..., Layer], Converter] = {
    fnn.dense: dense,
    fnn.batch_norm: batch_norm,
}
