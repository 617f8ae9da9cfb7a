"""Time ``import fnn`` against ``import jax``, which it needs, each in a fresh interpreter.

The interpreter times the import itself, so its own start is left out. It finds the bytecode of a
first run, as that of an installed package. time_ratio is fnn over jax, 1 being an import that adds
nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable

from measure import arguments, compared, interleaved, machine, picked, report, write

COLUMNS = ("name", "size", "time_ratio", "ours_ms", "other_ms")
NAME = "import fnn / import jax"


def importing(module: str, bytecode: str) -> Callable[[], float]:
    code = (
        f"import time; began = time.perf_counter(); import {module}; "
        "print(time.perf_counter() - began)"
    )

    environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}

    def run() -> float:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return float(done.stdout)

    run()
    return run


def main() -> None:
    options = arguments(__doc__, rounds=15)
    print(f"{machine()}\n")
    rows = []
    if picked(NAME, options):
        with tempfile.TemporaryDirectory() as bytecode:
            runs = {name: importing(name, bytecode) for name in ("fnn", "jax")}
            seconds = interleaved(runs, options.rounds)
        rows.append(compared(NAME, "1", seconds["fnn"], seconds["jax"]))
    report(rows, COLUMNS)
    write(rows, options.json)


if __name__ == "__main__":
    main()
