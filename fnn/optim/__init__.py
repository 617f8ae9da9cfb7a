"""Update rules: gradient descent, what goes before it, and noise."""

from fnn.optim import schedule as schedule
from fnn.optim.adaptive import adam
from fnn.optim.descent import clip_by_global_norm, global_norm, sgd, weight_decay
from fnn.optim.noise import gradient_noise
from fnn.optim.rule import UpdateRule, chain

__all__ = [
    "UpdateRule",
    "adam",
    "chain",
    "clip_by_global_norm",
    "global_norm",
    "gradient_noise",
    "schedule",
    "sgd",
    "weight_decay",
]
