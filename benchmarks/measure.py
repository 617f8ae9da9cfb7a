"""What the benchmarks share: interleaved timing, the machine's name, a table and a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import jax

from fnn.files import replacing
from fnn.table import table

Row = dict[str, Any]


def interleaved(
    functions: Mapping[str, Callable[[], float | None]], rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of every call: all functions once unmeasured, then in turns.

    Taking turns spreads whatever else the machine does over all of them; every round starts with
    the next function, so that none always comes after the same other. A function that returns a
    float has timed itself.
    """
    for function in functions.values():
        function()
    names = list(functions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            began = time.perf_counter()
            own = functions[name]()
            wall = time.perf_counter() - began
            seconds[name].append(wall if own is None else own)
    return seconds


def compared(
    name: str, size: str, ours: Sequence[float], other: Sequence[float], count: int = 1, **more: Any
) -> Row:
    """Return the row of ours over another: medians, in milliseconds for each of `count` parts."""
    ours_ms, other_ms = (1e3 * median(seconds) / count for seconds in (ours, other))
    ratio = ours_ms / other_ms
    row = {"name": name, "size": size, "time_ratio": ratio, "ours_ms": ours_ms}
    return row | {"other_ms": other_ms} | more


def machine() -> str:
    """Name processor, cores, platform and versions in one line."""
    return (
        f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"jax {jax.__version__} on {jax.default_backend()}, python {platform.python_version()}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown processor"


def arguments(description: str | None, rounds: int) -> argparse.Namespace:
    """Parse the command line that all benchmarks share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME",
        help="measure the rows with NAME in their name; may be repeated",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument(
        "--rounds", type=int, default=rounds, metavar="N", help="measurements of each (%(default)s)"
    )
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: expected 1 or more")
    return options


def picked(name: str, options: argparse.Namespace) -> bool:
    """Tell whether a row is asked for."""
    return not options.only or any(part in name for part in options.only)


def report(rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Print the rows as a table; what a row lacks shows as ``-``."""
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    print(table(columns, cells))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def write(rows: Sequence[Row], file: Path | None) -> None:
    """Write the rows as a JSON list, whole or not at all; None for nowhere."""
    if file is not None:
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(rows, indent=2) + "\n")
