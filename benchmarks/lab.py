"""Time the laboratory: `fnn.compare` of two networks, and the main command that calls it.

A row is a question in a fresh process (lab_child.py) over another: `fnn.compare` over
`jax.test_util.check_grads` of the same objective, which checks autodiff alone, along one direction;
`fnn.compare` leaf by leaf, and with costs, over itself; ``python -m fnn`` over the same with
``--no-compare``. Compilation is counted; imports are in the rows of the main command only.

Times are CPU seconds, so that what else the machine does is in none of them but for its caches; the
questions run on one core. wall_s is the median of what passed meanwhile, ours.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from measure import arguments, compared, interleaved, machine, picked, report, watched, write

COLUMNS = ("name", "size", "time_ratio", "ours_s", "other_s", "wall_s")
CHILD = Path(__file__).with_name("lab_child.py")
NETWORKS = ("transformer 4x128", "CNN")
PAIRS = (("compare", "check_grads"), ("by leaf", "compare"), ("with costs", "compare"))


class Process:
    """A process to start, as a function that returns its CPU seconds; remembers the others."""

    def __init__(self, *command: str):
        self.command = [sys.executable, *command]
        self.walls: list[float] = []
        self.parameters = ""

    def __call__(self) -> float:
        done = subprocess.run(self.command, stdout=subprocess.PIPE, text=True, check=True)
        busy, wall, self.parameters = done.stdout.split()[-3:]
        self.walls.append(float(wall))
        return float(busy)


class Command(Process):
    """A run of the main command, all of it counted."""

    def __call__(self) -> float:
        began, before = time.perf_counter(), _seconds_of_children()
        with tempfile.TemporaryDirectory() as folder:
            output = ["--output", str(Path(folder, "run"))]
            subprocess.run([*self.command, *output], stdout=subprocess.DEVNULL, check=True)
        self.walls.append(time.perf_counter() - began)
        return _seconds_of_children() - before


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    options = arguments(__doc__, rounds=3)
    print(f"{machine()}\n")
    pairs: dict[str, tuple[Process, Process]] = {}
    for network in NETWORKS:
        for pair in PAIRS:
            ways: Sequence[Process] = [Process(str(CHILD), network, way) for way in pair]
            pairs[f"{network}: {' / '.join(pair)}"] = ways[0], ways[1]
    command = "-m", "fnn"
    pairs["main command: all / --no-compare"] = Command(*command), Command(*command, "--no-compare")
    rows = []
    for name, (ours, other) in watched(pairs.items()):
        if not picked(name, options):
            continue
        turns: dict[str, Callable[[], float]] = {"ours": ours, "other": other}
        seconds = interleaved(turns, options.rounds)
        row = compared(name, ours.parameters, seconds["ours"], seconds["other"])
        per_second = {f"{of}_s": row.pop(f"{of}_ms") / 1e3 for of in ("ours", "other")}
        rows.append(row | per_second | {"wall_s": median(ours.walls), "mode": "compile and run"})
    report(rows, COLUMNS)
    write(rows, options.json)


if __name__ == "__main__":
    main()
