"""What times a training step of a network: by hand, by autodiff, in `fit`, and in other libraries.

A row is fnn over another: ``NAME: step / OTHER`` is our compiled step by hand in a Python loop, as
the others are, ``NAME: fit / OTHER`` the same in `fnn.fit`, several steps in one dispatch, as fnn
trains, whose memory is taken from the system once. Plain SGD, every way on the same batch; a way
whose loss does not fall is an error. Milliseconds a step, medians over rounds in which all take
turns.

compile_s is what tracing and compiling took, other_compile_s that of the other: of ours medians of
rounds in which manual and auto take turns, of others a first step less a later one. memory_ratio is
that of bytes beyond parameters and batch, temporary ones of our program over those of the program
by autodiff, or the peak of tensors in PyTorch. batch_in_1_gb is the largest batch that trains in
1 GiB by hand, parameters included, other_batch_in_1_gb by the other: a straight line through the
memory of two sizes.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import jax
import numpy as np
from measure import Row, compared, interleaved, picked

import fnn
from fnn.losses import Loss

__all__ = ["COLUMNS", "Batch", "Network", "network_rows"]

Batch = tuple[np.ndarray, np.ndarray]
GIB, FIT_STEPS, COMPILES = 2**30, 16, 3
COLUMNS = (
    "name", "size", "mode", "time_ratio", "ours_ms", "other_ms", "compile_s", "other_compile_s",
    "memory_ratio", "batch_in_1_gb", "other_batch_in_1_gb",
)  # fmt: skip


class Network(NamedTuple):
    """One of ours, and its makers in other libraries, ``(rate, *batch) -> loop``."""

    size: str
    model: Callable[[], fnn.Layer]
    batch: Callable[[], Batch]
    rate: float
    makers: dict[str, Any]
    loss: Loss = fnn.losses.cross_entropy()


def step_and_start(network: Network, gradient: Any, batch: Batch) -> tuple[Any, Any]:
    """Return a step of ours, to be compiled, and the state it starts from."""
    model, optimizer = network.model(), fnn.optim.sgd(network.rate)
    step = jax.jit(fnn.train_step(model, network.loss, optimizer, gradient), donate_argnums=0)
    return step, fnn.init_train_state(model, optimizer, batch[0], key=jax.random.key(0))


def compiling(step: Any, start: Any, batch: Batch) -> Callable[[], None]:
    def run() -> None:
        jax.clear_caches()
        step.lower(start, batch).compile()

    return run


def looped(step: Any, train_state: Any, batch: Batch) -> Callable[[], float]:
    on_device = jax.device_put(batch)

    def run() -> float:
        nonlocal train_state
        train_state, metrics = step(train_state, on_device)
        jax.block_until_ready(train_state)
        return float(metrics["loss"])

    return run


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
    loop = network.makers["pytorch"](network.rate, *batch)
    peak = importlib.import_module("torch_side").peak_bytes({"step": loop})["step"]
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
        self.add_own(["manual", *({"auto"} & set(others))])
        for other in others:
            try:
                if other in network.makers:
                    self.add_other(other)
            except ImportError as error:
                print(f'{other}: no {error.name} installed; pip install "fnn[bench]"')
        self.fit = fitted(network, batch)
        _, _, self.compile_seconds["fit"] = self.fit()

    def add_own(self, gradients: Sequence[str]) -> None:
        made = {way: step_and_start(self.network, way, self.batch) for way in gradients}
        runs = {way: compiling(*made[way], self.batch) for way in gradients}
        compiling_seconds = interleaved(runs, COMPILES)
        for way, (step, start) in made.items():
            self.compile_seconds[way] = median(compiling_seconds[way])
            compiled = step.lower(start, self.batch).compile()
            double = step.lower(start, twice(self.batch)).compile()
            self.memory[way], whole = memory_of(compiled)
            self.largest[way] = largest_batch(len(self.batch[0]), whole, memory_of(double)[1])
            self.steps[way] = looped(compiled, start, self.batch)
            self.first[way] = self.steps[way]()

    def add_other(self, other: str) -> None:
        if other == "pytorch":
            self.memory[other], whole = memory_of_torch(self.network, self.batch)
            _, double = memory_of_torch(self.network, twice(self.batch))
            self.largest[other] = largest_batch(len(self.batch[0]), whole, double)
        step = self.network.makers[other](self.network.rate, *self.batch)
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


def network_rows(name: str, network: Network, options: argparse.Namespace) -> list[Row]:
    """Return the rows of a network that are asked for."""
    others = [
        other
        for other in ("auto", *network.makers)
        if any(picked(f"{name}: {mode} / {other}", options) for mode in ("step", "fit"))
    ]
    if not others:
        return []
    rows = Measured(network, others).rows(name, options.rounds)
    return [row for row in rows if picked(row["name"], options)]
