"""Twins of attention: the module, and for what it has not the scaled dot product."""

from __future__ import annotations

import torch

from fnn.interop import _torch_layers as torch_layers
from tests.cases.embedding import BASE
from tests.twins.twin import Twin


def causal(module, x, lengths):
    """Causal attention in a padded batch, whose padding is 0 here and something there."""
    steps = x.shape[1]
    missing = torch.arange(steps) >= lengths[:, None]
    y, _ = module(
        x, x, x,
        key_padding_mask=missing,
        attn_mask=torch.ones(steps, steps, dtype=torch.bool).triu(1),
        need_weights=False,
    )  # fmt: skip
    return y.masked_fill(missing[..., None], 0)


class Grouped(torch.nn.Module):
    """Causal attention with fewer heads of keys than of queries, both turned by their positions."""

    def __init__(self, inputs, width, heads, key_value_heads):
        super().__init__()
        self.width = width
        self.query = torch.nn.Linear(inputs, width * heads)
        self.key = torch.nn.Linear(inputs, width * key_value_heads)
        self.value = torch.nn.Linear(inputs, width * key_value_heads)
        self.output = torch.nn.Linear(width * heads, inputs)

    def forward(self, x, lengths):
        layers = (self.query, self.key, self.value)
        q, k, v = (layer(x).unflatten(-1, (-1, self.width)) for layer in layers)
        positions = torch.arange(x.shape[1])
        seen = (positions[:, None] >= positions) & (positions < lengths[:, None, None])
        o = torch.nn.functional.scaled_dot_product_attention(
            *(a.transpose(1, 2) for a in (turned(q), turned(k), v)),
            attn_mask=seen[:, None],
            enable_gqa=True,
        )
        there = positions < lengths[:, None]
        return self.output(o.transpose(1, 2).flatten(2)).masked_fill(~there[..., None], 0)


def turned(x):
    """Turn pairs of channels as complex numbers."""
    first, second = x.chunk(2, -1)
    shares = torch.arange(first.shape[-1], dtype=x.dtype) / first.shape[-1]
    angles = torch.arange(x.shape[1])[:, None, None] * BASE**-shares
    z = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([z.real, z.imag], -1)


def four_layers(layer, weights):
    names = ("query", "key", "value", "output")
    own = {name: {ours: weights[f"{name}.{ours}"] for ours in ("weight", "bias")} for name in names}
    return {name: torch_layers.dense(layer, own[name])[0] for name in names}, ()


TWINS = [
    Twin(
        "attention",
        lambda x: torch.nn.MultiheadAttention(6, 2, batch_first=True),
        torch_layers.attention,
        lambda x: (x.values, x.lengths),
        lambda y: y.values,
        causal,
    ),
    Twin(
        "attention-cross-dropout",
        lambda x: torch.nn.MultiheadAttention(6, 2, kdim=5, vdim=5, batch_first=True),
        torch_layers.attention,
        lambda x: x,
        call=lambda module, x, memory: module(x, memory, memory, need_weights=False)[0],
        train=(False,),
    ),
    Twin(
        "attention-blocks-dropout",
        lambda x: Grouped(8, 2, 4, 2),
        four_layers,
        lambda x: (x.values, x.lengths),
        lambda y: y.values,
        train=(False,),
    ),
]
