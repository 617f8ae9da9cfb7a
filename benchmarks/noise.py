"""What noise costs: a noisy step over the plain one, and over the noisy one of optax.

The network 784-256-128-10 on batches of 128, many steps of `fnn.train_step` in one dispatch. Every
row is one optimizer over another in the same loop, `time_ratio` the quotient. Rows named
``/ plain`` divide by plain descent, ``/ optax noisy_sgd`` by optax. Below them stand the rows of
optimizers.py: the step of every optimizer over that of optax.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import optimizers
from measure import Row, arguments, compared, interleaved, machine, picked, report, write

import fnn
from fnn import optim

COLUMNS = ("name", "size", "time_ratio", "ours_ms", "other_ms")
WIDTHS, BATCH_SIZE, STEPS, RATE, ETA = (784, 256, 128, 10), 128, 50, 0.1, 1e-4
KEY = jax.random.key(1)


def after(optimizer: Any) -> Any:
    return optim.chain(optim.sgd(RATE), optimizer)


def before(optimizer: Any) -> Any:
    return optim.chain(optimizer, optim.sgd(RATE))


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "plain": lambda: optim.sgd(RATE),
    "gradient_noise": lambda: before(optim.gradient_noise(ETA, key=KEY)),
    "gradient_noise threefry": lambda: before(
        optim.gradient_noise(ETA, generator="threefry", key=KEY)
    ),
    "gradient_noise uniform": lambda: before(
        optim.gradient_noise(ETA, distribution="uniform", key=KEY)
    ),
    "gradient_noise laplace": lambda: before(
        optim.gradient_noise(ETA, distribution="laplace", key=KEY)
    ),
    "gradient_noise student": lambda: before(
        optim.gradient_noise(ETA, distribution="student", key=KEY)
    ),
    "sphere_noise": lambda: before(optim.sphere_noise(key=KEY)),
    "anticorrelated_noise": lambda: after(optim.anticorrelated_noise(1e-3, key=KEY)),
    "weight_noise": lambda: before(optim.weight_noise(1e-3, key=KEY)),
    "perturbed": lambda: optim.perturbed(optim.sgd(RATE), key=KEY),
    "sgld": lambda: optim.sgld(1e-6, 4000, key=KEY),
    "psgld": lambda: optim.psgld(1e-6, 4000, key=KEY),
    "sghmc": lambda: optim.sghmc(1e-6, 4000, key=KEY),
    "baoab": lambda: optim.baoab(1e-3, 4000, key=KEY),
    "optax noisy_sgd": lambda: optax.noisy_sgd(RATE, ETA, 0.55, key=KEY),
}
PEERS = ("plain", "optax noisy_sgd")
PAIRS = [(name, "plain") for name in OPTIMIZERS if name not in PEERS] + [
    ("gradient_noise", "optax noisy_sgd"),
    ("gradient_noise threefry", "optax noisy_sgd"),
    ("optax noisy_sgd", "plain"),
]


def loop(optimizer: Any) -> Callable[[], None]:
    """Return the function that runs the steps, compiled."""
    layers: list[fnn.Layer] = []
    for width in WIDTHS[1:-1]:
        layers += [fnn.dense(width), fnn.relu()]
    model = fnn.serial(*layers, fnn.dense(WIDTHS[-1]))
    random = np.random.default_rng(0)
    x = jax.device_put(random.normal(size=(BATCH_SIZE, WIDTHS[0])).astype(np.float32))
    label = jax.device_put(random.integers(0, WIDTHS[-1], BATCH_SIZE).astype(np.int32))
    step = fnn.train_step(model, fnn.losses.cross_entropy(), optimizer)
    start = fnn.init_train_state(model, optimizer, x, key=jax.random.key(0))

    @jax.jit
    def run(train_state: Any) -> Any:
        return jax.lax.fori_loop(0, STEPS, lambda _, s: step(s, (x, label))[0], train_state)

    def call() -> None:
        jax.block_until_ready(run(start))

    return call


def rows(options: argparse.Namespace) -> list[Row]:
    pairs = [pair for pair in PAIRS if picked(" / ".join(pair), options)]
    names = dict.fromkeys(name for pair in pairs for name in pair)
    if not names:
        return []
    seconds = interleaved({name: loop(OPTIMIZERS[name]()) for name in names}, options.rounds)
    size = "-".join(map(str, WIDTHS))
    return [
        compared(f"{ours} / {other}", size, seconds[ours], seconds[other], STEPS)
        for ours, other in pairs
    ]


def main() -> None:
    options = arguments(__doc__, rounds=15)
    print(f"{machine()}\n")
    measured = rows(options) + optimizers.rows(options)
    report(measured, COLUMNS)
    write(measured, options.json)


if __name__ == "__main__":
    main()
