"""Twins of activations."""

from __future__ import annotations

import torch

from tests.cases.activation import ALPHA, SLOPE
from tests.twins.twin import Twin

TWINS = [
    Twin("identity", lambda x: torch.nn.Identity()),
    Twin("sigmoid", lambda x: torch.nn.Sigmoid()),
    Twin("tanh", lambda x: torch.nn.Tanh()),
    Twin("relu", lambda x: torch.nn.ReLU()),
    Twin("leaky_relu", lambda x: torch.nn.LeakyReLU(SLOPE)),
    Twin("elu", lambda x: torch.nn.ELU(ALPHA)),
    Twin("gelu", lambda x: torch.nn.GELU()),
    Twin("gelu-tanh", lambda x: torch.nn.GELU("tanh")),
    Twin("silu", lambda x: torch.nn.SiLU()),
    Twin("mish", lambda x: torch.nn.Mish()),
    Twin("selu", lambda x: torch.nn.SELU()),
    Twin("softplus", lambda x: torch.nn.Softplus()),
    Twin("softmax", lambda x: torch.nn.Softmax(-1)),
    Twin("softmax-first-axis", lambda x: torch.nn.Softmax(0)),
    Twin("log_softmax", lambda x: torch.nn.LogSoftmax(-1)),
    Twin("log_softmax-first-axis", lambda x: torch.nn.LogSoftmax(0)),
]
