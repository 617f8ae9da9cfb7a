"""Gradient noise in a deep network: the experiment of Neelakantan et al. 2015, section 4.1.

20 hidden layers of 50 ReLU on handwritten digits, SGD without momentum at learning rates 0.1 and
0.01, 20 seeds each, with Gaussian noise on the gradient and without; weights drawn from
N(0, 0.1^2), or all 0. Each start is one `fnn.sweep`, whose runs share the cores of the machine.

What was needed for the paper's effect. The paper has the 60,000 digits of MNIST, fnn the 4,000 that
come with it; it says neither how many examples a step takes nor how long it trains. A run has 3,000
steps here, of 20 examples. From a zero start the noise has to carry the weights, as a random walk,
to a size at which a signal passes 20 layers: its variance is 0.1 / (1 + t)^0.55. With 0.03, tried
with one seed, a run does not leave guessing in so many steps; with 0.2 it may lose its numbers.
And the learning rate falls to 0 along half a cosine: at a constant 0.1 the accuracy swings from
one epoch to the next (at variance 0.05 between 18 and 71 percent), since the noise never lets the
weights rest.

What differs from the paper all the same: without noise no run leaves guessing from N(0, 0.1^2)
either, where half of the paper's do, in what must be more steps. At a learning rate of 0.01 the
walk is ten times shorter, and nothing leaves guessing with noise or without: the mean over both
rates is half of what 0.1 reaches, as it is in the paper.

Test accuracy in percent: the best of all runs of a row, and the mean over them, at the end; a run
that lost its numbers counts as guessing, 10. ``at_0.1`` is the mean at learning rate 0.1 alone.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from measure import Row, machine, picked, report, write

import fnn

COLUMNS = ("name", "runs", "best", "mean", "at_0.1", "paper_best", "paper_mean", "stopped")
WIDTH, DEPTH = 50, 20
BATCH_SIZE, VARIANCE, DECAY_POWER = 20, 0.1, 0.55
RATES = (0.1, 0.01)
# Table 1 of the paper, experiments 1 and 6.
PAPER = {
    ("normal", "no noise"): (89.9, 43.1),
    ("normal", "noise"): (96.7, 52.7),
    ("zero", "no noise"): (11.4, 10.1),
    ("zero", "noise"): (94.5, 49.7),
}
STARTS = {"normal": jax.nn.initializers.normal(0.1), "zero": jax.nn.initializers.zeros}


def digits() -> Any:
    (x, labels), (test_x, test_labels) = fnn.datasets.digits()
    flat = [np.asarray(a, np.float32).reshape(len(a), -1) / 255 for a in (x, test_x)]
    return (flat[0], labels), (flat[1], test_labels)


def network(initializer: Any) -> fnn.Layer:
    hidden: list[fnn.Layer] = []
    for _ in range(DEPTH):
        hidden += [fnn.dense(WIDTH, initializer=initializer), fnn.relu()]
    return fnn.serial(*hidden, fnn.dense(10, initializer=initializer))


def rows(options: argparse.Namespace) -> list[Row]:
    data, test = digits()
    steps = options.epochs * (len(data[1]) // BATCH_SIZE)
    found: list[Row] = []
    for start, initializer in STARTS.items():
        noises = [name for name in ("no noise", "noise") if picked(f"{start}, {name}", options)]
        if not noises:
            continue
        model = network(initializer)

        def build(learning_rate: float, noise: str, draw: int, model: fnn.Layer = model) -> Any:
            sgd = fnn.optim.sgd(fnn.optim.schedule.cosine(learning_rate, steps))
            if noise == "noise":
                # Of the generator that is fastest: most of a step is spent on drawing.
                key = jax.random.key(draw, impl="rbg")
                noisy = fnn.optim.gradient_noise(VARIANCE, decay_power=DECAY_POWER, key=key)
                sgd = fnn.optim.chain(noisy, sgd)
            return model, fnn.losses.cross_entropy(), sgd

        points = [
            {"learning_rate": rate, "noise": noise, "draw": seed, "seed": seed}
            for rate in RATES for noise in noises for seed in range(options.seeds)
        ]  # fmt: skip
        result = fnn.sweep(
            build, points, data, epochs=options.epochs, batch_size=BATCH_SIZE, validation=test,
            metrics={"accuracy": fnn.accuracy}, members=len(points),
        )  # fmt: skip
        found += [row(result, start, noise) for noise in noises]
    return found


def row(result: fnn.train.Sweep, start: str, noise: str) -> Row:
    """Return what the runs of a start with or without noise reached."""
    columns = result.table()
    runs = [i for i, point in enumerate(result.points) if point["noise"] == noise]
    reached = {
        i: 10.0 if columns["stopped"][i] else 100 * columns["validation accuracy"][i] for i in runs
    }
    fast = [reached[i] for i in runs if result.points[i]["learning_rate"] == RATES[0]]
    paper_best, paper_mean = PAPER[start, noise]
    return {
        "name": f"{start}, {noise}", "runs": len(runs), "best": max(reached.values()),
        "mean": float(np.mean(list(reached.values()))), "at_0.1": float(np.mean(fast)),
        "paper_best": paper_best, "paper_mean": paper_mean,
        "stopped": sum(bool(columns["stopped"][i]) for i in runs),
    }  # fmt: skip


def arguments() -> argparse.Namespace:
    """Parse the command line of all benchmarks, and what is asked here besides."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="of each setting")
    parser.add_argument("--epochs", type=int, default=15, metavar="N", help="of each run")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    # Each core that this process may use is a device: they share the runs of a sweep.
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    print(f"{machine()}\n")
    found = rows(options)
    report(found, COLUMNS)
    write(found, options.json)


if __name__ == "__main__":
    main()
