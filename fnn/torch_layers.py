"""How the weights of one PyTorch module become parameters and state of the fnn layer like it.

Each converter is ``(layer, weights) -> (params, state)``; `weights` holds the arrays of the
module's state_dict by their names in it. It uses jax.numpy alone, so that gradients go through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp

import fnn
from fnn.layer import Array, Layer, PyTree

Weights = Mapping[str, Array]
Converter = Callable[[Layer, Weights], tuple[PyTree, PyTree]]


def dense(layer: Layer, weights: Weights) -> tuple[PyTree, PyTree]:
    """Convert Linear: its weight is (O, I)."""
    del layer
    return {"weight": weights["weight"].T} | _renamed(weights, bias="bias"), ()


def norm(layer: Layer, weights: Weights) -> tuple[PyTree, PyTree]:
    """Convert LayerNorm, RMSNorm, GroupNorm and InstanceNorm, with weight and bias or without."""
    del layer
    return _renamed(weights, weight="scale", bias="shift"), ()


def batch_norm(layer: Layer, weights: Weights) -> tuple[PyTree, PyTree]:
    """Convert BatchNorm1d, 2d and 3d: a norm that keeps running statistics."""
    params, _ = norm(layer, weights)
    return params, _renamed(weights, running_mean="mean", running_var="var")


def prelu(layer: Layer, weights: Weights) -> tuple[PyTree, PyTree]:
    """Convert PReLU with a slope for every channel."""
    del layer
    return {"slope": weights["weight"]}, ()


def gated_dense(layer: Layer, weights: Weights) -> tuple[PyTree, PyTree]:
    """Convert the feed-forward gate of a Llama: two matrices (O, I) become one (I, 2O)."""
    del layer
    both = [weights[f"{name}_proj.weight"].T for name in ("gate", "up")]
    return {"weight": jnp.concatenate(both, 1)}, ()


def embedding(layer: Layer, weights: Weights) -> tuple[PyTree, PyTree]:
    """Convert Embedding."""
    del layer
    return {"weight": weights["weight"]}, ()


def attention(layer: Layer, weights: Weights) -> tuple[PyTree, PyTree]:
    """Convert MultiheadAttention: three matrices (O, I) on top of each other, or with kdim apart.

    Its keys and values may be of different widths; those of fnn come from one memory.
    """
    del layer
    names = ("query", "key", "value")
    if "in_proj_weight" in weights:
        parts = jnp.split(weights["in_proj_weight"], 3)
    else:
        parts = [weights[f"{name[0]}_proj_weight"] for name in names]
    params = {name: {"weight": part.T} for name, part in zip(names, parts, strict=True)}
    params["output"] = {"weight": weights["out_proj.weight"].T}
    if "in_proj_bias" in weights:
        biases = jnp.split(weights["in_proj_bias"], 3)
        for name, bias in zip(names, biases, strict=True):
            params[name]["bias"] = bias
        params["output"]["bias"] = weights["out_proj.bias"]
    return params, ()


def _renamed(weights: Weights, **names: str) -> dict[str, Array]:
    """Return those of some weights that there are, under names of fnn."""
    return {ours: weights[theirs] for theirs, ours in names.items() if theirs in weights}


CONVERTERS: dict[Callable[..., Layer], Converter] = {
    fnn.dense: dense,
    fnn.layer_norm: norm,
    fnn.rms_norm: norm,
    fnn.group_norm: norm,
    fnn.instance_norm: norm,
    fnn.batch_norm: batch_norm,
    fnn.prelu: prelu,
    fnn.swiglu: gated_dense,
    fnn.geglu: gated_dense,
    fnn.embedding: embedding,
    fnn.attention: attention,
}
