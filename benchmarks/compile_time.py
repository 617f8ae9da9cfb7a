"""Time how long a transformer of 48 blocks takes to compile against one of a single block.

Tracing and compiling of forward and backward are counted. time_ratio is the deep model over the
shallow one: through `fnn.repeat` the depth should not matter, but for what it takes to stack the
parameters, residuals and gradients of all blocks. "gradient" is that of bare blocks, by hand and by
`jax.grad`; "training step" that of a GPT by hand, with its embedding and head and Adam. For
comparison blocks one after the other, through `fnn.serial`, fewer of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from measure import arguments, compared, interleaved, machine, picked, report, write

import fnn

COLUMNS = ("name", "size", "time_ratio", "ours_ms", "other_ms")
DEPTH, SHALLOW = 48, 6
HEADS, WIDTH, ALPHABET = 4, 256, 96
BATCH, TIME = 4, 128


def compiling(function: Callable[..., Any], *arrays: Any) -> Callable[[], None]:
    def run() -> None:
        jax.clear_caches()
        jax.jit(function).lower(*arrays).compile()

    return run


def gradient(blocks: fnn.Layer, which: str) -> Callable[[], None]:
    x = jax.ShapeDtypeStruct((BATCH, TIME, WIDTH), "float32")
    params, state = jax.eval_shape(blocks.init, jax.random.key(0), x)
    step = fnn.value_and_grad(blocks, fnn.losses.squared_error(), which)
    return compiling(step, params, state, (x, x))


def training_step(blocks: fnn.Layer) -> Callable[[], None]:
    model = fnn.serial(
        fnn.embedding(ALPHABET, WIDTH),
        fnn.positional("learned", TIME),
        blocks,
        fnn.layer_norm(),
        fnn.dense(ALPHABET),
    )
    x = jax.ShapeDtypeStruct((BATCH, TIME), "int32")
    optimizer = fnn.optim.adam(1e-3)
    state = jax.eval_shape(
        lambda key: fnn.init_train_state(model, optimizer, x, key=key), jax.random.key(0)
    )
    return compiling(fnn.train_step(model, fnn.losses.cross_entropy(), optimizer), state, (x, x))


def main() -> None:
    options = arguments(__doc__, rounds=7)
    print(f"{machine()}\n")
    block = fnn.transformer_block(HEADS, causal=True)
    deep, several = fnn.repeat(block, DEPTH), fnn.serial(*[block] * SHALLOW)
    pairs = {
        "training step, repeat": (DEPTH, training_step(deep), training_step(block)),
        "gradient, repeat": (DEPTH, gradient(deep, "manual"), gradient(block, "manual")),
        "gradient, repeat, auto": (DEPTH, gradient(deep, "auto"), gradient(block, "auto")),
        "gradient, serial": (SHALLOW, gradient(several, "manual"), gradient(block, "manual")),
    }
    rows = []
    for name, (depth, ours, other) in pairs.items():
        if picked(name, options):
            seconds = interleaved({"deep": ours, "one": other}, options.rounds)
            rows.append(compared(name, f"{depth} / 1", seconds["deep"], seconds["one"]))
    report(rows, COLUMNS)
    write(rows, options.json)


if __name__ == "__main__":
    main()
