"""Time a training step of the convolutional network of cnn_peers.py, ours and theirs.

On Fashion-MNIST, or where it is not installed on images of its shape drawn at random; batches of
128, plain SGD. ``cnn manual / ...`` is our compiled step by hand, in a Python loop as the others
are: our own by autodiff, plain JAX, the peers. ``cnn fit / ...`` is a step by hand in `fnn.fit`, as
fnn trains: several in one dispatch, whose memory is taken from the system once.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from cnn_peers import MAKERS
from measure import Row, compared, interleaved, picked

import fnn

RATE, BATCH_SIZE, ROUNDS, FIT_STEPS = 0.01, 128, 25, 16


def network() -> fnn.Layer:
    he = jax.nn.initializers.he_normal()
    return fnn.serial(
        fnn.conv(32, 3, initializer=he),
        fnn.relu(),
        fnn.conv(64, 3, initializer=he),
        fnn.relu(),
        fnn.max_pool(2),
        fnn.flatten(),
        fnn.dense(128, initializer=he),
        fnn.relu(),
        fnn.dense(10),
    )


def clothes(count: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        x, label = fnn.datasets.fashion_mnist().train
    except fnn.InputError as error:
        print(f"images at random: {error}\n")
        random = np.random.default_rng(0)
        x, label = random.integers(0, 256, (count, 28, 28)), random.integers(0, 10, count)
    return x[:count, ..., None].astype(np.float32) / 255, label[:count].astype(np.int32)


def compiled(gradient: Any, x: np.ndarray, label: np.ndarray) -> tuple[Any, Any]:
    """Return a step of ours, compiled, and the state it starts from."""
    model, rule = network(), fnn.optim.sgd(RATE)
    step = jax.jit(
        fnn.train_step(model, fnn.losses.cross_entropy(), rule, gradient), donate_argnums=0
    )
    start = fnn.init_train_state(model, rule, x, key=jax.random.key(0))
    return step.lower(start, (x, label)).compile(), start


def looped(step: Any, train_state: Any, x: np.ndarray, label: np.ndarray) -> Callable[[], float]:
    batch = jax.device_put((x, label))

    def run() -> float:
        nonlocal train_state
        train_state, metrics = step(train_state, batch)
        jax.block_until_ready(train_state)
        return float(metrics["loss"])

    return run


def fitted(x: np.ndarray, label: np.ndarray) -> Callable[[], tuple[float, float]]:
    """Return a function that fits from the start, and returns its loss and seconds a step."""
    data = tuple(np.concatenate([part] * FIT_STEPS) for part in (x, label))

    def run() -> tuple[float, float]:
        _, history = fnn.fit(
            network(), fnn.losses.cross_entropy(), fnn.optim.sgd(RATE), data,
            epochs=2, batch_size=BATCH_SIZE, key=jax.random.key(0),
        )  # fmt: skip
        return float(history.loss[-1]), history.run_seconds / len(history.loss)

    return run


def rows(options: argparse.Namespace) -> list[Row]:
    others = [
        name
        for name in ("auto", *MAKERS)
        if picked(f"cnn manual / {name}", options) or picked(f"cnn fit / {name}", options)
    ]
    if not others:
        return []
    x, label = clothes(BATCH_SIZE)
    own = {gradient: compiled(gradient, x, label) for gradient in ("manual", "auto")}
    steps = {name: looped(*own[name], x, label) for name in own if name in ("manual", *others)}
    for name in others:
        try:
            if name in MAKERS:
                steps[name] = MAKERS[name](RATE, x, label)
        except ImportError as error:
            print(f'{name}: no {error.name} installed; pip install "fnn[bench]"')
    fit = fitted(x, label)
    first = {name: step() for name, step in steps.items()}
    last: dict[str, float] = {}

    def timed(name: str) -> float:
        if name == "fit":
            last[name], seconds = fit()
            return seconds
        began = time.perf_counter()
        last[name] = steps[name]()
        return time.perf_counter() - began

    functions = {name: functools.partial(timed, name) for name in ("fit", *steps)}
    seconds = interleaved(functions, max(options.rounds, ROUNDS))
    for name, value in last.items():
        if not value < first.get(name, first["manual"]):
            raise SystemExit(f"cnn {name} has learnt nothing: its loss is {value}")
    manual, auto = (own[way][0].memory_analysis().temp_size_in_bytes for way in ("manual", "auto"))
    found = []
    for ours, name in [(ours, name) for ours in ("manual", "fit") for name in steps]:
        if name == "manual":
            continue
        size = f"28x28x1, batch {BATCH_SIZE}"
        row = compared(f"cnn {ours} / {name}", size, seconds[ours], seconds[name])
        row |= {"family": "cnn", "manual_ms": row["ours_ms"], f"{name}_ms": row["other_ms"]}
        if name == "auto" and ours == "manual":
            row |= {"memory_ratio": manual / auto, "manual_bytes": manual, "auto_bytes": auto}
        found.append(row)
    return found
