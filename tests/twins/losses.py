"""Twins of losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.cases.losses import CLASS_WEIGHTS, DELTA, GAMMA, MARGIN, SMOOTHING, K
from tests.twins.twin import LossTwin


def cross_entropy(smoothing=0.0):
    return lambda y, t: F.cross_entropy(y, t, reduction="none", label_smoothing=smoothing)


def kl(y, t):
    return F.kl_div(F.log_softmax(y, -1), t, reduction="none").sum(-1)


def focal(y, t):
    # PyTorch has no focal loss: this is cross_entropy of each row, discounted.
    plain = F.cross_entropy(y, t, reduction="none")
    return torch.tensor(CLASS_WEIGHTS, dtype=y.dtype)[t] * (1 - torch.exp(-plain)) ** GAMMA * plain


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
    LossTwin("kl_divergence", kl),
    LossTwin("kl_divergence-sparse", kl),
    LossTwin("focal-weights", focal),
    LossTwin(
        "poisson", lambda y, t: F.poisson_nll_loss(y, t, log_input=True, reduction="none").sum(-1)
    ),
    LossTwin("cosine_distance", lambda y, t: 1 - F.cosine_similarity(y, t, dim=-1)),
    LossTwin(
        "multiclass_hinge",
        lambda y, t: K * F.multi_margin_loss(y, t, margin=MARGIN, reduction="none"),
    ),
]
