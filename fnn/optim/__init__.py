"""Update rules: descent in many ways, what goes before and around it, and noise."""

from fnn.optim import schedule as schedule
from fnn.optim.adaptive import adadelta, adagrad, lion, rmsprop
from fnn.optim.averaging import ema, lookahead
from fnn.optim.by_path import by_path, freeze, masked
from fnn.optim.clip import (
    clip_by_global_norm,
    clip_by_norm,
    clip_by_unit_norm,
    clip_by_value,
    global_norm,
)
from fnn.optim.descent import momentum, nesterov, sgd, weight_decay
from fnn.optim.layerwise import lamb, lars
from fnn.optim.matrix import adafactor, muon
from fnn.optim.moments import adam, adamax, adamw, amsgrad, nadam, radam
from fnn.optim.noise import gradient_noise
from fnn.optim.rule import UpdateRule, averaged, chain, take_step
from fnn.optim.schedule_free import schedule_free_adamw, schedule_free_sgd
from fnn.optim.second_order import backtracking, lbfgs, sophia
from fnn.optim.sharpness import sam
from fnn.optim.wrap import accumulate, nonfinite_leaf, reduce_on_plateau, skip_nonfinite

__all__ = [
    "UpdateRule",
    "accumulate",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "amsgrad",
    "averaged",
    "backtracking",
    "by_path",
    "chain",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_unit_norm",
    "clip_by_value",
    "ema",
    "freeze",
    "global_norm",
    "gradient_noise",
    "lamb",
    "lars",
    "lbfgs",
    "lion",
    "lookahead",
    "masked",
    "momentum",
    "muon",
    "nadam",
    "nesterov",
    "nonfinite_leaf",
    "radam",
    "reduce_on_plateau",
    "rmsprop",
    "sam",
    "schedule",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "sgd",
    "skip_nonfinite",
    "sophia",
    "take_step",
    "weight_decay",
]
