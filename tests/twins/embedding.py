"""Twins of embeddings."""

from __future__ import annotations

import torch

from fnn.interop import _torch_layers as torch_layers
from tests.cases.embedding import COUNT
from tests.twins.twin import Twin

TWINS = [
    Twin("embedding", lambda x: torch.nn.Embedding(COUNT, 3), torch_layers.embedding),
    Twin(
        "embedding-padding",
        lambda x: torch.nn.Embedding(COUNT, 3, padding_idx=1),
        torch_layers.embedding,
    ),
]
