"""Cases of losses."""

from __future__ import annotations

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np

import fnn
from fnn._core.precision import downcast, upcast
from tests.cases.activation import softmax
from tests.cases.case import LayerCase, LossCase

DELTA, SMOOTHING, GAMMA, MARGIN = 0.6, 0.15, 1.5, 0.7
CLASS_WEIGHTS = (0.5, 2.0, 1.0, 0.3)
B, K = 6, 4
random = np.random.default_rng(7)
NUMBERS = random.normal(size=(B, K)).astype(np.float32)
SIGNS = np.sign(NUMBERS).astype(np.int32)
LABELS = np.array([0, 3, 1, 1, 2, 0], np.int32)
# A label that is no class, and one that is.
IGNORED, PADDING = -100, 1
WITH_IGNORED = np.array([0, IGNORED, 1, 1, IGNORED, 0], np.int32)
SHARES = softmax(2 * random.normal(size=(B, K))).astype(np.float32)
PROBABILITIES = random.uniform(size=(B, K)).astype(np.float32)
COUNTS = random.poisson(2, size=(B, K)).astype(np.int32)
# A distribution may leave classes out, and its sum may miss 1.
SPARSE = np.where(SHARES > 0.2, SHARES, 0)


def ignoring(formula: Any, ignored: int) -> Any:
    """The formula of a loss of labels, 0 where the label is ignored."""

    def values(x: Any, t: Any) -> Any:
        counts = t != ignored
        return np.where(counts, formula(x, np.where(counts, t, 0)), 0)

    return values


def log_softmax(x: Any) -> Any:
    return np.log(softmax(x))


def soft(x: Any, t: Any) -> Any:
    s = (1 - SMOOTHING) * t + SMOOTHING / K
    return -(s * log_softmax(x)).sum(-1)


def huber(x: Any, t: Any) -> Any:
    e = np.abs(x - t)
    return np.where(e <= DELTA, e**2 / 2, DELTA * (e - DELTA / 2)).sum(-1)


def kl(x: Any, t: Any) -> Any:
    return np.array(
        [
            sum(p * (np.log(p) - q) for p, q in zip(*row, strict=True) if p > 0)
            for row in zip(t, log_softmax(x), strict=True)
        ]
    )


def focal(x: Any, t: Any) -> Any:
    p = softmax(x)
    return -(t * np.array(CLASS_WEIGHTS) * (1 - p) ** GAMMA * np.log(p)).sum(-1)


def hinges(x: Any, t: Any) -> list[list[float]]:
    """How far every class but the label is within the margin."""
    return [
        [max(0.0, MARGIN - row[label] + row[k]) for k in range(K) if k != label]
        for row, label in zip(x, t, strict=True)
    ]


def cosine(x: Any, t: Any) -> Any:
    return 1 - (x * t).sum(-1) / (np.linalg.norm(x, axis=-1) * np.linalg.norm(t, axis=-1))


FEATURES, TIME, BLANK = 3, 5, 1
# Of different lengths, with equal neighbors, of no label, and of as many as there are steps.
SPELLINGS = np.array(
    [[0, 2, 0], [2, 2, BLANK], [BLANK] * 3, [3, BLANK, BLANK], [0, 0, 3], [3, 2, 3]], np.int32
)
STEPS = np.array([5, 3, 2, 1, 5, 3], np.int32)


def head(random: Any) -> Any:
    shapes = (B, FEATURES), (FEATURES, K), (K,)
    return fnn.LinearHead(*(random.normal(size=shape) for shape in shapes))


def head_without_bias(random: Any) -> Any:
    return head(random)._replace(bias=None)


def head_logits(y: Any) -> Any:
    return y.features @ y.weight + (0 if y.bias is None else y.bias)


def spoken(random: Any) -> Any:
    return random.normal(size=(B, TIME, K))


def padded_speech(random: Any) -> Any:
    carry = random.normal(size=(B, 2))
    return fnn.Sequence(spoken(random), STEPS, carry)


def masked_speech(random: Any) -> Any:
    """Of each sequence every second step is there, and two more."""
    there = np.array([True, False, True, True, True])
    return fnn.Sequence(spoken(random), np.tile(there, (B, 1)))


def spelt(path: Any) -> list[int]:
    """What a path spells: repeats merged, blanks struck out."""
    merged = [label for label, before in zip(path, (None, *path), strict=False) if label != before]
    return [int(label) for label in merged if label != BLANK]


def ctc(y: Any, t: Any) -> Any:
    """The sum over all paths, one by one."""
    if not isinstance(y, fnn.Sequence):
        y = fnn.Sequence(y, np.full(B, TIME))
    there = np.asarray(y.lengths)
    if there.ndim == 1:
        there = np.arange(TIME) < there[:, None]
    values = []
    for logits, steps, labels in zip(y.values, there, t, strict=True):
        p = softmax(logits[steps])
        wanted = [int(label) for label in labels if label != BLANK]
        total = sum(
            np.prod([p[i, k] for i, k in enumerate(path)])
            for path in itertools.product(range(K), repeat=len(p))
            if spelt(path) == wanted
        )
        values.append(-np.log(total))
    return np.array(values)


def quartic(y: Any, t: Any) -> Any:
    """A user's own loss, without a gradient by hand."""
    return ((y["a"] - t["a"]) ** 4).sum(-1) + jnp.cosh(y["b"] * t["b"])


def two_heads(random: Any) -> Any:
    return {"a": random.normal(size=(B, K)), "b": random.normal(size=B)}


def many_heads(random: Any) -> Any:
    """Numbers, a class, a class at each of three steps, and a head that needs no target."""
    shapes = {"number": (B, K), "label": (B, K), "steps": (B, 3, K), "free": (B, 2)}
    return {name: random.normal(size=shape) for name, shape in shapes.items()}


LABELS_OF_STEPS = np.array(
    [[0, 1, 3], [IGNORED, 2, 2], [1, IGNORED, IGNORED], [IGNORED] * 3, [3, 3, 0], [2, 0, 1]],
    np.int32,
)
HEAD_WEIGHTS = {"number": 0.25, "steps": 1.5, "free": 0.1}


# A loss without a target: half the square of a prediction.
FREE = fnn.losses.Loss(
    lambda y, t: (upcast(y) ** 2).sum(-1) / 2,
    lambda y, t: ((upcast(y) ** 2).sum(-1) / 2, y),
    lambda y, dv: downcast(upcast(y) * dv[:, None], y),
    lambda y, t: None,
)


def several() -> fnn.losses.Loss:
    losses = {
        "number": fnn.losses.huber(DELTA),
        "label": fnn.losses.cross_entropy(),
        "steps": fnn.losses.cross_entropy(ignore_index=IGNORED),
        "free": FREE,
    }
    return fnn.losses.weighted_sum(losses, HEAD_WEIGHTS)


def several_formula(y: Any, t: Any) -> Any:
    counts = t["steps"] != IGNORED
    each = np.take_along_axis(log_softmax(y["steps"]), (t["steps"] * counts)[..., None], -1)[..., 0]
    return (
        0.25 * huber(y["number"], t["number"])
        - log_softmax(y["label"])[np.arange(B), t["label"]]
        - 1.5 * (each * counts).sum(-1) / np.maximum(counts.sum(-1), 1)
        + 0.1 * (y["free"] ** 2).sum(-1) / 2
    )


LAYERS = [
    LayerCase(
        "linear_head",
        lambda: fnn.linear_head(4),
        lambda p, s, x: fnn.LinearHead(x, p["weight"], p["bias"]),
    ),
    LayerCase("linear_head-no-bias", lambda: fnn.linear_head(4, bias=False)),
]

LOSSES = [
    LossCase(
        "squared_error",
        fnn.losses.squared_error,
        NUMBERS,
        lambda x, t: ((x - t) ** 2).sum(-1),
    ),
    LossCase(
        "absolute_error",
        fnn.losses.absolute_error,
        NUMBERS,
        lambda x, t: np.abs(x - t).sum(-1),
        kink=True,
    ),
    LossCase("huber", lambda: fnn.losses.huber(DELTA), NUMBERS, huber, kink=True),
    LossCase(
        "logistic",
        fnn.losses.logistic,
        SIGNS,
        lambda x, t: np.log(1 + np.exp(-t * x)).sum(-1),
    ),
    LossCase(
        "hinge",
        fnn.losses.hinge,
        SIGNS,
        lambda x, t: np.maximum(0, 1 - t * x).sum(-1),
        kink=True,
    ),
    LossCase(
        "binary_cross_entropy",
        fnn.losses.binary_cross_entropy,
        PROBABILITIES,
        lambda x, t: (np.log(1 + np.exp(x)) - t * x).sum(-1),
    ),
    LossCase(
        "zero_one-labels",
        fnn.losses.zero_one,
        LABELS,
        lambda x, t: (x.argmax(-1) != t).astype(float),
        kink=True,
    ),
    LossCase(
        "zero_one-signs",
        fnn.losses.zero_one,
        SIGNS,
        lambda x, t: (t * x <= 0).sum(-1).astype(float),
        kink=True,
    ),
    LossCase("nll", fnn.losses.nll, LABELS, lambda x, t: -x[np.arange(B), t]),
    LossCase("nll-soft", fnn.losses.nll, SHARES, lambda x, t: -(t * x).sum(-1)),
    LossCase(
        "cross_entropy",
        fnn.losses.cross_entropy,
        LABELS,
        lambda x, t: -log_softmax(x)[np.arange(B), t],
    ),
    LossCase(
        "cross_entropy-smooth",
        lambda: fnn.losses.cross_entropy(SMOOTHING),
        LABELS,
        lambda x, t: soft(x, np.eye(K)[t]),
    ),
    LossCase(
        "cross_entropy-soft-smooth",
        lambda: fnn.losses.cross_entropy(SMOOTHING),
        SHARES,
        soft,
    ),
    LossCase(
        "cross_entropy-ignore",
        lambda: fnn.losses.cross_entropy(SMOOTHING, ignore_index=IGNORED),
        WITH_IGNORED,
        ignoring(lambda x, t: soft(x, np.eye(K)[t]), IGNORED),
    ),
    LossCase(
        "nll-ignore",
        lambda: fnn.losses.nll(ignore_index=PADDING),
        LABELS,
        ignoring(lambda x, t: -x[np.arange(B), t], PADDING),
    ),
    LossCase(
        "zero_one-ignore",
        lambda: fnn.losses.zero_one(ignore_index=IGNORED),
        WITH_IGNORED,
        ignoring(lambda x, t: (x.argmax(-1) != t).astype(float), IGNORED),
        kink=True,
    ),
    LossCase(
        "zero_one-soft",
        fnn.losses.zero_one,
        SHARES,
        lambda x, t: (x.argmax(-1) != t.argmax(-1)).astype(float),
        kink=True,
    ),
    LossCase("kl_divergence", fnn.losses.kl_divergence, SHARES, kl),
    LossCase("kl_divergence-sparse", fnn.losses.kl_divergence, SPARSE, kl),
    LossCase(
        "focal",
        lambda: fnn.losses.focal(),
        LABELS,
        lambda x, t: -((1 - softmax(x)) ** 2 * log_softmax(x))[np.arange(B), t],
    ),
    LossCase(
        "focal-weights",
        lambda: fnn.losses.focal(GAMMA, CLASS_WEIGHTS),
        LABELS,
        lambda x, t: focal(x, np.eye(K)[t]),
    ),
    LossCase(
        "focal-soft",
        lambda: fnn.losses.focal(GAMMA, weights=CLASS_WEIGHTS),
        SHARES,
        focal,
    ),
    LossCase(
        "focal-ignore",
        lambda: fnn.losses.focal(GAMMA, CLASS_WEIGHTS, ignore_index=PADDING),
        LABELS,
        ignoring(lambda x, t: focal(x, np.eye(K)[t]), PADDING),
    ),
    LossCase(
        "poisson",
        fnn.losses.poisson,
        COUNTS,
        lambda x, t: (np.exp(x) - t * x).sum(-1),
        steep=True,
    ),
    # At a prediction of zero there is no angle.
    LossCase("cosine_distance", fnn.losses.cosine_distance, NUMBERS, cosine, kink=True),
    LossCase(
        "multiclass_hinge",
        lambda: fnn.losses.multiclass_hinge(MARGIN),
        LABELS,
        lambda x, t: np.array([sum(row) for row in hinges(x, t)]),
    ),
    LossCase(
        "multiclass_hinge-best",
        lambda: fnn.losses.multiclass_hinge(MARGIN, rivals="best"),
        LABELS,
        lambda x, t: np.array([max(row) for row in hinges(x, t)]),
        kink=True,
    ),
    LossCase(
        "linear_cross_entropy",
        lambda: fnn.losses.linear_cross_entropy(3),
        LABELS,
        lambda y, t: -log_softmax(head_logits(y))[np.arange(B), t],
        draw=head,
    ),
    LossCase(
        "linear_cross_entropy-smooth",
        lambda: fnn.losses.linear_cross_entropy(2, SMOOTHING),
        LABELS,
        lambda y, t: soft(head_logits(y), np.eye(K)[t]),
        draw=head_without_bias,
    ),
    LossCase(
        "multiclass_hinge-ignore",
        lambda: fnn.losses.multiclass_hinge(MARGIN, ignore_index=IGNORED),
        WITH_IGNORED,
        ignoring(lambda x, t: np.array([sum(row) for row in hinges(x, t)]), IGNORED),
    ),
    LossCase(
        "linear_cross_entropy-ignore",
        lambda: fnn.losses.linear_cross_entropy(3, SMOOTHING, ignore_index=IGNORED),
        WITH_IGNORED,
        ignoring(lambda y, t: soft(head_logits(y), np.eye(K)[t]), IGNORED),
        draw=head,
    ),
    LossCase(
        "autodiff",
        lambda: fnn.losses.autodiff(quartic),
        {"a": NUMBERS, "b": NUMBERS[:, 0]},
        lambda y, t: ((y["a"] - t["a"]) ** 4).sum(-1) + np.cosh(y["b"] * t["b"]),
        steep=True,
        draw=two_heads,
    ),
    LossCase(
        "weighted_sum",
        several,
        {"number": NUMBERS, "label": LABELS, "steps": LABELS_OF_STEPS},
        several_formula,
        kink=True,
        draw=many_heads,
    ),
    LossCase("ctc", lambda: fnn.losses.ctc(BLANK), SPELLINGS, ctc, draw=spoken),
    LossCase("ctc-lengths", lambda: fnn.losses.ctc(BLANK), SPELLINGS, ctc, draw=padded_speech),
    LossCase("ctc-mask", lambda: fnn.losses.ctc(BLANK), SPELLINGS, ctc, draw=masked_speech),
]
