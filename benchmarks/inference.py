"""Time a layer where it is only evaluated: `apply`, `forward`, the plain formula, and PyTorch.

A row is one over another on the same input and weights, all taking turns: `apply` over `forward`,
over the plain formula that autodiff differentiates, and, in turns of their own, over the same layer
of PyTorch in `inference_mode`. time_ratio is the median of the first over that of the second, below
1 where the first is faster; memory_ratio is that of the temporary bytes of the compiled programs.
`apply` compiles to the instructions of `forward` (tests/layers/test_laws.py), so that what their
time_ratio is away from 1 is the noise of this measurement.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from measure import Row, arguments, compared, interleaved, machine, picked, report, watched, write

import fnn

COLUMNS = (
    "name", "size", "time_ratio", "ours_ms", "other_ms", "memory_ratio", "ours_bytes",
    "other_bytes",
)  # fmt: skip


class Case(NamedTuple):
    """A layer, the shape of its input, and the module of PyTorch with the axes it wants x in."""

    name: str
    layer: fnn.Layer
    shape: tuple[int, ...]
    module: Callable[[Any], Any]
    axes: tuple[int, ...]


def attention_module(torch: Any) -> Any:
    module = torch.nn.MultiheadAttention(256, 8, batch_first=True)
    return lambda x: module(x, x, x, need_weights=False)[0]


def lstm_module(torch: Any) -> Any:
    module = torch.nn.LSTM(128, 256, batch_first=True)
    return lambda x: module(x)[0]


def depthwise_module(torch: Any) -> Any:
    return torch.nn.Conv2d(64, 64, 3, padding=1, groups=64)


def grouped_module(torch: Any) -> Any:
    return torch.nn.Conv2d(64, 64, 3, padding=1, groups=8)


IMAGES, CHANNELS_SECOND = (32, 28, 28, 64), (0, 3, 1, 2)
CASES = (
    Case("attention of 8 heads", fnn.attention(8), (2, 2048, 256), attention_module, (0, 1, 2)),
    Case("LSTM of 256", fnn.lstm(256), (64, 100, 128), lstm_module, (0, 1, 2)),
    Case("depthwise_conv 3x3", fnn.depthwise_conv(3), IMAGES, depthwise_module, CHANNELS_SECOND),
    Case("conv 3x3, 8 groups", fnn.conv(64, 3, groups=8), IMAGES, grouped_module, CHANNELS_SECOND),
)


def programs(case: Case, x: Any) -> dict[str, Any]:
    """Return the compiled programs of a layer, each to be called with params and x."""
    layer = case.layer
    params, state = layer.init(jax.random.key(0), x)
    functions = {
        "apply": lambda p, x: layer.apply(p, state, x)[0],
        "forward": lambda p, x: layer.forward(p, state, x)[0],
        "plain formula": lambda p, x: layer.plain(p, state, x)[0],
    }
    return {
        name: (jax.jit(function).lower(params, x).compile(), params)
        for name, function in functions.items()
    }


def rows_of(case: Case, rounds: int) -> list[Row]:
    torch = importlib.import_module("torch")
    x = np.random.default_rng(0).normal(size=case.shape).astype("float32")
    compiled = programs(case, x)
    module = case.module(torch)
    tensor = torch.from_numpy(np.ascontiguousarray(x.transpose(case.axes)))

    def by_torch() -> None:
        with torch.inference_mode():
            module(tensor)

    runs: dict[str, Callable[[], Any]] = {
        name: lambda program=program, params=params: jax.block_until_ready(program(params, x))
        for name, (program, params) in compiled.items()
    }
    runs = {name: quiet(run) for name, run in (runs | {"PyTorch": by_torch}).items()}
    # PyTorch's threads go on looking for work a while, beside whatever runs next: apart.
    seconds = interleaved({name: run for name, run in runs.items() if name in compiled}, rounds)
    apart = interleaved({name: runs[name] for name in ("apply", "PyTorch")}, rounds)
    size = "x".join(map(str, case.shape))
    memory = {
        name: program.memory_analysis().temp_size_in_bytes
        for name, (program, _) in compiled.items()
    }
    rows = []
    for other in ("forward", "plain formula", "PyTorch"):
        more: Row = {}
        if other in memory:
            more = {"ours_bytes": memory["apply"], "other_bytes": memory[other]}
            more["memory_ratio"] = memory["apply"] / memory[other] if memory[other] else None
        name, turns = f"{case.name}: apply / {other}", apart if other == "PyTorch" else seconds
        rows.append(compared(name, size, turns["apply"], turns[other], **more))
    return rows


def quiet(run: Callable[[], Any]) -> Callable[[], None]:
    """Return a function that runs another and returns nothing: a float would be a time."""

    def once() -> None:
        run()

    return once


def main() -> None:
    options = arguments(__doc__, rounds=15)
    print(f"{machine()}\n")
    rows = [
        row
        for case in watched(case for case in CASES if picked(case.name, options))
        for row in rows_of(case, options.rounds)
    ]
    report(rows, COLUMNS)
    write(rows, options.json)


if __name__ == "__main__":
    main()
