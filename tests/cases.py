"""Every public layer and loss, with non-neutral settings and its formula in plain numpy."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnn

RATE, MOMENTUM, EPSILON, SLOPE, ALPHA, DELTA, SMOOTHING = 0.3, 0.7, 1e-3, 0.2, 1.7, 0.6, 0.15


class LayerCase(NamedTuple):
    """A layer to be made afresh.

    `kink` says that x = 0 has no derivative, `surrogate` that the rule is meant to be none.
    `formula` maps params, state and x to y out of training, in numpy; None where the layer has no
    formula of its own.
    """

    name: str
    make: Callable[[], fnn.Layer]
    formula: Callable[[Any, Any, Any], Any] | None = None
    kink: bool = False
    surrogate: bool = False


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def each(function: Callable[[float], float]) -> Callable[[Any, Any, Any], Any]:
    """Lift a formula for one number to arrays."""
    return lambda p, s, x: np.vectorize(function, otypes=[np.float64])(x)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def tanh_gelu(x: float) -> float:
    return x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def scaled() -> fnn.Layer:
    """A user's own layer: y = x exp(a), a per feature."""
    return fnn.stateless(
        lambda key, x: {"a": jnp.zeros(x.shape[-1], x.dtype)},
        lambda p, x: (x * wide(jnp.exp(p["a"]), x), x),
        lambda p, x, dy: (
            {"a": (dy * x * wide(jnp.exp(p["a"]), x)).sum(tuple(range(x.ndim - 1)))},
            dy * wide(jnp.exp(p["a"]), x),
        ),
    )


def wide(channels: Any, x: Any) -> Any:
    return channels.reshape((1,) * (x.ndim - 1) + (-1,))


def wave() -> fnn.Layer:
    """A layer without a rule, with a parameter and a state."""

    def apply(params, state, x, /, *, key=None, train=False):
        del key
        return jnp.sin(params["a"] * x), {"seen": state["seen"] + 1.0 if train else state["seen"]}

    return fnn.autodiff(
        lambda key, x: ({"a": jnp.ones((), x.dtype)}, {"seen": jnp.zeros((), x.dtype)}), apply
    )


def block() -> fnn.Layer:
    return fnn.serial(
        fnn.dense(WIDTH), fnn.batch_norm(MOMENTUM, EPSILON), fnn.gelu(), fnn.dropout(RATE)
    )


WIDTH = 5
init = jax.nn.initializers.normal(0.5)

LAYERS = [
    LayerCase(
        "dense",
        lambda: fnn.dense(3, initializer=init),
        lambda p, s, x: np.einsum("...i,io->...o", x, p["weight"]) + p["bias"],
    ),
    LayerCase(
        "dense-no-bias",
        lambda: fnn.dense(3, bias=False),
        lambda p, s, x: np.einsum("...i,io->...o", x, p["weight"]),
    ),
    LayerCase("flatten", fnn.flatten, lambda p, s, x: np.stack([a.ravel() for a in x])),
    LayerCase("dropout", lambda: fnn.dropout(RATE), lambda p, s, x: x),
    LayerCase(
        "batch_norm",
        lambda: fnn.batch_norm(MOMENTUM, EPSILON),
        lambda p, s, x: p["scale"] * (x - s["mean"]) / np.sqrt(s["var"] + EPSILON) + p["shift"],
    ),
    LayerCase("identity", fnn.identity, lambda p, s, x: x),
    LayerCase("sign", fnn.sign, lambda p, s, x: np.sign(x), kink=True),
    LayerCase(
        "straight_through_sign",
        fnn.straight_through_sign,
        lambda p, s, x: np.sign(x),
        surrogate=True,
    ),
    LayerCase("sigmoid", fnn.sigmoid, each(sigmoid)),
    LayerCase("tanh", fnn.tanh, each(math.tanh)),
    LayerCase("relu", fnn.relu, each(lambda x: max(x, 0)), kink=True),
    LayerCase(
        "leaky_relu",
        lambda: fnn.leaky_relu(SLOPE),
        each(lambda x: x if x > 0 else SLOPE * x),
        kink=True,
    ),
    LayerCase(
        "elu",
        lambda: fnn.elu(ALPHA),
        each(lambda x: x if x > 0 else ALPHA * (math.exp(x) - 1)),
        kink=True,
    ),
    LayerCase("gelu", fnn.gelu, each(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2)),
    LayerCase("gelu-tanh", lambda: fnn.gelu(approximate=True), each(tanh_gelu)),
    LayerCase("silu", fnn.silu, each(lambda x: x * sigmoid(x))),
    LayerCase("softplus", fnn.softplus, each(lambda x: max(x, 0) + math.log1p(math.exp(-abs(x))))),
    LayerCase("softmax", fnn.softmax, lambda p, s, x: softmax(x)),
    LayerCase(
        "softmax-first-axis",
        lambda: fnn.softmax(axis=0),
        lambda p, s, x: np.moveaxis(softmax(np.moveaxis(x, 0, -1)), -1, 0),
    ),
    LayerCase(
        "log_softmax",
        fnn.log_softmax,
        lambda p, s, x: (
            x
            - x.max(-1, keepdims=True)
            - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))
        ),
    ),
    LayerCase("log_softmax-first-axis", lambda: fnn.log_softmax(axis=0)),
    LayerCase("serial", lambda: fnn.serial(fnn.dense(4), block(), fnn.tanh(), fnn.dense(2))),
    LayerCase(
        "serial-named", lambda: fnn.serial(zeta=block(), alpha=fnn.silu(), last=fnn.dense(2))
    ),
    LayerCase(
        "parallel-concatenate",
        lambda: fnn.serial(
            fnn.parallel(fnn.dense(3), fnn.tanh(), block()), fnn.concatenate(), fnn.dense(2)
        ),
    ),
    LayerCase(
        "parallel-named-add",
        lambda: fnn.serial(fnn.parallel(b=fnn.dense(WIDTH), a=block()), fnn.add()),
    ),
    LayerCase("residual", lambda: fnn.serial(fnn.dense(WIDTH), fnn.residual(block()))),
    LayerCase("repeat", lambda: fnn.serial(fnn.dense(WIDTH), fnn.repeat(block(), 3))),
    LayerCase(
        "repeat-remat-residual",
        lambda: fnn.serial(fnn.dense(WIDTH), fnn.repeat(fnn.remat(fnn.residual(block())), 3)),
    ),
    LayerCase("remat", lambda: fnn.remat(fnn.serial(fnn.dense(4), block(), fnn.dense(2)))),
    LayerCase("stateless", scaled, lambda p, s, x: x * np.exp(p["a"])),
    LayerCase("autodiff", wave, lambda p, s, x: np.sin(p["a"] * x)),
    LayerCase("repeat-autodiff", lambda: fnn.repeat(fnn.serial(wave(), fnn.tanh()), 2)),
    LayerCase("use_rules", lambda: fnn.use_rules(fnn.serial(block(), fnn.dense(2)))),
]


class LossCase(NamedTuple):
    """A loss, a target for predictions (6, 4), and the loss in numpy; `kink` as for layers."""

    name: str
    make: Callable[[], fnn.losses.Loss]
    target: Any
    formula: Callable[[Any, Any], Any]
    kink: bool = False


B, K = 6, 4
random = np.random.default_rng(7)
NUMBERS = random.normal(size=(B, K)).astype(np.float32)
SIGNS = np.sign(NUMBERS).astype(np.int32)
LABELS = np.array([0, 3, 1, 1, 2, 0], np.int32)
SHARES = softmax(2 * random.normal(size=(B, K))).astype(np.float32)
PROBABILITIES = random.uniform(size=(B, K)).astype(np.float32)


def log_softmax(x: Any) -> Any:
    return np.log(softmax(x))


def soft(x: Any, t: Any) -> Any:
    s = (1 - SMOOTHING) * t + SMOOTHING / K
    return -(s * log_softmax(x)).sum(-1)


def huber(x: Any, t: Any) -> Any:
    e = np.abs(x - t)
    return np.where(e <= DELTA, e**2 / 2, DELTA * (e - DELTA / 2)).sum(-1)


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
]


def public(module: Any, kind: type) -> set[str]:
    """Return the names of a module's public constructors of layers or losses."""
    return {
        name
        for name in module.__all__
        if hasattr(getattr(module, name), "__wrapped__")
        and typing.get_type_hints(getattr(module, name).__wrapped__).get("return") is kind
    }


def makers(made: Any) -> set[str]:
    """Return the names of all constructors that a layer or loss was made with."""
    origin = made.origin
    inside = (*origin.args, *origin.kwargs.values())
    names = [makers(part) for part in inside if getattr(part, "origin", None) is not None]
    return {origin.make.__name__}.union(*names)
