"""Time a step of training in `fnn.fit` against the same training written with other tools.

- ``fit manual / plain jax``, ``fit auto / plain jax``: the network of the main job (784-256-128-10,
  batch_norm, relu, dropout 0.2, gradient noise, SGD with momentum, batches of 128 and a last one of
  32) on the digits that come with fnn, against plain.py, which is as compiled as fnn.
- ``cnn: ...``: a convolutional network on Fashion-MNIST, or where it is not installed on images of
  its shape drawn at random; batches of 128. ``lstm: ...``: 256 units of long short-term memory, 100
  steps, 64 sequences. Against those of cnn_peers.py and lstm_peers.py, see network_step.py.
- ``fit / ...``: a small perceptron (64-32-10, batches of 32), where the step costs little and
  the loop around it most, against the Python loops of peers.py.

Milliseconds a step, medians over rounds in which all take turns; compilation is left out.
time_ratio is ours over the other's, below 1 where fnn is faster; call_ms is our whole call over its
steps: checks, copies and the lookup of the compiled program included. In `fit` the shuffling is
included, as in plain.py; the Python loops get their batches ready-made.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import cnn_peers
import jax
import lstm_peers
import numpy as np
from measure import Row, arguments, compared, interleaved, machine, picked, report, write
from network_step import Batch, Network, network_rows
from peers import MAKERS
from plain import init, run_epoch

import fnn

COLUMNS = ("name", "size", "time_ratio", "memory_ratio", "ours_ms", "other_ms", "call_ms")
EPOCHS, BATCH_SIZE = 4, 128
SMALL, SMALL_RATE, SMALL_BATCH, SMALL_EXAMPLES = (64, 32, 10), 0.1, 32, 2048
SMALL_EPOCHS, LOOP_EPOCHS, NETWORK_ROUNDS = 20, 4, 25


def main_network() -> fnn.Layer:
    layers: list[fnn.Layer] = []
    for width in (256, 128):
        dense = fnn.dense(width, initializer=jax.nn.initializers.he_normal())
        layers += [dense, fnn.batch_norm(), fnn.relu(), fnn.dropout(0.2)]
    return fnn.serial(*layers, fnn.dense(10))


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


def timed_fit(walls: list[float], losses: list[float], *of: Any, **settings: Any) -> float:
    """Return the seconds that `fit` ran; note those of the whole call, and the loss it reached."""
    began = time.perf_counter()
    _, history = fnn.fit(*of, **settings)
    walls.append(time.perf_counter() - began)
    losses.append(float(history.epoch_loss[-1]))
    return history.run_seconds


def main_rows(options: argparse.Namespace) -> list[Row]:
    names = [g for g in ("manual", "auto") if picked(f"fit {g} / plain jax", options)]
    if not names:
        return []
    images, labels = fnn.datasets.digits().train
    images = images.reshape(len(images), -1).astype(np.float32) / 255
    on_device = jax.device_put((images, labels))
    model, loss = main_network(), fnn.losses.cross_entropy()
    optimizer = fnn.optim.chain(
        fnn.optim.gradient_noise(1e-4, 0.55, key=jax.random.key(1)),
        fnn.optim.sgd(0.1, momentum=0.9),
    )
    walls: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, list[float]] = {name: [] for name in (*names, "plain")}

    def ours(gradient: Any) -> Callable[[], float]:
        return lambda: timed_fit(
            walls[gradient], losses[gradient], model, loss, optimizer, (images, labels),
            epochs=EPOCHS, batch_size=BATCH_SIZE, key=jax.random.key(0), gradient=gradient,
        )  # fmt: skip

    def plain() -> float:
        key = jax.random.key(0)
        carry = jax.block_until_ready(init(key, (784, 256, 128, 10)))
        began = time.perf_counter()
        history = []
        for epoch in range(EPOCHS):
            carry, values = run_epoch(carry, *on_device, key, epoch, batch_size=BATCH_SIZE)
            history.append(values)
        jax.block_until_ready((carry, history))
        seconds = time.perf_counter() - began
        losses["plain"].append(float(history[-1].mean()))
        return seconds

    functions = {name: ours(name) for name in names} | {"plain": plain}
    seconds = interleaved(functions, options.rounds)
    reached = losses["plain"][-1]
    for name in names:
        # Another stream of random numbers, another loss; training gone wrong is further off.
        if not abs(losses[name][-1] - reached) < 0.3 * reached:
            raise SystemExit(
                f"fit {name} reached a loss of {losses[name][-1]}, plain jax {reached}"
            )
    steps = EPOCHS * -(-len(images) // BATCH_SIZE)
    return [
        compared(
            f"fit {name} / plain jax", "784-256-128-10", seconds[name], seconds["plain"], steps,
            call_ms=1e3 * median(walls[name][1:]) / steps,
        )
        for name in names
    ]  # fmt: skip


def small_rows(options: argparse.Namespace) -> list[Row]:
    random = np.random.default_rng(0)
    x = random.normal(size=(SMALL_EXAMPLES, SMALL[0])).astype(np.float32)
    # Targets that can be learned, so that every loop can be seen to learn them.
    label = (x @ random.normal(size=(SMALL[0], SMALL[2]))).argmax(-1).astype(np.int32)
    cuts = range(0, SMALL_EXAMPLES, SMALL_BATCH)
    batches = [(x[i : i + SMALL_BATCH], label[i : i + SMALL_BATCH]) for i in cuts]
    loops, losses = {}, {}
    for name, maker in MAKERS.items():
        if picked(f"fit / {name}", options):
            try:
                loops[name] = maker(SMALL, SMALL_RATE, batches)
            except ImportError as error:
                print(f'{name}: no {error.name} installed; pip install "fnn[bench]"')
    if not loops:
        return []
    model = fnn.serial(fnn.dense(SMALL[1]), fnn.relu(), fnn.dense(SMALL[2]))
    loss, optimizer = fnn.losses.cross_entropy(), fnn.optim.sgd(SMALL_RATE)
    walls: list[float] = []
    reached: list[float] = []

    def ours() -> float:
        seconds = timed_fit(
            walls, reached, model, loss, optimizer, (x, label), epochs=SMALL_EPOCHS,
            batch_size=SMALL_BATCH, key=jax.random.key(0),
        )  # fmt: skip
        return seconds / SMALL_EPOCHS

    def theirs(name: str) -> Callable[[], float]:
        def run() -> float:
            began = time.perf_counter()
            for _ in range(LOOP_EPOCHS):
                losses[name] = loops[name]()
            return (time.perf_counter() - began) / LOOP_EPOCHS

        return run

    # Seconds of an epoch, the mean of several; `fit` gets more, since its epochs are short.
    seconds = interleaved({"fit": ours} | {name: theirs(name) for name in loops}, options.rounds)
    untrained = np.log(SMALL[2])
    for name, value in {"fit": reached[-1], **losses}.items():
        if not value < 0.9 * untrained:
            raise SystemExit(f"{name} has learnt nothing: its loss is {value}")
    steps = len(batches)
    call_ms = 1e3 * median(walls[1:]) / (SMALL_EPOCHS * steps)
    size = "-".join(map(str, SMALL))
    return [
        compared(f"fit / {name}", size, seconds["fit"], seconds[name], steps, call_ms=call_ms)
        for name in loops
    ]


def main() -> None:
    options = arguments(__doc__, rounds=15)
    print(f"{machine()}\n")
    rows = main_rows(options) + small_rows(options)
    # Memory taken from the system makes these steps vary.
    options.rounds = max(options.rounds, NETWORK_ROUNDS)
    for name, network in NETWORKS.items():
        rows += network_rows(name, network, options)
    report(rows, COLUMNS)
    write(rows, options.json)


if __name__ == "__main__":
    main()
