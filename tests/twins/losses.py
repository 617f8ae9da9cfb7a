"""Twins of losses."""

from __future__ import annotations

import torch.nn.functional as F

from tests.cases.losses import DELTA, SMOOTHING
from tests.twins.twin import LossTwin


def cross_entropy(smoothing=0.0):
    return lambda y, t: F.cross_entropy(y, t, reduction="none", label_smoothing=smoothing)


TWINS = [
    LossTwin("squared_error", lambda y, t: F.mse_loss(y, t, reduction="none").sum(-1)),
    LossTwin("absolute_error", lambda y, t: F.l1_loss(y, t, reduction="none").sum(-1)),
    LossTwin("huber", lambda y, t: F.huber_loss(y, t, reduction="none", delta=DELTA).sum(-1)),
    LossTwin("logistic", lambda y, t: F.softplus(-t * y).sum(-1)),
    LossTwin(
        "binary_cross_entropy",
        lambda y, t: F.binary_cross_entropy_with_logits(y, t, reduction="none").sum(-1),
    ),
    LossTwin("nll", lambda y, t: F.nll_loss(y, t, reduction="none")),
    LossTwin("cross_entropy", cross_entropy()),
    LossTwin("cross_entropy-smooth", cross_entropy(SMOOTHING)),
    LossTwin("cross_entropy-soft-smooth", cross_entropy(SMOOTHING)),
]
