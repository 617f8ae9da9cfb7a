"""Twins of gates."""

from __future__ import annotations

import jax.numpy as jnp
import torch

from tests.cases.case import WIDTH
from tests.twins.twin import Twin


def prelu(layer, weights):
    return {"slope": weights["weight"]}, ()


def gated_dense(layer, weights):
    """From the feed-forward block of a Llama: two matrices (O, I) become one (I, 2O)."""
    both = [weights[f"{name}_proj.weight"].T for name in ("gate", "up")]
    return {"weight": jnp.concatenate(both, 1)}, ()


class Gated(torch.nn.Module):
    def __init__(self, width, activation):
        super().__init__()
        self.gate_proj = torch.nn.Linear(WIDTH, width, bias=False)
        self.up_proj = torch.nn.Linear(WIDTH, width, bias=False)
        self.activation = activation

    def forward(self, x):
        return self.activation(self.gate_proj(x)) * self.up_proj(x)


TWINS = [
    Twin("prelu", lambda x: torch.nn.PReLU(WIDTH), prelu),
    Twin("glu", lambda x: torch.nn.GLU()),
    Twin("swiglu", lambda x: Gated(3, torch.nn.SiLU()), gated_dense),
    Twin("geglu", lambda x: Gated(3, torch.nn.GELU()), gated_dense),
    Twin("geglu-tanh", lambda x: Gated(2, torch.nn.GELU("tanh")), gated_dense),
]
