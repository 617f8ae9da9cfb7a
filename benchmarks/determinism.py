"""What may change without changing a bit of a training run, and what changes by rounding.

A small network with a convolution, batch norm, dropout and noise is trained on digits, over and
over: in another process, with another PYTHONHASHSEED, with the progress bar, in two parts, with
fewer threads, without compilation; and evaluated in batches of other sizes. Of each, the largest
difference of a parameter, a state or a score from the first run is shown, relative to the largest
entry of its array. The exit code is 1 where a run that promises the same bits has others, or where
rounding does not explain a difference.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from measure import Row, arguments, machine, picked, report, watched, write

import fnn
from fnn.lab.tolerance import rounding

COLUMNS = ("what changes", "promised", "found", "largest difference", "why")
EXAMPLES, EPOCHS, BATCH = 100, 3, 32
Values = dict[str, np.ndarray]


class Change(NamedTuple):
    """What is changed: the run that is asked for, its environment, and what is promised of it."""

    name: str
    run: str
    environment: dict[str, str]
    same_bits: bool
    why: str


ONE_THREAD = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
CHANGES = (
    Change("process", "plain", {}, True,
           "the same program, and random numbers that depend on key, step and place alone"),
    Change("PYTHONHASHSEED", "plain", {"PYTHONHASHSEED": "12345"}, True,
           "no order comes from a set or a hash"),
    Change("progress on", "progress", {}, True,
           "the compiled program reports, and computes the same"),
    Change("resume, start=", "resumed", {}, True,
           "a train state holds all of it: parameters, moments, running state, key, step"),
    Change("evaluation in batches of 30", "batches", {}, False,
           "sums of other parts; out of training no example depends on another"),
    Change("one thread of XLA", "plain", ONE_THREAD, False,
           "a product cut for fewer threads may be summed in another order"),
    Change("jax.disable_jit()", "uncompiled", {}, False,
           "XLA fuses what it compiles together: products and sums are rounded once, or elsewhere"),
)  # fmt: skip


def network() -> fnn.Layer:
    return fnn.serial(
        fnn.conv(4, 5, stride=4), fnn.relu(), fnn.flatten(), fnn.dense(16), fnn.batch_norm(),
        fnn.relu(), fnn.dropout(0.2), fnn.dense(10),
    )  # fmt: skip


def trained(run: str) -> Values:
    """Train in one of the ways; return parameters, states and scores by name."""
    (x, labels), _ = fnn.datasets.digits()
    x, labels = x[:EXAMPLES, :, :, None] / np.float32(255), labels[:EXAMPLES]
    model, loss = network(), fnn.losses.cross_entropy()
    noise = fnn.optim.gradient_noise(1e-4, key=jax.random.key(1))
    optimizer = fnn.optim.chain(noise, fnn.optim.adam(0.003))
    half = 2 if run == "resumed" else EPOCHS

    def fit(epochs: int, **more: Any) -> fnn.TrainState:
        return fnn.fit(
            model, loss, optimizer, (x, labels), epochs=epochs, batch_size=BATCH,
            progress=run == "progress", **more,
        )[0]  # fmt: skip

    with jax.disable_jit(run == "uncompiled"):
        state = fit(half, key=jax.random.key(0))
        if half < EPOCHS:
            state = fit(EPOCHS - half, start=state)
    scores = fnn.evaluate(
        model, loss, state.params, state.state, (x, labels),
        batch_size=30 if run == "batches" else EXAMPLES,
    )  # fmt: skip
    leaves = jax.tree.leaves_with_path((state.params, state.state, scores))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def in_a_process(runs: list[str], environment: dict[str, str]) -> dict[str, Values]:
    """Train in a fresh interpreter, in some ways one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--to", folder, *(f"--run={run}" for run in runs)]
        inside = {**os.environ, "PYTHONHASHSEED": "0", **environment}
        subprocess.run(command, env=inside, check=True, stderr=subprocess.DEVNULL)
        return {run: dict(np.load(Path(folder, f"{run}.npz"))) for run in runs}


def difference(values: Values, others: Values) -> float:
    """Return the largest difference, relative to the largest entry of its array."""
    if values.keys() != others.keys():
        raise SystemExit("the runs do not hold the same arrays")
    return max(
        float(np.abs(a.astype(float) - others[name]).max() / (np.abs(a).max() or 1))
        for name, a in values.items()
    )


def row(change: Change, values: Values, first: Values) -> Row:
    same = all(values[name].tobytes() == first[name].tobytes() for name in first)
    found = difference(first, values)
    # Of the sums of all steps, one after the other.
    bound = rounding("float32", EPOCHS * EXAMPLES * 28 * 28)
    return {
        "what changes": change.name,
        "promised": "same bits" if change.same_bits else "rounding",
        "found": "same bits" if same else "other bits",
        "largest difference": found,
        "why": change.why,
        "holds": same if change.same_bits else found <= bound,
    }


def asked_for() -> argparse.Namespace:
    """Return what a process that is one of the runs has to do."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--run", action="append", default=[])
    parser.add_argument("--to", type=Path)
    return parser.parse_known_args()[0]


def main() -> None:
    options = arguments(__doc__, rounds=1)
    print(f"{machine()}\n")
    changes = [change for change in CHANGES if picked(change.name, options)]
    # What changes nothing outside of the process shares that of the first run.
    inside = [c.run for c in changes if not c.environment and c.run not in ("plain", "uncompiled")]
    shared = in_a_process(["plain", *inside], {})
    rows = []
    for change in watched(changes):
        values = shared if change.run in inside else in_a_process([change.run], change.environment)
        rows.append(row(change, values[change.run], shared["plain"]))
    report(rows, COLUMNS)
    write(rows, options.json)
    sys.exit(not all(row["holds"] for row in rows))


if __name__ == "__main__":
    child = asked_for()
    for name in child.run:
        np.savez(child.to / f"{name}.npz", **trained(name))
    if not child.run:
        main()
