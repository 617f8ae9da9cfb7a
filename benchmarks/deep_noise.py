"""Gradient noise in a deep network: the experiment of Neelakantan et al. 2015, section 4.1.

20 hidden layers of 50 ReLU on handwritten digits, SGD without momentum at learning rates 0.1 and
0.01, 20 seeds each, with noise of variance 0.01 / (1 + t)^0.55 and without; weights drawn from
N(0, 0.1^2), or all 0. It is one `fnn.sweep` for each start. The paper does not say how many
examples a step takes, nor how long it trains; and it has the 60,000 digits of MNIST, fnn the 4,000
that come with it, so that a run has fewer steps at the same number of epochs.

Test accuracy in percent: the best of all runs of a row, and the mean over them, at the end; a run
that lost its numbers counts as guessing, 10.
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measure import Row, arguments, machine, picked, report, write

import fnn

COLUMNS = ("name", "runs", "best", "mean", "paper_best", "paper_mean", "stopped")
WIDTH, DEPTH = 50, 20
BATCH_SIZE, EPOCHS, SEEDS = 20, 60, 20
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


def rows(options: argparse.Namespace) -> list[Row]:
    data, test = digits()
    found = []
    for start, initializer in STARTS.items():
        noises = [name for name in ("no noise", "noise") if picked(f"{start}, {name}", options)]
        if not noises:
            continue

        def build(learning_rate: float, noise: str, initializer: Any = initializer) -> Any:
            hidden: list[fnn.Layer] = []
            for _ in range(DEPTH):
                hidden += [fnn.dense(WIDTH, initializer=initializer), fnn.relu()]
            model = fnn.serial(*hidden, fnn.dense(10, initializer=initializer))
            # No noise is noise of next to no size: one program for all runs.
            variance = 0.01 if noise == "noise" else 0.0
            noisy = fnn.optim.gradient_noise(
                jnp.float32(variance), decay_power=0.55, key=jax.random.key(1)
            )
            optimizer = fnn.optim.chain(noisy, fnn.optim.sgd(learning_rate))
            return model, fnn.losses.cross_entropy(), optimizer

        points = {"learning_rate": [0.1, 0.01], "noise": noises, "seed": range(SEEDS)}
        result = fnn.sweep(
            build, points, data, epochs=EPOCHS, batch_size=BATCH_SIZE, validation=test,
            metrics={"accuracy": fnn.accuracy}, members=2 * SEEDS * len(noises),
        )  # fmt: skip
        columns = result.table()
        for noise in noises:
            runs = [i for i, point in enumerate(result.points) if point["noise"] == noise]
            stopped = [bool(columns["stopped"][i]) for i in runs]
            reached = [
                10.0 if lost else 100 * columns["validation accuracy"][i]
                for i, lost in zip(runs, stopped, strict=True)
            ]
            paper_best, paper_mean = PAPER[start, noise]
            found.append(
                {
                    "name": f"{start}, {noise}", "runs": len(runs), "best": max(reached),
                    "mean": float(np.mean(reached)), "paper_best": paper_best,
                    "paper_mean": paper_mean, "stopped": sum(stopped),
                }
            )  # fmt: skip
    return found


def main() -> None:
    options = arguments(__doc__, rounds=1)
    print(f"{machine()}\n")
    found = rows(options)
    report(found, COLUMNS)
    write(found, options.json)


if __name__ == "__main__":
    main()
