"""Time a sweep as one call of `fnn.sweep` against the same runs one after the other.

384 runs: 32 seeds, 4 learning rates and 3 sizes of gradient noise, of a perceptron 784-32-10 on
4,000 of the digits that come with fnn, 3 epochs of batches of 32.

- ``sweep / fit calls``: a loop over `fnn.fit`, which compiles once too.
- ``sweep / PyTorch``, ``sweep / flax nnx``: the loops of peers.py, a new model for every run. They
  shuffle nothing and add no noise.
- ``sweep / vmap``, ``turn``: the other ways that `fnn.sweep` has.
- ``sweep / map with a folder``: the same, every program of 64 runs written when it is done.

Seconds for all runs, compilation included: everything is done once a round, from an empty cache of
programs. The loops of others take a share of the runs, and the time of all is scaled from it.
time_ratio is ours over the other's, below 1 where the sweep is faster.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from measure import Row, arguments, compared, interleaved, machine, picked, report, write
from peers import MAKERS

import fnn

COLUMNS = ("name", "size", "time_ratio", "ours_s", "other_s")
POINTS = {"learning_rate": [0.01, 0.03, 0.1, 0.3], "noise": [0.0, 1e-4, 1e-3], "seed": range(32)}
EPOCHS, BATCH_SIZE = 3, 32
# The loops of peers are run for one run in so many.
SHARE = 16


def digits() -> tuple[np.ndarray, np.ndarray]:
    images, labels = fnn.datasets.digits().train
    return images.reshape(len(images), -1).astype(np.float32) / 255, labels


def build(learning_rate: float, noise: float) -> tuple[fnn.Layer, fnn.Loss, Any]:
    model = fnn.serial(fnn.dense(32), fnn.relu(), fnn.dense(10))
    noisy = fnn.optim.gradient_noise(noise, key=jax.random.key(1)) if noise else None
    sgd = fnn.optim.sgd(learning_rate)
    optimizer = sgd if noisy is None else fnn.optim.chain(noisy, sgd)
    return model, fnn.losses.cross_entropy(), optimizer


def swept(how: str, *, kept: bool = False) -> Callable[[], float]:
    data = digits()

    def run() -> float:
        jax.clear_caches()
        began = time.perf_counter()
        options = {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "how": how}
        with tempfile.TemporaryDirectory() as folder:
            options["folder"] = folder if kept else None
            result = fnn.sweep(build, POINTS, data, **options)
        seconds = time.perf_counter() - began
        if any(history.stopped for history in result.histories):
            raise SystemExit("a run lost its numbers")
        return seconds

    return run


def fit_calls() -> float:
    data = digits()
    jax.clear_caches()
    began = time.perf_counter()
    for point in fnn.train.grid(POINTS):
        model, loss, optimizer = build(point["learning_rate"], point["noise"])
        fnn.fit(
            model, loss, optimizer, data, epochs=EPOCHS, batch_size=BATCH_SIZE,
            key=jax.random.key(point["seed"]),
        )  # fmt: skip
    return time.perf_counter() - began


def peers(name: str) -> Callable[[], float]:
    x, labels = digits()
    cuts = range(0, len(x), BATCH_SIZE)
    batches = [(x[i : i + BATCH_SIZE], labels[i : i + BATCH_SIZE]) for i in cuts]
    points = fnn.train.grid(POINTS)[::SHARE]

    def run() -> float:
        jax.clear_caches()
        began = time.perf_counter()
        for point in points:
            loop = MAKERS[name]((784, 32, 10), point["learning_rate"], batches)
            for _ in range(EPOCHS):
                loop()
        return (time.perf_counter() - began) * SHARE

    return run


def rows(options: argparse.Namespace) -> list[Row]:
    others: dict[str, Callable[[], float]] = {"fit calls": fit_calls}
    others |= {"PyTorch": peers("pytorch"), "flax nnx": peers("flax nnx")}
    others |= {how: swept(how) for how in ("vmap", "turn")}
    others["map with a folder"] = swept("map", kept=True)
    chosen = {name: run for name, run in others.items() if picked(f"sweep / {name}", options)}
    seconds = interleaved(chosen | {"map": swept("map")}, options.rounds)
    count = len(fnn.train.grid(POINTS))
    found = []
    for name in chosen:
        row = compared(f"sweep / {name}", f"{count} runs", seconds["map"], seconds[name])
        found.append(row | {"ours_s": row["ours_ms"] / 1e3, "other_s": row["other_ms"] / 1e3})
    return found


def main() -> None:
    options = arguments(__doc__, rounds=1)
    print(f"{machine()}\n")
    found = rows(options)
    report(found, COLUMNS)
    write(found, options.json)


if __name__ == "__main__":
    main()
