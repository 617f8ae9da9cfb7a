"""Time the way from starting a process to a result: imports, compilation and training.

A row is fnn over another library, each in a process of its own (start_child.py) that trains the
same small convolutional network by momentum and evaluates it on the examples held out after every
epoch, until the accuracy is 95 % on the digits that come with fnn. Where the files of
Fashion-MNIST are there (`fnn.datasets.fashion_mnist` says where), the same to 88 %. The seconds are
those of the whole process, from before it starts until after it ended; all take turns, every turn
with another seed of weights and order: by luck an epoch more or less is needed. A library that is
not installed has no row.

``first`` is a start with nothing compiled beforehand, ``again`` one with JAX's persistent
compilation cache filled by the same program before, on the same machine and release, where it is
safe; PyTorch compiles nothing, and its time is the same in both. time_ratio is a ratio of medians,
cpu_ratio one of the seconds on all cores, which say more where a machine is busy with other things
(then hold all to one core, by ``taskset -c 1``: threads that wait for each other count too), and
memory_ratio one of the most memory that the processes ever had.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import NamedTuple

import jax
import numpy as np
from measure import Row, arguments, compared, interleaved, machine, picked, report, watched, write

import fnn

COLUMNS = (
    "family", "name", "size", "mode", "time_ratio", "ours_ms", "other_ms", "cpu_ratio",
    "memory_ratio", "ours_mb", "other_mb",
)  # fmt: skip
# By name: what has to be installed.
LIBRARIES = {"fnn": "fnn", "PyTorch": "torch", "Flax NNX": "flax", "Keras on JAX": "keras"}
CHILD = Path(__file__).with_name("start_child.py")
MODES = ("first", "again")


class Goal(NamedTuple):
    """A data set of `fnn.datasets`, and the accuracy to reach on it."""

    data: str
    accuracy: float


GOALS = (Goal("digits", 0.95), Goal("fashion_mnist", 0.88))


def written(data: str, folder: Path) -> Path | None:
    """Write images (n, 28, 28, 1) and labels to learn from, and those held out, for all to read."""
    try:
        train, test = getattr(fnn.datasets, data)()
    except fnn.InputError as error:
        print(f"{data} is left out: {error}")
        return None
    parts = []
    for x, labels in (train, test):
        parts += [x[..., None].astype(np.float32) / 255, labels.astype(np.int32)]
    file = folder / f"{data}.npz"
    np.savez(file, *parts)
    return file


def environment(mode: str, folder: Path) -> dict[str, str]:
    """Return the environment of a process, with the cache where it is used."""
    variables = dict(os.environ)
    # This process is on the GPU too, where there is one.
    variables["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if mode == "again":
        variables |= {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        }
    else:
        variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    return variables


class Start:
    """Processes of a library that train to a goal; remembers their memory."""

    def __init__(self, name: str, mode: str, goal: Goal, file: Path):
        self.name, self.goal = name, goal
        self.command = [sys.executable, str(CHILD), name, str(file), str(goal.accuracy)]
        self.command.append(jax.default_backend())
        self.environment = environment(mode, file.parent)
        self.megabytes: list[float] = []
        self.cpu_seconds: list[float] = []

    def __call__(self) -> None:
        # As many as it had turns before: the same for all.
        command = [*self.command, str(len(self.megabytes))]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=self.environment
        )
        accuracy, memory, cpu = map(float, done.stdout.split()[-3:])
        if accuracy < self.goal.accuracy:
            raise SystemExit(f"{self.name} came to {accuracy:.4f} on {self.goal.data}")
        self.megabytes.append(memory)
        self.cpu_seconds.append(cpu)


def rows_of(goal: Goal, file: Path, names: Sequence[str], rounds: int) -> list[Row]:
    starts = {(name, mode): Start(name, mode, goal, file) for name in names for mode in MODES}
    # PyTorch has no cache to fill.
    starts.pop(("PyTorch", "again"), None)
    runs: dict[str, Callable[[], None]] = {
        f"{name}, {mode}": start for (name, mode), start in starts.items()
    }
    seconds = interleaved(runs, rounds)
    rows = []
    for mode in MODES:
        for other in names[1:]:
            there = (other, mode) if (other, mode) in starts else (other, "first")
            pair = starts["fnn", mode], starts[there]
            ours_mb, other_mb = (median(start.megabytes) for start in pair)
            # The first call of `interleaved` is not counted.
            ours_cpu, other_cpu = (median(start.cpu_seconds[1:]) for start in pair)
            name, size = f"{goal.data}: fnn / {other}", f"to {goal.accuracy:.0%}"
            ours, theirs = seconds[f"fnn, {mode}"], seconds[", ".join(there)]
            row = compared(name, size, ours, theirs, family="start", mode=mode)
            row |= {"memory_ratio": ours_mb / other_mb, "ours_mb": ours_mb, "other_mb": other_mb}
            row |= {"cpu_ratio": ours_cpu / other_cpu, "ours_cpu_s": ours_cpu}
            row |= {"other_cpu_s": other_cpu, "ours_seconds": ours, "other_seconds": theirs}
            rows.append(row)
    return rows


def main() -> None:
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    options = arguments(__doc__, rounds=5)
    print(f"{machine()}\n")
    there = [name for name, module in LIBRARIES.items() if find_spec(module)]
    for name in LIBRARIES.keys() - set(there):
        print(f'{name} is left out: pip install "fnn[bench]"')
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for goal in watched(GOALS):
            names = [n for n in there[1:] if picked(f"{goal.data}: fnn / {n}", options)]
            file = written(goal.data, Path(folder)) if names else None
            if file is not None:
                rows += rows_of(goal, file, ["fnn", *names], options.rounds)
    report(rows, COLUMNS)
    write(rows, options.json)


if __name__ == "__main__":
    main()
