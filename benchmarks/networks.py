"""Time a training step of seven networks: by hand, by autodiff, in `fit`, and in other libraries.

A row is fnn over another: ``step`` is our compiled step by hand in a Python loop, as the others
are, ``fit`` the same in `fnn.fit`, several steps in one dispatch, as fnn trains. ``auto`` is our
step by autodiff; the others are PyTorch at its best in eager mode (all cores, channels last, fused
attention), Flax NNX, Equinox and plain JAX. Plain SGD, data drawn at random, every way on the same
batch; a way whose loss does not fall is an error. Milliseconds a step, medians over rounds in which
all take turns.

compile_s is what compilation took, other_compile_s that of the other, tracing included;
memory_ratio is that of bytes beyond parameters and batch, temporary ones of our program over those
of the program by autodiff, or the peak of tensors in PyTorch. batch_in_1_gb is the largest batch
that trains in 1 GiB by hand, parameters included, other_batch_in_1_gb by the other: a straight line
through the memory of two sizes.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import network_peers as peers
import numpy as np
from loops import LossName
from measure import Row, arguments, compared, interleaved, machine, picked, report, watched, write
from network_step import Batch, Network, compiled, looped
from torch_side import at_its_best, peak_bytes

import fnn

COLUMNS = (
    "name", "size", "mode", "time_ratio", "ours_ms", "other_ms", "compile_s", "other_compile_s",
    "memory_ratio", "batch_in_1_gb", "other_batch_in_1_gb",
)  # fmt: skip
GIB, FIT_STEPS = 2**30, 8
IMAGE, PATCH, CLASSES, VOCABULARY = 32, 4, 10, 256
WIDTH, DEPTH = 128, 4
PIXELS = (784, 512, 128, 512, 784)


def resnet() -> fnn.Layer:
    return fnn.networks.resnet((2, 2, 2), CLASSES, width=32, stem="cifar")


def convolution(channels: int) -> fnn.Layer:
    return fnn.serial(fnn.conv(channels, 3), fnn.relu())


def level(channels: int, depth: int) -> fnn.Layer:
    if not depth:
        return convolution(channels)
    below = fnn.serial(fnn.max_pool(2), level(2 * channels, depth - 1), fnn.upsample(2))
    around = fnn.serial(fnn.parallel(skip=fnn.identity(), below=below), fnn.concatenate())
    return fnn.serial(convolution(channels), around, convolution(channels))


def unet() -> fnn.Layer:
    return fnn.serial(level(16, 2), fnn.conv(2, 1))


def vit() -> fnn.Layer:
    return fnn.networks.vit(
        CLASSES, image=IMAGE, patch=PATCH, width=WIDTH, depth=DEPTH, heads=peers.HEADS
    )


def gpt() -> fnn.Layer:
    return fnn.serial(
        fnn.embedding(VOCABULARY, WIDTH), fnn.positional("learned", WIDTH),
        fnn.repeat(fnn.transformer_block(peers.HEADS, causal=True), DEPTH),
        fnn.layer_norm(), fnn.dense(VOCABULARY),
    )  # fmt: skip


def lstm() -> fnn.Layer:
    return fnn.serial(fnn.embedding(VOCABULARY, WIDTH), fnn.lstm(2 * WIDTH), fnn.dense(VOCABULARY))


def turned(x: Any) -> Any:
    return jnp.swapaxes(x, 1, 2)


def turned_back(x: Any, dy: Any) -> Any:
    del x
    return jnp.swapaxes(dy, 1, 2)


def mixer() -> fnn.Layer:
    steps = (IMAGE // PATCH) ** 2
    swap = fnn.from_function(turned, turned_back)
    block = fnn.serial(
        fnn.residual(fnn.serial(fnn.layer_norm(), swap, fnn.mlp(2 * steps), swap)),
        fnn.residual(fnn.serial(fnn.layer_norm(), fnn.mlp(4 * WIDTH))),
    )
    return fnn.serial(
        fnn.conv(WIDTH, PATCH, stride=PATCH, padding="VALID"), fnn.reshape(-1, WIDTH),
        fnn.repeat(block, DEPTH), fnn.layer_norm(), fnn.global_average_pool(), fnn.dense(CLASSES),
    )  # fmt: skip


def autoencoder() -> fnn.Layer:
    hidden = [part for width in PIXELS[1:-1] for part in (fnn.dense(width), fnn.relu())]
    return fnn.serial(*hidden, fnn.dense(PIXELS[-1]))


def images(count: int, size: int = IMAGE) -> Batch:
    random = np.random.default_rng(0)
    x = random.normal(size=(count, size, size, 3)).astype(np.float32)
    return x, random.integers(CLASSES, size=count).astype(np.int32)


def masks(count: int) -> Batch:
    """Draw blots under noise; the labels say which pixels are of a blot."""
    random = np.random.default_rng(0)
    blots = random.normal(size=(count, 8, 8)).repeat(8, 1).repeat(8, 2) > 0
    x = blots[..., None] + random.normal(size=(count, 64, 64, 1))
    return x.astype(np.float32), blots.astype(np.int32)


def text(count: int, steps: int) -> Batch:
    """Draw tokens that count on from a random one: the next is known."""
    start = np.random.default_rng(0).integers(VOCABULARY, size=(count, 1))
    tokens = (start + np.arange(steps + 1)) % VOCABULARY
    return tokens[:, :-1].astype(np.int32), tokens[:, 1:].astype(np.int32)


def noisy(count: int) -> Batch:
    random = np.random.default_rng(0)
    clean = random.uniform(size=(count, PIXELS[0])).astype(np.float32)
    return clean + 0.3 * random.normal(size=clean.shape).astype(np.float32), clean


def makers(network: Callable[..., Any], *of: Any, loss: LossName = "cross_entropy") -> Any:
    """Return what makes the training loop of each other library."""

    def make(kit: Any, loop: Any, rate: float, batch: Batch) -> Any:
        own = kit()
        return loop(own.whole(network(own, *of)), rate, [batch], loss)

    return {name: functools.partial(make, *pair) for name, pair in peers.KITS.items()}


NETWORKS = {
    "residual network": Network(
        "32x32x3, batch 64", resnet, lambda: images(64), 0.05,
        makers(peers.residual_network, 32, 3, CLASSES),
    ),
    "unet": Network(
        "64x64x1, batch 16", unet, lambda: masks(16), 0.05, makers(peers.unet, 16, 2, 2),
    ),
    "vit": Network(
        "32x32x3, batch 64", vit, lambda: images(64), 0.05,
        makers(peers.vit, IMAGE, PATCH, WIDTH, DEPTH, CLASSES),
    ),
    "gpt": Network(
        "T 128, batch 16", gpt, lambda: text(16, 128), 0.05,
        makers(peers.gpt, VOCABULARY, 128, WIDTH, DEPTH),
    ),
    "lstm language model": Network(
        "T 64, batch 64", lstm, lambda: text(64, 64), 0.5,
        makers(peers.lstm, VOCABULARY, WIDTH, 2 * WIDTH),
    ),
    "mlp-mixer": Network(
        "32x32x3, batch 64", mixer, lambda: images(64), 0.05,
        makers(peers.mixer, IMAGE, PATCH, WIDTH, DEPTH, CLASSES),
    ),
    "denoising autoencoder": Network(
        "784-512-128, batch 256", autoencoder, lambda: noisy(256), 1e-3,
        makers(peers.autoencoder, PIXELS, loss="squared_error"), fnn.losses.squared_error(),
    ),
}  # fmt: skip


def twice(batch: Batch) -> Batch:
    x, target = (np.concatenate([part] * 2) for part in batch)
    return x, target


def fitted(network: Network, batch: Batch) -> Callable[[], tuple[float, float, float]]:
    """Return a function that fits: its last loss, seconds a step, and those of compiling."""
    data = tuple(np.concatenate([part] * FIT_STEPS) for part in batch)

    def run() -> tuple[float, float, float]:
        _, history = fnn.fit(
            network.model(), network.loss, fnn.optim.sgd(network.rate), data,
            epochs=1, batch_size=len(batch[0]), key=jax.random.key(0),
        )  # fmt: skip
        return float(history.loss[-1]), history.run_seconds / FIT_STEPS, history.compile_seconds

    return run


def memory_of(step: Any) -> tuple[int, int]:
    """Return the temporary bytes of a step of ours, and those of all it needs."""
    analysis = step.memory_analysis()
    temporary = analysis.temp_size_in_bytes if analysis else 0
    return temporary, temporary + (analysis.argument_size_in_bytes if analysis else 0)


def memory_of_torch(network: Network, batch: Batch) -> tuple[int, int]:
    """Return the peak of a step in PyTorch beyond parameters and batch, and with them."""
    params, _ = jax.eval_shape(network.model().init, jax.random.key(0), batch[0])
    own = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    loop = network.makers["pytorch"](network.rate, batch)
    peak = peak_bytes({"step": loop})["step"]
    return peak, peak + own + sum(part.nbytes for part in batch)


def largest_batch(count: int, one: int, two: int) -> float | None:
    """Return the batch that takes 1 GiB, by what `count` examples take, and twice as many."""
    return None if two <= one else count + (GIB - one) * count / (two - one)


class Measured:
    """All ways to train a network, compiled: steps, seconds of compiling, memory."""

    def __init__(self, network: Network, others: Sequence[str]):
        batch = network.batch()
        self.network, self.batch = network, batch
        self.compile_seconds: dict[str, float] = {}
        self.memory: dict[str, int] = {}
        self.largest: dict[str, float | None] = {}
        self.steps: dict[str, Callable[[], float]] = {}
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        for gradient in ("manual", *({"auto"} & set(others))):
            self.add_own(gradient)
        for other in others:
            try:
                if other in network.makers:
                    self.add_other(other)
            except ImportError as error:
                print(f'{other}: no {error.name} installed; pip install "fnn[bench]"')
        self.fit = fitted(network, batch)
        _, _, self.compile_seconds["fit"] = self.fit()

    def add_own(self, gradient: str) -> None:
        began = time.perf_counter()
        step, start = compiled(self.network, gradient, self.batch)
        self.compile_seconds[gradient] = time.perf_counter() - began
        double, _ = compiled(self.network, gradient, twice(self.batch))
        self.memory[gradient], whole = memory_of(step)
        count = len(self.batch[0])
        self.largest[gradient] = largest_batch(count, whole, memory_of(double)[1])
        self.steps[gradient] = looped(step, start, self.batch)
        self.first[gradient] = self.steps[gradient]()

    def add_other(self, other: str) -> None:
        if other == "pytorch":
            self.memory[other], whole = memory_of_torch(self.network, self.batch)
            _, double = memory_of_torch(self.network, twice(self.batch))
            self.largest[other] = largest_batch(len(self.batch[0]), whole, double)
        step = self.network.makers[other](self.network.rate, self.batch)
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            value = step()
            seconds.append(time.perf_counter() - began)
            self.first.setdefault(other, value)
        self.steps[other] = step
        if other != "pytorch":
            self.compile_seconds[other] = seconds[0] - min(seconds)

    def timed(self, way: str) -> float:
        """Take a step, or fit, and return the seconds of a step."""
        if way == "fit":
            self.last[way], seconds, _ = self.fit()
            return seconds
        began = time.perf_counter()
        self.last[way] = self.steps[way]()
        return time.perf_counter() - began

    def check_learnt(self, name: str) -> None:
        for way, value in self.last.items():
            if not value < self.first.get(way, self.first["manual"]):
                raise SystemExit(f"{name} {way} has learnt nothing: its loss is {value}")

    def rows(self, name: str, rounds: int) -> list[Row]:
        ways = {way: functools.partial(self.timed, way) for way in ("fit", *self.steps)}
        seconds = interleaved(ways, rounds)
        self.check_learnt(name)
        found = []
        for ours, mode in (("manual", "step"), ("fit", "fit")):
            for other in [way for way in self.steps if way != "manual"]:
                row = compared(
                    f"{name}: {mode} / {other}", self.network.size, seconds[ours], seconds[other],
                    family=name, mode=mode,
                )  # fmt: skip
                row |= {
                    "compile_s": self.compile_seconds[ours],
                    "other_compile_s": self.compile_seconds.get(other),
                    "ours_seconds": seconds[ours], "other_seconds": seconds[other],
                }  # fmt: skip
                found.append(row | (self.memory_row(other) if mode == "step" else {}))
        return found

    def memory_row(self, other: str) -> Row:
        row: Row = {"batch_in_1_gb": self.largest["manual"], "ours_bytes": self.memory["manual"]}
        if self.memory.get(other):
            row |= {
                "memory_ratio": self.memory["manual"] / self.memory[other],
                "other_bytes": self.memory[other],
                "other_batch_in_1_gb": self.largest[other],
            }
        return row


def network_rows(name: str, options: argparse.Namespace) -> list[Row]:
    network = NETWORKS[name]
    others = [
        other
        for other in ("auto", *network.makers)
        if any(picked(f"{name}: {mode} / {other}", options) for mode in ("step", "fit"))
    ]
    if not others:
        return []
    rows = Measured(network, others).rows(name, options.rounds)
    return [row for row in rows if picked(row["name"], options)]


def summarize(rows: Sequence[Row]) -> None:
    for mode in ("step", "fit"):
        for other in ("auto", *peers.KITS):
            ratios = [
                row["time_ratio"] for row in rows if row["name"].endswith(f": {mode} / {other}")
            ]
            if ratios:
                mean = float(np.exp(np.log(ratios).mean()))
                print(f"{mode} / {other}: geometric mean of time {mean:.3f} over {len(ratios)}")
    compiling = [row["compile_s"] / row["other_compile_s"] for row in rows
                 if row["name"].endswith(": step / auto")]  # fmt: skip
    if compiling:
        print(f"compiling by hand takes {median(compiling):.2f} of the time by autodiff (median)")


def main() -> None:
    options = arguments(__doc__, rounds=9)
    at_its_best()
    print(f"{machine()}\n")
    rows: list[Row] = []
    try:
        for name in watched(NETWORKS):
            rows += network_rows(name, options)
    finally:
        # What has been measured is not lost by what fails.
        report(rows, COLUMNS)
        print()
        summarize(rows)
        write(rows, options.json)


if __name__ == "__main__":
    main()
