"""Twins of losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import fnn
from tests.cases.losses import (
    BLANK,
    CLASS_WEIGHTS,
    DELTA,
    GAMMA,
    IGNORED,
    MARGIN,
    PADDING,
    SMOOTHING,
    K,
)
from tests.twins.twin import LossTwin, Twin


def cross_entropy(smoothing=0.0, ignored=IGNORED):
    return lambda y, t: F.cross_entropy(
        y, t, reduction="none", label_smoothing=smoothing, ignore_index=ignored
    )


def kl(y, t):
    return F.kl_div(F.log_softmax(y, -1), t, reduction="none").sum(-1)


def focal(y, t):
    # PyTorch has no focal loss: this is cross_entropy of each row, discounted.
    plain = F.cross_entropy(y, t, reduction="none")
    return torch.tensor(CLASS_WEIGHTS, dtype=y.dtype)[t] * (1 - torch.exp(-plain)) ** GAMMA * plain


def linear_cross_entropy(smoothing=0.0):
    of_logits = cross_entropy(smoothing)
    return lambda y, t: of_logits(F.linear(y.features, y.weight.T, y.bias), t)


def ctc(y, t):
    padded = isinstance(y, fnn.Sequence)
    logits = y.values if padded else y
    steps = y.lengths if padded else torch.full((len(t),), logits.shape[1])
    logits = F.log_softmax(logits, -1).transpose(0, 1)
    return F.ctc_loss(logits, t, steps, (t != BLANK).sum(-1), blank=BLANK, reduction="none")


def linear(bias):
    def convert(layer, weights):
        return {"weight": weights["weight"].T} | ({"bias": weights["bias"]} if bias else {}), ()

    return convert


TWINS = [
    *(
        Twin(
            name,
            lambda x, bias=bias: torch.nn.Linear(x.shape[-1], 4, bias=bias),
            linear(bias),
            # PyTorch's layer computes the logits.
            out=lambda y: y.logits,
            train=(True,),
        )
        for name, bias in (("linear_head", True), ("linear_head-no-bias", False))
    ),
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
    LossTwin("cross_entropy-ignore", cross_entropy(SMOOTHING, IGNORED)),
    LossTwin("nll-ignore", lambda y, t: F.nll_loss(y, t, reduction="none", ignore_index=PADDING)),
    LossTwin("linear_cross_entropy-ignore", linear_cross_entropy(SMOOTHING)),
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
    LossTwin("linear_cross_entropy", linear_cross_entropy()),
    LossTwin("linear_cross_entropy-smooth", linear_cross_entropy(SMOOTHING)),
    LossTwin("ctc", ctc),
    LossTwin("ctc-lengths", ctc),
]
