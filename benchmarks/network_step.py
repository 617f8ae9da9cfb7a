"""Time a training step of two networks, ours and those of cnn_peers.py and lstm_peers.py.

``cnn``: the convolutional network, on Fashion-MNIST, or where it is not installed on images of its
shape drawn at random; batches of 128. ``lstm``: 256 units of long short-term memory, 100 steps, 64
sequences. Plain SGD. ``... manual / ...`` is our compiled step by hand, in a Python loop as the
others are: our own by autodiff, plain JAX, the peers. ``... fit / ...`` is a step by hand in
`fnn.fit`, as fnn trains: several in one dispatch, whose memory is taken from the system once.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import cnn_peers
import jax
import lstm_peers
import numpy as np
from measure import Row, compared, interleaved, picked

import fnn
from fnn.losses import Loss

Batch = tuple[np.ndarray, np.ndarray]
ROUNDS, FIT_STEPS = 25, 16


class Network(NamedTuple):
    """One of ours, and its makers in other libraries."""

    size: str
    model: Callable[[], fnn.Layer]
    batch: Callable[[], Batch]
    rate: float
    makers: dict[str, Any]
    loss: Loss = fnn.losses.cross_entropy()


def cnn() -> fnn.Layer:
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


def clothes(count: int = 128) -> Batch:
    try:
        x, label = fnn.datasets.fashion_mnist().train
    except fnn.InputError as error:
        print(f"images at random: {error}\n")
        random = np.random.default_rng(0)
        x, label = random.integers(0, 256, (count, 28, 28)), random.integers(0, 10, count)
    return x[:count, ..., None].astype(np.float32) / 255, label[:count].astype(np.int32)


def lstm() -> fnn.Layer:
    return fnn.serial(fnn.lstm(lstm_peers.WIDTH), fnn.dense(lstm_peers.CLASSES))


def sequences() -> Batch:
    """Return sequences drawn at random; a label of a step tells the largest of its first inputs."""
    x = np.random.default_rng(0).normal(size=(64, 100, lstm_peers.INPUTS)).astype(np.float32)
    return x, x[..., : lstm_peers.CLASSES].argmax(-1).astype(np.int32)


NETWORKS = {
    "cnn": Network("28x28x1, batch 128", cnn, clothes, 0.01, cnn_peers.MAKERS),
    "lstm": Network("T 100, batch 64, 128-256-10", lstm, sequences, 0.1, lstm_peers.MAKERS),
}


def compiled(network: Network, gradient: Any, batch: Batch) -> tuple[Any, Any]:
    """Return a step of ours, compiled, and the state it starts from."""
    model, optimizer = network.model(), fnn.optim.sgd(network.rate)
    step = jax.jit(fnn.train_step(model, network.loss, optimizer, gradient), donate_argnums=0)
    start = fnn.init_train_state(model, optimizer, batch[0], key=jax.random.key(0))
    return step.lower(start, batch).compile(), start


def looped(step: Any, train_state: Any, batch: Batch) -> Callable[[], float]:
    on_device = jax.device_put(batch)

    def run() -> float:
        nonlocal train_state
        train_state, metrics = step(train_state, on_device)
        jax.block_until_ready(train_state)
        return float(metrics["loss"])

    return run


def fitted(network: Network, batch: Batch) -> Callable[[], tuple[float, float]]:
    """Return a function that fits from the start, and returns its loss and seconds a step."""
    data = tuple(np.concatenate([part] * FIT_STEPS) for part in batch)

    def run() -> tuple[float, float]:
        _, history = fnn.fit(
            network.model(), network.loss, fnn.optim.sgd(network.rate), data,
            epochs=2, batch_size=len(batch[0]), key=jax.random.key(0),
        )  # fmt: skip
        return float(history.loss[-1]), history.run_seconds / len(history.loss)

    return run


def rows(options: argparse.Namespace) -> list[Row]:
    return [row for name in NETWORKS for row in network_rows(name, options)]


def network_rows(name: str, options: argparse.Namespace) -> list[Row]:
    network = NETWORKS[name]
    others = [
        other
        for other in ("auto", *network.makers)
        if any(picked(f"{name} {ours} / {other}", options) for ours in ("manual", "fit"))
    ]
    if not others:
        return []
    batch = network.batch()
    own = {gradient: compiled(network, gradient, batch) for gradient in ("manual", "auto")}
    steps = {way: looped(*own[way], batch) for way in own if way in ("manual", *others)}
    for other in others:
        try:
            if other in network.makers:
                steps[other] = network.makers[other](network.rate, *batch)
        except ImportError as error:
            print(f'{other}: no {error.name} installed; pip install "fnn[bench]"')
    fit = fitted(network, batch)
    first = {way: step() for way, step in steps.items()}
    last: dict[str, float] = {}

    def timed(way: str) -> float:
        if way == "fit":
            last[way], seconds = fit()
            return seconds
        began = time.perf_counter()
        last[way] = steps[way]()
        return time.perf_counter() - began

    functions = {way: functools.partial(timed, way) for way in ("fit", *steps)}
    seconds = interleaved(functions, max(options.rounds, ROUNDS))
    for way, value in last.items():
        if not value < first.get(way, first["manual"]):
            raise SystemExit(f"{name} {way} has learnt nothing: its loss is {value}")
    manual, auto = (own[way][0].memory_analysis().temp_size_in_bytes for way in ("manual", "auto"))
    found = []
    for ours, other in [(ours, other) for ours in ("manual", "fit") for other in steps]:
        if other == "manual":
            continue
        row = compared(f"{name} {ours} / {other}", network.size, seconds[ours], seconds[other])
        row |= {"family": name, "manual_ms": row["ours_ms"], f"{other}_ms": row["other_ms"]}
        if other == "auto" and ours == "manual":
            row |= {"memory_ratio": manual / auto, "manual_bytes": manual, "auto_bytes": auto}
        found.append(row)
    return found
