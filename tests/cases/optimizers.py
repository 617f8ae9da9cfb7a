"""Every optimizer with non-neutral settings, its paper in numpy, and the same from optax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from fnn import optim
from fnn.optim import schedule
from tests.papers import optimizers as papers

BETA1, BETA2, EPSILON = 0.7, 0.95, 1e-3
LR, MOMENTUM, DECAY, LIMIT = 0.07, 0.8, 0.05, 3.0
KEY = jax.random.key(11)


class OptimizerCase(NamedTuple):
    """An optimizer to be made afresh of one hyper-parameter, and what it is to be equal to.

    `paper` is as in tests/papers. `peer` is the dtype that optax computes in.
    """

    name: str
    make: Callable[[Any], Any]
    value: float
    paper: Callable[..., Any]
    optax: Callable[[], Any] | None = None
    peer: str = "float64"


def cosine(t: int) -> float:
    return 0.01 + (LR - 0.01) * (1 + np.cos(np.pi * min(t, 7) / 7)) / 2


def curvature(params: Any) -> Any:
    """Return the diagonal of the Hessian of the objective that tests/optim/test_laws.py takes."""
    return [-np.sin(p) for p in params]


def matrices(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim == 2, params)


def biases(i: int, p: Any) -> bool:
    return p.ndim < 2


descent = optim.sgd(LR, MOMENTUM)
OPTIMIZERS = [
    OptimizerCase("sgd", optim.sgd, LR, papers.sgd(LR), lambda: optax.sgd(LR)),
    OptimizerCase(
        "momentum",
        lambda lr: optim.momentum(lr, MOMENTUM),
        LR,
        papers.sgd(LR, MOMENTUM),
        lambda: optax.sgd(LR, MOMENTUM),
    ),
    OptimizerCase(
        "nesterov",
        lambda lr: optim.nesterov(lr, MOMENTUM),
        LR,
        papers.sgd(LR, MOMENTUM, nesterov=True),
        lambda: optax.sgd(LR, MOMENTUM, nesterov=True),
    ),
    OptimizerCase(
        "scheduled",
        lambda lr: optim.sgd(schedule.cosine(lr, 7, final=0.01), MOMENTUM),
        LR,
        papers.sgd(cosine, MOMENTUM),
        lambda: optax.sgd(optax.cosine_decay_schedule(LR, 7, 0.01 / LR), MOMENTUM),
    ),
    OptimizerCase(
        "adagrad",
        lambda lr: optim.adagrad(lr, 0.3, epsilon=EPSILON),
        LR,
        papers.adagrad(LR, EPSILON, 0.3),
    ),
    OptimizerCase(
        # Optax adds its epsilon under the root: without one the two are the same.
        "adagrad-start",
        lambda lr: optim.adagrad(lr, 0.3, epsilon=1e-30),
        LR,
        papers.adagrad(LR, 1e-30, 0.3),
        lambda: optax.adagrad(LR, 0.3, 1e-30),
    ),
    OptimizerCase(
        "adadelta",
        lambda lr: optim.adadelta(lr, 0.8, epsilon=EPSILON),
        LR,
        papers.adadelta(LR, 0.8, EPSILON),
        lambda: optax.adadelta(LR, 0.8, EPSILON),
    ),
    OptimizerCase(
        "rmsprop",
        lambda lr: optim.rmsprop(lr, 0.8, epsilon=EPSILON),
        LR,
        papers.rmsprop(LR, 0.8, EPSILON),
        lambda: optax.rmsprop(LR, 0.8, EPSILON, eps_in_sqrt=False),
    ),
    OptimizerCase(
        "adam",
        lambda lr: optim.adam(lr, BETA1, BETA2, epsilon=EPSILON),
        LR,
        papers.adam(LR, BETA1, BETA2, EPSILON),
        lambda: optax.adam(LR, BETA1, BETA2, EPSILON),
    ),
    OptimizerCase(
        "adamw",
        lambda lr: optim.adamw(lr, BETA1, BETA2, DECAY, epsilon=EPSILON),
        LR,
        papers.adam(LR, BETA1, BETA2, EPSILON, DECAY),
        lambda: optax.adamw(LR, BETA1, BETA2, EPSILON, weight_decay=DECAY),
    ),
    OptimizerCase(
        "nadam",
        lambda lr: optim.nadam(lr, BETA1, BETA2, epsilon=EPSILON),
        LR,
        papers.nadam(LR, BETA1, BETA2, EPSILON),
        lambda: optax.nadam(LR, BETA1, BETA2, EPSILON),
    ),
    OptimizerCase(
        "radam",
        lambda lr: optim.radam(lr, BETA1, BETA2, epsilon=EPSILON),
        LR,
        papers.radam(LR, BETA1, BETA2, EPSILON),
        lambda: optax.radam(LR, BETA1, BETA2, EPSILON, threshold=4.0),
    ),
    OptimizerCase(
        "amsgrad",
        lambda lr: optim.amsgrad(lr, BETA1, BETA2, epsilon=EPSILON),
        LR,
        papers.amsgrad(LR, BETA1, BETA2, EPSILON),
        lambda: optax.amsgrad(LR, BETA1, BETA2, EPSILON),
    ),
    OptimizerCase(
        "adamax",
        lambda lr: optim.adamax(lr, BETA1, BETA2, epsilon=EPSILON),
        LR,
        papers.adamax(LR, BETA1, BETA2, EPSILON),
        lambda: optax.adamax(LR, BETA1, BETA2, EPSILON),
    ),
    OptimizerCase(
        "lion",
        lambda lr: optim.lion(lr, BETA1, BETA2, DECAY),
        LR,
        papers.lion(LR, BETA1, BETA2, DECAY),
        lambda: optax.lion(LR, BETA1, BETA2, weight_decay=DECAY),
    ),
    OptimizerCase(
        "lars",
        lambda lr: optim.lars(lr, MOMENTUM, DECAY, 0.3),
        LR,
        papers.lars(LR, MOMENTUM, DECAY, 0.3),
    ),
    OptimizerCase(
        # Optax divides by the norm of the sum of gradient and decay, the paper by the sum of norms.
        "lars-without-decay",
        lambda lr: optim.lars(lr, MOMENTUM, trust=0.3),
        LR,
        papers.lars(LR, MOMENTUM, 0, 0.3),
        lambda: optax.lars(LR, trust_coefficient=0.3, momentum=MOMENTUM),
    ),
    OptimizerCase(
        "lamb",
        lambda lr: optim.lamb(lr, BETA1, BETA2, DECAY, epsilon=EPSILON),
        LR,
        papers.lamb(LR, BETA1, BETA2, EPSILON, DECAY),
        lambda: optax.lamb(LR, BETA1, BETA2, EPSILON, weight_decay=DECAY),
    ),
    OptimizerCase(
        "adafactor",
        lambda lr: optim.adafactor(lr, 0.7, 0.6, 2, epsilon1=1e-3, epsilon2=0.9),
        LR,
        papers.adafactor(LR, 0.7, 0.6, 1e-3, 0.9),
    ),
    OptimizerCase(
        # In optax the second epsilon is fixed.
        "adafactor-floor",
        lambda lr: optim.adafactor(lr, 0.7, 0.6, 2, epsilon1=1e-3, epsilon2=1e-3),
        LR,
        papers.adafactor(LR, 0.7, 0.6, 1e-3, 1e-3),
        lambda: optax.adafactor(LR, 2, 0.7, clipping_threshold=0.6, eps=1e-3),
        peer="float32",
    ),
    OptimizerCase(
        "muon",
        lambda lr: optim.muon(lr, MOMENTUM, True, DECAY, 3, descent, epsilon=0.1),
        LR,
        papers.muon(LR, MOMENTUM, True, DECAY, 3, 0.1, papers.sgd(LR, MOMENTUM)),
    ),
    OptimizerCase(
        "muon-without-nesterov",
        # Optax undoes the start from zero, which only an epsilon tells apart.
        lambda lr: optim.muon(
            lr, MOMENTUM, False, DECAY, 4, optim.adam(lr, BETA1, BETA2, epsilon=1e-30),
            epsilon=1e-30,
        ),
        LR,
        papers.muon(LR, MOMENTUM, False, DECAY, 4, 1e-30, papers.adam(LR, BETA1, BETA2, 1e-30)),
        lambda: optax.contrib.muon(
            LR, ns_steps=4, beta=MOMENTUM, eps=1e-30, weight_decay=DECAY, nesterov=False,
            adam_b1=BETA1, adam_b2=BETA2,
        ),
    ),
    OptimizerCase(
        "schedule_free_sgd",
        lambda lr: optim.schedule_free_sgd(lr, MOMENTUM, DECAY),
        LR,
        papers.schedule_free(LR, MOMENTUM, DECAY),
        lambda: optax.contrib.schedule_free_sgd(LR, b1=MOMENTUM, weight_decay=DECAY),
    ),
    OptimizerCase(
        "schedule_free_sgd-warm_up",
        lambda lr: optim.schedule_free_sgd(schedule.warm_up(4, schedule.constant(lr))),
        LR,
        papers.schedule_free(lambda t: LR * min(1, (t + 1) / 4), 0.9, 0.0),
    ),
    OptimizerCase(
        "schedule_free_adamw",
        lambda lr: optim.schedule_free_adamw(lr, BETA1, BETA2, DECAY, epsilon=EPSILON),
        LR,
        papers.schedule_free(LR, BETA1, DECAY, BETA2, EPSILON),
        lambda: optax.contrib.schedule_free_adamw(
            LR, b1=BETA1, b2=BETA2, eps=EPSILON, weight_decay=DECAY
        ),
    ),
    OptimizerCase(
        "lbfgs",
        lambda lr: optim.lbfgs(lr, memory=3),
        LR,
        papers.lbfgs(LR, 3),
    ),
    OptimizerCase(
        "backtracking",
        lambda lr: optim.backtracking(optim.sgd(lr, MOMENTUM), 0.6, 0.3, 8),
        40 * LR,
        papers.backtracking(papers.sgd(40 * LR, MOMENTUM), 0.6, 0.3, 8),
    ),
    OptimizerCase(
        # Optax takes the curvature of the last look, and undoes the start from zero of the mean.
        "sophia",
        lambda lr: optim.sophia(lr, BETA1, 0.6, 0.9, DECAY, 3, epsilon=0.05, key=KEY),
        LR,
        papers.sophia(LR, BETA1, 0.6, 0.9, 0.05, DECAY, 3, curvature),
    ),
    OptimizerCase(
        "sam",
        lambda radius: optim.chain(optim.sam(radius), optim.sgd(LR, MOMENTUM)),
        0.4,
        papers.chain(papers.sam(0.4), papers.sgd(LR, MOMENTUM)),
        lambda: optax.contrib.sam(
            optax.sgd(LR, MOMENTUM), optax.chain(optax.contrib.normalize(), optax.sgd(0.4)),
            opaque_mode=True,
        ),
    ),
    OptimizerCase(
        "weight_decay",
        optim.weight_decay,
        DECAY,
        papers.weight_decay(DECAY),
        lambda: optax.add_decayed_weights(DECAY),
    ),
    OptimizerCase(
        "clip_by_value",
        optim.clip_by_value,
        0.8,
        papers.clip_by_value(0.8),
        lambda: optax.clip(0.8),
    ),
    OptimizerCase(
        "clip_by_norm",
        optim.clip_by_norm,
        1.5,
        papers.clip_by_norm(1.5),
    ),
    OptimizerCase(
        "clip_by_global_norm",
        optim.clip_by_global_norm,
        LIMIT,
        papers.clip_by_global_norm(LIMIT),
        lambda: optax.clip_by_global_norm(LIMIT),
    ),
    OptimizerCase(
        "clip_by_unit_norm",
        lambda ratio: optim.clip_by_unit_norm(ratio, 0.5),
        0.8,
        papers.clip_by_unit_norm(0.8, 0.5),
        lambda: optax.adaptive_grad_clip(0.8, 0.5),
    ),
    OptimizerCase(
        "ema",
        lambda decay: optim.chain(optim.sgd(LR), optim.ema(decay)),
        0.6,
        papers.sgd(LR),
    ),
    OptimizerCase(
        "lookahead",
        lambda share: optim.chain(optim.sgd(LR, MOMENTUM), optim.lookahead(3, share)),
        0.4,
        papers.chain(papers.sgd(LR, MOMENTUM), papers.lookahead(3, 0.4)),
    ),
    OptimizerCase(
        "accumulate",
        lambda lr: optim.accumulate(optim.adam(lr, BETA1, BETA2, epsilon=EPSILON), 3),
        LR,
        papers.accumulate(papers.adam(LR, BETA1, BETA2, EPSILON), 3),
        lambda: optax.MultiSteps(optax.adam(LR, BETA1, BETA2, EPSILON), 3),
        peer="float32",
    ),
    OptimizerCase(
        "skip_nonfinite",
        lambda lr: optim.skip_nonfinite(optim.sgd(lr, MOMENTUM)),
        LR,
        papers.sgd(LR, MOMENTUM),
        lambda: optax.apply_if_finite(optax.sgd(LR, MOMENTUM), 3),
    ),
    OptimizerCase(
        "reduce_on_plateau",
        lambda lr: optim.chain(
            optim.sgd(lr), optim.reduce_on_plateau(0.6, 1, 0.2, window=2, cooldown=1, least=0.3)
        ),
        LR,
        papers.chain(papers.sgd(LR), papers.reduce_on_plateau(0.6, 1, 0.2, 2, 1, 0.3)),
        lambda: optax.chain(
            optax.sgd(LR), optax.contrib.reduce_on_plateau(
                0.6, 1, 0.2, 0.0, cooldown=1, accumulation_size=2, min_scale=0.3
            ),
        ),
    ),
    OptimizerCase(
        "masked",
        lambda rate: optim.masked(optim.weight_decay(rate), matrices),
        DECAY,
        papers.by_array(biases, papers.sgd(-1.0), papers.weight_decay(DECAY)),
    ),
    OptimizerCase(
        "by_path",
        lambda lr: optim.by_path({"b/*": optim.adam(lr, BETA1, BETA2, epsilon=EPSILON)}, descent),
        LR,
        papers.by_array(
            biases, papers.adam(LR, BETA1, BETA2, EPSILON), papers.sgd(LR, MOMENTUM)
        ),
        lambda: optax.partition(
            {"b": optax.adam(LR, BETA1, BETA2, EPSILON), "rest": optax.sgd(LR, MOMENTUM)},
            {"a": "rest", "b": "b"},
        ),
    ),
    OptimizerCase(
        "freeze",
        lambda lr: optim.freeze(optim.sgd(lr, MOMENTUM), "b/*"),
        LR,
        papers.by_array(biases, papers.sgd(0.0), papers.sgd(LR, MOMENTUM)),
    ),
    OptimizerCase(
        "unstack",
        lambda lr: optim.unstack(
            optim.chain(optim.clip_by_norm(LIMIT / 2), optim.sam(0.4), optim.sgd(lr, MOMENTUM)), "a"
        ),
        LR,
        papers.unstacked(
            0,
            papers.chain(
                papers.clip_by_norm(LIMIT / 2), papers.sam(0.4), papers.sgd(LR, MOMENTUM)
            ),
        ),
    ),
    OptimizerCase(
        "chain",
        lambda lr: optim.chain(
            optim.clip_by_global_norm(LIMIT),
            optim.weight_decay(DECAY),
            optim.sgd(lr, MOMENTUM, nesterov=True),
        ),
        LR,
        papers.chain(
            papers.clip_by_global_norm(LIMIT),
            papers.weight_decay(DECAY),
            papers.sgd(LR, MOMENTUM, nesterov=True),
        ),
        lambda: optax.chain(
            optax.clip_by_global_norm(LIMIT),
            optax.add_decayed_weights(DECAY),
            optax.sgd(LR, MOMENTUM, nesterov=True),
        ),
    ),
    OptimizerCase(
        "chain-with-steps",
        lambda radius: optim.chain(
            optim.clip_by_global_norm(LIMIT), optim.sam(radius), optim.sgd(LR, MOMENTUM)
        ),
        0.4,
        papers.chain(
            papers.clip_by_global_norm(LIMIT), papers.sam(0.4), papers.sgd(LR, MOMENTUM)
        ),
    ),
]  # fmt: skip
