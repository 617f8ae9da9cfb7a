"""What the benchmarks share: a command line, rows, a table and a JSON file; times come from fnn."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import jax
from tqdm import tqdm

from fnn.lab import interleaved, machine, table
from fnn.train import atomic_write

__all__ = [
    "Row", "arguments", "compared", "computing_where_called", "interleaved", "machine", "picked",
    "report", "watched", "write",
]  # fmt: skip

Row = dict[str, Any]
Item = TypeVar("Item")


def computing_where_called() -> None:
    """Let JAX for CPUs compute in the thread that calls, unless the environment says otherwise.

    By default it hands a program to another thread, so that Python goes on. Who waits for every
    result waits for that thread to wake as well: 20 us of each call. Call it before any array is
    made.
    """
    if "JAX_CPU_ENABLE_ASYNC_DISPATCH" not in os.environ:
        jax.config.update("jax_cpu_enable_async_dispatch", False)


def compared(
    name: str, size: str, ours: Sequence[float], other: Sequence[float], count: int = 1, **more: Any
) -> Row:
    """Return the row of ours over another: medians, in milliseconds for each of `count` parts."""
    ours_ms, other_ms = (1e3 * median(seconds) / count for seconds in (ours, other))
    ratio = ours_ms / other_ms
    row = {"name": name, "size": size, "time_ratio": ratio, "ours_ms": ours_ms}
    return row | {"other_ms": other_ms} | more


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


def watched(items: Iterable[Item]) -> Iterable[Item]:
    """Show in a terminal how far a long benchmark is."""
    return tqdm(list(items), leave=False, disable=None)


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
        with atomic_write(file) as temporary:
            temporary.write_text(json.dumps(rows, indent=2) + "\n")
