"""Twins of noise: out of training, since no two libraries throw the same dice."""

from __future__ import annotations

import torch

from tests.cases.noise import RATE
from tests.twins.twin import Twin, channels_first

TWINS = [
    Twin("dropout", lambda x: torch.nn.Dropout(RATE), train=(False,)),
    Twin(
        "spatial_dropout",
        lambda x: torch.nn.Dropout2d(RATE),
        into=lambda x: (channels_first(x),),
        out=channels_first,
        train=(False,),
    ),
]
