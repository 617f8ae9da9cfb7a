"""Update rules: gradient descent, what goes before it, noise, and constraints."""

from fnn.optim import constraint as constraint
from fnn.optim import landscape as landscape
from fnn.optim import law as law
from fnn.optim import schedule as schedule
from fnn.optim.adaptive import adam
from fnn.optim.constraint import project
from fnn.optim.descent import clip_by_global_norm, global_norm, sgd, weight_decay
from fnn.optim.label import label_noise
from fnn.optim.langevin import baoab, psgld, sghmc, sgld
from fnn.optim.noise import anticorrelated_noise, gradient_noise, sphere_noise
from fnn.optim.private import dp_sgd, privacy_spent
from fnn.optim.push import perturbed
from fnn.optim.rule import UpdateRule, chain
from fnn.optim.tracing import trace

__all__ = [
    "UpdateRule",
    "adam",
    "anticorrelated_noise",
    "baoab",
    "chain",
    "clip_by_global_norm",
    "constraint",
    "dp_sgd",
    "global_norm",
    "gradient_noise",
    "label_noise",
    "landscape",
    "law",
    "perturbed",
    "privacy_spent",
    "project",
    "psgld",
    "schedule",
    "sgd",
    "sghmc",
    "sgld",
    "sphere_noise",
    "trace",
    "weight_decay",
]
