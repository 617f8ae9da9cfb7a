"""Twins of gates."""

from __future__ import annotations

import torch

from fnn.interop._torch_layers import gated_dense, prelu
from tests.cases.case import WIDTH
from tests.twins.twin import Twin


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
