"""Time ``import fnn`` against ``import jax``, which it needs, each in a fresh interpreter.

The interpreter times the import itself, so its own start is left out. time_ratio is fnn over jax,
1 being an import that adds nothing.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from measure import arguments, compared, interleaved, machine, picked, report, write

COLUMNS = ("name", "size", "time_ratio", "ours_ms", "other_ms")
NAME = "import fnn / import jax"


def importing(module: str) -> Callable[[], float]:
    code = (
        f"import time; began = time.perf_counter(); import {module}; "
        "print(time.perf_counter() - began)"
    )

    def run() -> float:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    return run


def main() -> None:
    options = arguments(__doc__, rounds=15)
    print(f"{machine()}\n")
    rows = []
    if picked(NAME, options):
        seconds = interleaved({name: importing(name) for name in ("fnn", "jax")}, options.rounds)
        rows.append(compared(NAME, "1", seconds["fnn"], seconds["jax"]))
    report(rows, COLUMNS)
    write(rows, options.json)


if __name__ == "__main__":
    main()
