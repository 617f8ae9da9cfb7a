"""Time a run of `fnn.fit` that lasts against the same steps without what makes it last.

- ``stream / memory``: rows of a memory-mapped file, read while the device computes, against the
  same steps on arrays in memory. The file has --megabytes (2,000 by default) of uint8 images; the
  arrays are as many of them as the steps take. Once with a small network, whose rows take a fifth
  of the time of its step to be read, and once with convolutions, a fifth of the steps.
  ``grown_mb`` is how far the resident memory of the process that streams grew beyond where it
  stood at the first step.
- ``checkpoint / none``: a checkpoint every second, against none.
- ``callback / none``: a callback between epochs that does nothing, against none.

Milliseconds a step, medians over rounds in which both take turns; compilation is left out, what
stands between steps is not. time_ratio is that of the two.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
import psutil
from measure import Row, compared, interleaved, machine, picked, report, write

import fnn

COLUMNS = ("name", "size", "time_ratio", "ours_ms", "other_ms", "grown_mb")
IMAGE, BATCH_SIZE, KEY = (28, 28), 128, jax.random.key(0)
ROW_BYTES = 28 * 28

Make = Callable[[], fnn.Layer]


def network() -> fnn.Layer:
    return fnn.serial(
        fnn.flatten(), fnn.dense(256), fnn.relu(), fnn.dense(128), fnn.relu(), fnn.dense(10)
    )


def images_network() -> fnn.Layer:
    return fnn.serial(
        fnn.reshape(*IMAGE, 1), fnn.conv(16, 3), fnn.relu(), fnn.max_pool(2),
        fnn.conv(32, 3), fnn.relu(), fnn.max_pool(2), fnn.flatten(), fnn.dense(10),
    )  # fmt: skip


def scaled(batch: Any, key: jax.Array, step: jax.Array) -> Any:
    del key, step
    return batch._replace(x=batch.x.astype("float32") / 255)


def fitted(data: Any, steps: int, make: Make = network, **options: Any) -> float:
    """Return the seconds that the steps took, with all between them."""
    _, history = fnn.fit(
        make(), fnn.losses.cross_entropy(), fnn.optim.sgd(0.01, 0.9), data, steps=steps,
        batch_size=BATCH_SIZE, key=KEY, transform=scaled, **options,
    )  # fmt: skip
    if not np.isfinite(history.loss).all():
        raise SystemExit("the run lost its numbers")
    return history.run_seconds


def images(examples: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    rows = random.integers(0, 255, (examples, *IMAGE), "uint8")
    return rows, random.integers(0, 10, examples).astype("int32")


def written(folder: Path, megabytes: int) -> Path:
    """Write a file of random images, a part of it at a time."""
    examples = megabytes * 10**6 // ROW_BYTES
    file = folder / "images.npy"
    array = np.lib.format.open_memmap(file, "w+", np.uint8, (examples, *IMAGE))
    part = images(10_000)[0]
    for start in range(0, examples, len(part)):
        array[start : start + len(part)] = part[: examples - start]
    array.flush()
    np.save(folder / "labels.npy", images(1)[1].repeat(examples))
    return file


def opened(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "labels.npy")


def grown(folder: Path, steps: int) -> float:
    """Return by how many MB a process grows that streams a file, beyond its first steps."""
    process, most, done = psutil.Process(), [0.0], threading.Event()

    def look() -> None:
        while not done.wait(0.01):
            most[0] = max(most[0], process.memory_info().rss / 1e6)

    data = opened(folder)
    # The programs, the labels and what JAX needs are there then.
    fitted(data, 3)
    before = process.memory_info().rss / 1e6
    watch = threading.Thread(target=look)
    watch.start()
    fitted(data, steps)
    done.set()
    watch.join()
    return most[0] - before


def stream_rows(options: argparse.Namespace, folder: Path) -> list[Row]:
    if not picked("stream / memory", options):
        return []
    written(folder, options.megabytes)
    # As long a run of the larger network needs fewer steps.
    return [
        stream_row(options, folder, "784-256-128-10", network, options.steps),
        stream_row(options, folder, "conv 16-32", images_network, max(1, options.steps // 5)),
    ]


def stream_row(options: argparse.Namespace, folder: Path, size: str, make: Make, most: int) -> Row:
    data = opened(folder)
    steps = min(most, -(-len(data[1]) // BATCH_SIZE))
    in_memory = images(min(len(data[1]), steps * BATCH_SIZE))
    seconds = interleaved(
        {
            "stream": lambda: fitted(data, steps, make),
            "memory": lambda: fitted(in_memory, steps, make),
        },
        options.rounds,
    )
    asked = [sys.executable, __file__, "--grown", str(folder), "--steps", str(steps)]
    answer = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    return compared(
        "stream / memory", f"{options.megabytes} MB, {size}", seconds["stream"],
        seconds["memory"], steps, grown_mb=float(answer),
    )  # fmt: skip


def callback_rows(options: argparse.Namespace, folder: Path) -> list[Row]:
    data = images(20_000)
    ways: dict[str, Callable[[], Any]] = {
        "checkpoint": lambda: fnn.train.callbacks.checkpoint(
            folder / f"run-{time.monotonic_ns()}", seconds=1.0
        ),
        "callback": lambda: lambda event: None,
    }
    rows = []
    for name, make in ways.items():
        if not picked(f"{name} / none", options):
            continue
        functions = {
            name: lambda make=make: fitted(data, options.steps, callbacks=[make()]),
            "none": lambda: fitted(data, options.steps),
        }
        seconds = interleaved(functions, options.rounds)
        print(f"{name}: runs of {median(seconds['none']):.1f} s")
        rows.append(
            compared(
                f"{name} / none", "784-256-128-10", seconds[name], seconds["none"], options.steps
            )
        )
    return rows


def arguments() -> argparse.Namespace:
    """Parse the command line of all benchmarks, and what is asked here besides."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="measurements of each")
    parser.add_argument("--steps", type=int, default=5000, metavar="N", help="steps of a run")
    parser.add_argument("--megabytes", type=int, default=2000, metavar="N", help="of the file")
    parser.add_argument("--grown", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.grown is not None:
        print(grown(options.grown, options.steps))
        return
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory() as folder:
        rows = stream_rows(options, Path(folder)) + callback_rows(options, Path(folder))
    report(rows, COLUMNS)
    write(rows, options.json)


if __name__ == "__main__":
    main()
