"""Converters: the weights of one PyTorch module as parameters and state of the fnn layer like it.

Each converter is ``(layer, weights) -> (params, state)``; `weights` holds the arrays of the
module's state_dict by their names in it. It uses jax.numpy alone, so that gradients go through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp

from fnn._core.types import Array, Params, PyTree, State
from fnn.layer import Layer

Weights = Mapping[str, Array]
Converter = Callable[[Layer, Weights], tuple[Params, State]]


def dense(layer: Layer, weights: Weights) -> tuple[Params, State]:
    """Convert Linear: its weight is (O, I)."""
    del layer
    return {"weight": weights["weight"].T} | _renamed(weights, bias="bias"), ()


def norm(layer: Layer, weights: Weights) -> tuple[Params, State]:
    """Convert LayerNorm, RMSNorm, GroupNorm and InstanceNorm, with weight and bias or without."""
    del layer
    return _renamed(weights, weight="scale", bias="shift"), ()


def batch_norm(layer: Layer, weights: Weights) -> tuple[Params, State]:
    """Convert BatchNorm1d, 2d and 3d: a norm that keeps running statistics."""
    params, _ = norm(layer, weights)
    return params, _renamed(weights, running_mean="mean", running_var="var") or ()


def prelu(layer: Layer, weights: Weights) -> tuple[Params, State]:
    """Convert PReLU with a slope for every channel."""
    del layer
    return {"slope": weights["weight"]}, ()


def conv(layer: Layer, weights: Weights) -> tuple[Params, State]:
    """Convert Conv1d, 2d and 3d, (O, I / groups, *kernel), and ConvTranspose, (I, O / groups, ...).

    The weight of a transposed convolution is that of the convolution it transposes, in both.
    """
    del layer
    weight = jnp.moveaxis(weights["weight"], (0, 1), (-1, -2))
    return {"weight": weight} | _renamed(weights, bias="bias"), ()


def gated_dense(layer: Layer, weights: Weights) -> tuple[Params, State]:
    """Convert the feed-forward gate of a Llama: two matrices (O, I) become one (I, 2O)."""
    del layer
    both = [weights[f"{name}_proj.weight"].T for name in ("gate", "up")]
    return {"weight": jnp.concatenate(both, 1)}, ()


def recurrent(layer: Layer, weights: Weights) -> tuple[Params, State]:
    """Convert RNN, LSTM and GRU, in a stack or alone, in one direction or two, and their cells.

    PyTorch has two biases, which add up but for the one of a GRU that the reset gate acts on. The
    projection of an LSTM is (P, H) there.
    """
    if "weight_ih" in weights:
        return _direction(layer, weights, ""), ()
    ways = {"forward": "", "backward": "_reverse"}
    if "weight_ih_l0_reverse" not in weights:
        del ways["backward"]
    params: list[PyTree] = []
    while f"weight_ih_l{len(params)}" in weights or not params:
        both = {
            name: _direction(layer, weights, f"_l{len(params)}{way}") for name, way in ways.items()
        }
        params.append(both if len(both) > 1 else both["forward"])
    return tuple(params) if len(params) > 1 else params[0], ()


def _direction(layer: Layer, weights: Weights, suffix: str) -> Params:
    """Return the parameters of one direction of one layer."""
    params = {
        "input_weight": weights[f"weight_ih{suffix}"].T,
        "recurrent_weight": weights[f"weight_hh{suffix}"].T,
    }
    if f"weight_hr{suffix}" in weights:
        params["projection_weight"] = weights[f"weight_hr{suffix}"].T
    if f"bias_ih{suffix}" not in weights:
        return params
    first, second = (weights[f"bias_{name}{suffix}"] for name in ("ih", "hh"))
    if layer.name not in ("gru", "gru_cell"):
        return params | {"bias": first + second}
    gates, last = jnp.split(second, [2 * len(second) // 3])
    bias = first + jnp.concatenate([gates, jnp.zeros_like(last)])
    return params | {"bias": bias, "recurrent_bias": last}


def embedding(layer: Layer, weights: Weights) -> tuple[Params, State]:
    """Convert Embedding, of tokens or of positions, and Linear (K, C) as an unembedding."""
    del layer
    return {"weight": weights["weight"]}, ()


def class_token(layer: Layer, weights: Weights) -> tuple[Params, State]:
    """Convert a token (1, C) in front of all sequences."""
    del layer
    return {"weight": weights["weight"][0]}, ()


def attention(layer: Layer, weights: Weights) -> tuple[Params, State]:
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


CONVERTERS: dict[str, Converter] = {
    "dense": dense,
    "linear_head": dense,
    "layer_norm": norm,
    "rms_norm": norm,
    "group_norm": norm,
    "instance_norm": norm,
    "batch_norm": batch_norm,
    "conv": conv,
    "depthwise_conv": conv,
    "conv_transpose": conv,
    "prelu": prelu,
    "swiglu": gated_dense,
    "geglu": gated_dense,
    "rnn": recurrent,
    "lstm": recurrent,
    "gru": recurrent,
    "rnn_cell": recurrent,
    "lstm_cell": recurrent,
    "gru_cell": recurrent,
    "embedding": embedding,
    "positional": embedding,
    "unembedding": embedding,
    "attention": attention,
    "networks.class_token": class_token,
}
