"""Cases of combinators and of a user's own layers."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

import fnn
from tests.cases.case import WIDTH, LayerCase
from tests.cases.noise import RATE
from tests.cases.norm import EPSILON, MOMENTUM
from tests.cases.recurrent import LENGTHS, H, T, formula, lstm_step, sequence


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
    norm = fnn.batch_norm(momentum=MOMENTUM, epsilon=EPSILON)
    return fnn.serial(fnn.dense(WIDTH), norm, fnn.gelu(), fnn.dropout(RATE))


def normed() -> fnn.Layer:
    return fnn.serial(fnn.dense(WIDTH), fnn.batch_norm(momentum=MOMENTUM, epsilon=EPSILON))


def around_lstm(p, s, x):
    y = formula(lstm_step)(p, s, x)
    return y._replace(values=y.values + x.values)


def beside_lstm(p, s, x):
    y = formula(lstm_step)(p[0][0], s, x)
    there = np.arange(T) < np.array(LENGTHS)[:, None]
    beside = np.where(there[..., None], np.tanh(x.values), 0)
    return y._replace(values=np.concatenate([y.values, beside], -1))


LAYERS = [
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
    LayerCase(
        "residual-carry-lengths",
        lambda: fnn.residual(fnn.lstm(H)),
        around_lstm,
        {"plain": (len(LENGTHS), T, H)},
        draw=sequence(LENGTHS, (0, 0)),
        large=3,
    ),
    LayerCase(
        "add-carry-lengths",
        lambda: fnn.serial(fnn.parallel(fnn.lstm(H), fnn.identity()), fnn.add()),
        lambda p, s, x: around_lstm(p[0][0], s, x),
        {"plain": (len(LENGTHS), T, H)},
        draw=sequence(LENGTHS, (0, 0)),
        large=3,
    ),
    LayerCase(
        "concatenate-carry-lengths",
        lambda: fnn.serial(
            fnn.parallel(fnn.lstm(H), fnn.over_sequence(fnn.tanh())), fnn.concatenate()
        ),
        beside_lstm,
        {"plain": (len(LENGTHS), T, H)},
        draw=sequence(LENGTHS, (0, 0)),
        large=3,
    ),
    LayerCase(
        "over_parts",
        lambda: fnn.serial(
            fnn.over_parts(fnn.dropout(RATE), fnn.dense(WIDTH)),
            fnn.over_parts(fnn.tanh(), fnn.identity()),
        ),
        draw=lambda random, shape: (random.normal(size=shape), random.normal(size=(4, 3))),
    ),
    LayerCase(
        "shared-branches",
        lambda: fnn.shared(
            fnn.serial(fnn.over_parts(left=normed(), right=normed()), fnn.add()),
            {"0/right": "0/left"},
        ),
        draw=lambda random, shape: {
            "left": random.normal(size=shape),
            "right": random.normal(size=shape),
        },
    ),
    LayerCase(
        "shared-in-repeat",
        lambda: fnn.shared(
            fnn.serial(
                fnn.dense(WIDTH),
                fnn.repeat(fnn.serial(a=fnn.dense(WIDTH), act=fnn.silu(), b=fnn.dense(WIDTH)), 2),
                fnn.dense(WIDTH),
            ),
            {"2": "0", "1/b": "1/a"},
        ),
    ),
    LayerCase(
        "shared-embedding",
        lambda: fnn.shared(fnn.serial(fnn.embedding(6, WIDTH), fnn.unembedding(6)), {"1": "0"}),
        lambda p, s, x: p[0]["weight"][x] @ p[0]["weight"].T,
        {"plain": (4, 3)},
        draw=lambda random, shape: random.integers(0, 6, shape),
    ),
    LayerCase(
        "lora",
        lambda: fnn.lora(
            fnn.serial(fnn.dense(4), fnn.silu(), fnn.repeat(fnn.dense(4), 2)), 2, scale=0.5
        ),
    ),
    LayerCase("repeat", lambda: fnn.serial(fnn.dense(WIDTH), fnn.repeat(block(), 3))),
    # More copies than are written out.
    LayerCase(
        "repeat-remat-residual",
        lambda: fnn.serial(fnn.dense(WIDTH), fnn.repeat(fnn.remat(fnn.residual(block())), 5)),
    ),
    LayerCase(
        "repeat-remat-repeat",
        lambda: fnn.serial(
            fnn.dense(WIDTH), fnn.repeat(fnn.remat(fnn.repeat(fnn.residual(block()), 2)), 2)
        ),
    ),
    LayerCase(
        "reversible",
        lambda: fnn.serial(
            fnn.dense(2 * WIDTH), fnn.reversible(block(), fnn.dense(WIDTH), 2), fnn.dense(2)
        ),
    ),
    LayerCase("remat", lambda: fnn.remat(fnn.serial(fnn.dense(4), block(), fnn.dense(2)))),
    LayerCase("eval_mode", lambda: fnn.serial(fnn.eval_mode(block()), normed())),
    LayerCase(
        "over_sequence",
        lambda: fnn.over_sequence(fnn.serial(fnn.dense(4), fnn.silu())),
        shapes={"plain": (2, 3, WIDTH)},
        draw=lambda random, shape: fnn.Sequence(random.normal(size=shape), np.array([3, 1])),
    ),
    LayerCase("stateless", scaled, lambda p, s, x: x * np.exp(p["a"])),
    LayerCase("autodiff", wave, lambda p, s, x: np.sin(p["a"] * x)),
    LayerCase("repeat-autodiff", lambda: fnn.repeat(fnn.serial(wave(), fnn.tanh()), 5)),
    LayerCase(
        "use_auto",
        lambda: fnn.serial(fnn.use_auto(block()), fnn.repeat(fnn.use_auto(fnn.dense(WIDTH)), 2)),
    ),
    LayerCase("positionwise", lambda: fnn.positionwise(fnn.dense(3))),
    LayerCase("use_manual", lambda: fnn.use_manual(fnn.serial(block(), fnn.dense(2)))),
]
