"""Update rules: gradient descent, what goes before it, and noise."""

from fnn.optim import schedule as schedule
from fnn.optim.adaptive import adadelta, adagrad, lion, rmsprop
from fnn.optim.averaging import ema, lookahead
from fnn.optim.clip import (
    clip_by_global_norm,
    clip_by_norm,
    clip_by_unit_norm,
    clip_by_value,
    global_norm,
)
from fnn.optim.descent import momentum, nesterov, sgd, weight_decay
from fnn.optim.moments import adam, adamax, adamw, amsgrad, nadam, radam
from fnn.optim.noise import gradient_noise
from fnn.optim.rule import UpdateRule, averaged, chain, take_step
from fnn.optim.sharpness import sam

__all__ = [
    "UpdateRule",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "amsgrad",
    "averaged",
    "chain",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_unit_norm",
    "clip_by_value",
    "ema",
    "global_norm",
    "gradient_noise",
    "lion",
    "lookahead",
    "momentum",
    "nadam",
    "nesterov",
    "radam",
    "rmsprop",
    "sam",
    "schedule",
    "sgd",
    "take_step",
    "weight_decay",
]
