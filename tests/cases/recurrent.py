"""Cases of recurrence: every sequence and every step one after the other."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import fnn
from tests.cases.activation import sigmoid
from tests.cases.case import LayerCase

B, T, INPUTS, H = 2, 4, 3, 2
NORMAL = jax.nn.initializers.normal(0.5)
SHAPES = {"plain": (B, T, INPUTS), "batch-1": (1, T, INPUTS), "one-step": (B, 1, INPUTS)}
PLAIN = {"plain": (B, T, INPUTS)}
CELL = {"plain": (B, INPUTS), "batch-1": (1, INPUTS)}
LENGTHS = np.array([2, T], np.int32)
# Steps missing at the beginning, in the middle and at the end.
MASK = np.array([[False, True, False, True], [True, True, True, False]])


def rnn_step(function):
    def step(p, x, h):
        return function(x @ p["input_weight"] + h @ p["recurrent_weight"] + p.get("bias", 0))

    return step


def s(a):
    return np.vectorize(sigmoid)(a)


def relu(a):
    return np.maximum(a, 0)


def lstm_step(p, x, carry):
    h, c = carry
    a = x @ p["input_weight"] + h @ p["recurrent_weight"] + p.get("bias", 0)
    i, f, g, o = (a[k * len(c) : (k + 1) * len(c)] for k in range(4))
    c = s(f) * c + s(i) * np.tanh(g)
    h = s(o) * np.tanh(c)
    return h @ p["projection_weight"] if "projection_weight" in p else h, c


def gru_step(p, x, h):
    width = len(h)
    a, u = x @ p["input_weight"] + p.get("bias", 0), h @ p["recurrent_weight"]
    r, z = (s((a + u)[k * width : (k + 1) * width]) for k in range(2))
    n = np.tanh(a[2 * width :] + r * (u[2 * width :] + p.get("recurrent_bias", 0)))
    return (1 - z) * n + z * h


def walk(step, p, x, there, carry):
    """Run one sequence (T, I) through what the parameters nest."""
    if isinstance(p, tuple):
        out = []
        for i, layer in enumerate(p):
            x, last = walk(step, layer, x, there, carry and carry[i])
            out.append(last)
        return x, tuple(out)
    if "forward" in p:
        parts = {name: carry and carry[name] for name in p}
        y, first = walk(step, p["forward"], x, there, parts["forward"])
        back, last = walk(step, p["backward"], x[::-1], there[::-1], parts["backward"])
        return np.concatenate([y, back[::-1]], -1), {"forward": first, "backward": last}
    width, columns = p["recurrent_weight"].shape
    if carry is None:
        start = np.zeros(width)
        carry = (start, np.zeros(columns // 4)) if step is lstm_step else start
    y = np.zeros((len(x), width))
    for t in range(len(x)):
        if there[t]:
            carry = step(p, x[t], carry)
            y[t] = carry[0] if isinstance(carry, tuple) else carry
    return y, carry


def formula(step):
    def run(params, state, x):
        whole = x if isinstance(x, fnn.Sequence) else fnn.Sequence(x)
        values, lengths, carry = whole
        there = np.ones(values.shape[:2], bool) if lengths is None else np.asarray(lengths)
        if there.ndim == 1:
            there = np.arange(values.shape[1]) < there[:, None]
        ys, carries = [], []
        for b in range(len(values)):
            start = jax.tree.map(lambda a, b=b: a[b], carry)
            y, last = walk(step, params, values[b], there[b], start)
            ys.append(y)
            carries.append(last)
        y = np.stack(ys)
        if whole is not x:
            return y
        last = None if carry is None else jax.tree.map(lambda *a: np.stack(a), *carries)
        return fnn.Sequence(y, lengths, last)

    return run


def cell_formula(step):
    def run(params, state, x):
        pairs = [
            step(params, x[1][b], jax.tree.map(lambda a, b=b: a[b], x[0])) for b in range(len(x[1]))
        ]
        carry = jax.tree.map(lambda *a: np.stack(a), *pairs)
        return carry, carry[0] if isinstance(carry, tuple) else carry

    return run


def sequence(lengths=None, like=None):
    """Draw a padded batch; `like` is a tree of the widths of a carry, 0 for H."""

    def draw(random: Any, shape: Any) -> Any:
        values = random.normal(size=shape)
        carry = jax.tree.map(lambda width: random.normal(size=(shape[0], width or H)), like)
        return fnn.Sequence(values, lengths, carry)

    return draw


def pair(like):
    def draw(random: Any, shape: Any) -> Any:
        carry = jax.tree.map(lambda width: random.normal(size=(shape[0], width or H)), like)
        return carry, random.normal(size=shape)

    return draw


def last_there(p, state, x):
    whole = x if isinstance(x, fnn.Sequence) else fnn.Sequence(x, np.full(len(x), x.shape[1]))
    return np.stack([row[n - 1] for row, n in zip(whole.values, whole.lengths, strict=True)])


def last_of_mask(p, state, x):
    return np.stack([row[there][-1] for row, there in zip(x.values, x.lengths, strict=True)])


TWO_WAYS = {"forward": 0, "backward": 0}
# A factor of 100 would saturate every gate.
LAYERS = [
    LayerCase("rnn", lambda: fnn.rnn(H), formula(rnn_step(np.tanh)), PLAIN, large=3),
    LayerCase(
        "rnn-relu-lengths",
        lambda: fnn.rnn(H, activation="relu", unroll=3, recurrent_initializer=NORMAL),
        formula(rnn_step(relu)),
        PLAIN,
        draw=sequence(LENGTHS),
        large=3,
        kink=True,
    ),
    LayerCase("lstm", lambda: fnn.lstm(H, forget_bias=0.5), formula(lstm_step), SHAPES, large=3),
    LayerCase(
        "lstm-carry-lengths-no-bias",
        lambda: fnn.lstm(H, bias=False, initializer=NORMAL),
        formula(lstm_step),
        PLAIN,
        draw=sequence(LENGTHS, (0, 0)),
        large=3,
    ),
    LayerCase(
        "lstm-mask",
        lambda: fnn.lstm(H),
        formula(lstm_step),
        PLAIN,
        draw=sequence(MASK),
        large=3,
    ),
    LayerCase(
        "lstm-projection-carry-lengths",
        lambda: fnn.lstm(3, projection=H),
        formula(lstm_step),
        PLAIN,
        draw=sequence(LENGTHS, (H, 3)),
        large=3,
    ),
    LayerCase(
        "lstm-projection-stacked-bidirectional",
        lambda: fnn.lstm(3, projection=H, layers=2, bidirectional=True, bias=False),
        formula(lstm_step),
        PLAIN,
        large=3,
    ),
    LayerCase(
        "rnn-stacked-bidirectional-carry-lengths",
        lambda: fnn.rnn(H, layers=2, bidirectional=True),
        formula(rnn_step(np.tanh)),
        PLAIN,
        draw=sequence(LENGTHS, (TWO_WAYS, TWO_WAYS)),
        large=3,
    ),
    LayerCase("gru", lambda: fnn.gru(H), formula(gru_step), PLAIN, large=3),
    LayerCase(
        "gru-carry-lengths-no-bias",
        lambda: fnn.gru(H, bias=False, unroll=2),
        formula(gru_step),
        PLAIN,
        draw=sequence(LENGTHS, 0),
        large=3,
    ),
    LayerCase(
        "lstm-truncate-mask",
        lambda: fnn.lstm(H, truncate=2),
        formula(lstm_step),
        PLAIN,
        draw=sequence(MASK, (0, 0)),
        large=3,
        surrogate=True,
    ),
    LayerCase(
        "rnn_cell",
        lambda: fnn.rnn_cell(H, activation="relu"),
        cell_formula(rnn_step(relu)),
        CELL,
        draw=pair(0),
        large=3,
        kink=True,
    ),
    LayerCase(
        "lstm_cell",
        lambda: fnn.lstm_cell(H, forget_bias=0.5),
        cell_formula(lstm_step),
        CELL,
        draw=pair((0, 0)),
        large=3,
    ),
    LayerCase(
        "lstm_cell-projection",
        lambda: fnn.lstm_cell(3, projection=H),
        cell_formula(lstm_step),
        CELL,
        draw=pair((H, 3)),
        large=3,
    ),
    LayerCase(
        "gru_cell", lambda: fnn.gru_cell(H), cell_formula(gru_step), CELL, draw=pair(0), large=3
    ),
    LayerCase("last_step", fnn.last_step, last_there, SHAPES),
    LayerCase(
        "last_step-lengths",
        fnn.last_step,
        last_there,
        PLAIN,
        draw=sequence(LENGTHS, (0, 0)),
    ),
    LayerCase("last_step-mask", fnn.last_step, last_of_mask, PLAIN, draw=sequence(MASK)),
]
