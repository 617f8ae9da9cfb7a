"""Update rules: descent in many ways, what goes before and around it, noise, and constraints."""

from typing import TYPE_CHECKING

from fnn.on_demand import on_demand
from fnn.optim.descent import momentum, nesterov, sgd, weight_decay
from fnn.optim.rule import UpdateRule, averaged, chain, take_step

if TYPE_CHECKING:
    from fnn.optim import constraint as constraint
    from fnn.optim import landscape as landscape
    from fnn.optim import law as law
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
    from fnn.optim.constraint import project
    from fnn.optim.groups import by_path, freeze, masked
    from fnn.optim.label import label_noise
    from fnn.optim.langevin import baoab, psgld, sghmc, sgld
    from fnn.optim.layerwise import lamb, lars
    from fnn.optim.matrix import adafactor, muon
    from fnn.optim.moments import adam, adamax, adamw, amsgrad, nadam, radam
    from fnn.optim.noise import anticorrelated_noise, gradient_noise, sphere_noise, weight_noise
    from fnn.optim.private import dp_sgd, privacy_spent
    from fnn.optim.push import perturbed
    from fnn.optim.schedule_free import schedule_free_adamw, schedule_free_sgd
    from fnn.optim.second_order import backtracking, lbfgs, sophia
    from fnn.optim.sharpness import sam
    from fnn.optim.tracing import trace
    from fnn.optim.wrap import accumulate, nonfinite_leaf, reduce_on_plateau, skip_nonfinite
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "adaptive": "adadelta adagrad lion rmsprop",
            "averaging": "ema lookahead",
            "clip": "clip_by_global_norm clip_by_norm clip_by_unit_norm clip_by_value global_norm",
            "constraint": "project",
            "groups": "by_path freeze masked",
            "label": "label_noise",
            "langevin": "baoab psgld sghmc sgld",
            "layerwise": "lamb lars",
            "matrix": "adafactor muon",
            "moments": "adam adamax adamw amsgrad nadam radam",
            "noise": "anticorrelated_noise gradient_noise sphere_noise weight_noise",
            "private": "dp_sgd privacy_spent",
            "push": "perturbed",
            "schedule_free": "schedule_free_adamw schedule_free_sgd",
            "second_order": "backtracking lbfgs sophia",
            "sharpness": "sam",
            "tracing": "trace",
            "wrap": "accumulate nonfinite_leaf reduce_on_plateau skip_nonfinite",
        },
        submodules="constraint landscape law schedule",
    )

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
    "anticorrelated_noise",
    "averaged",
    "backtracking",
    "baoab",
    "by_path",
    "chain",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_unit_norm",
    "clip_by_value",
    "constraint",
    "dp_sgd",
    "ema",
    "freeze",
    "global_norm",
    "gradient_noise",
    "label_noise",
    "lamb",
    "landscape",
    "lars",
    "law",
    "lbfgs",
    "lion",
    "lookahead",
    "masked",
    "momentum",
    "muon",
    "nadam",
    "nesterov",
    "nonfinite_leaf",
    "perturbed",
    "privacy_spent",
    "project",
    "psgld",
    "radam",
    "reduce_on_plateau",
    "rmsprop",
    "sam",
    "schedule",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "sgd",
    "sghmc",
    "sgld",
    "skip_nonfinite",
    "sophia",
    "sphere_noise",
    "take_step",
    "trace",
    "weight_decay",
    "weight_noise",
]
