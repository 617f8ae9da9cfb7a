"""Time how long programs take to compile: by hand against autodiff, and deep against shallow.

Rows "NETWORK: manual / auto" are the gradients of the networks of `networks.py` in parameters, by
hand over by autodiff, "in a training step" the same within the step of SGD. `ours` and `other` are
instructions of the programs as JAX hands them to XLA, and ours_fused and other_fused those that are
left when XLA has fused them. Rows "LAYER: manual / auto" are the same for one layer, forward and
backward.

The others are a transformer of 48 blocks against one of a single block. time_ratio is the deep
model over the shallow one: through `fnn.repeat` the depth should not matter, but for what it takes
to stack the parameters, residuals and gradients of all blocks. "gradient" is that of bare blocks,
by hand and by `jax.grad`; "training step" that of a GPT by hand, with its embedding and head and
Adam. For comparison blocks one after the other, through `fnn.serial`, fewer of them.

Times are CPU seconds of tracing and compiling: of all cores, without what else the machine does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
from measure import Row, arguments, compared, interleaved, machine, picked, report, watched, write
from networks import NETWORKS

import fnn

COLUMNS = (
    "name", "size", "time_ratio", "ours_ms", "other_ms", "ours", "other", "ours_fused",
    "other_fused",
)  # fmt: skip
DEPTH, SHALLOW = 48, 6
HEADS, WIDTH, ALPHABET = 4, 256, 96
BATCH, TIME = 4, 128
LAYERS = (
    (fnn.dense(64), (32, 64)),
    (fnn.conv(32, 3), (8, 16, 16, 32)),
    (fnn.conv(64, 3, stride=2), (8, 16, 16, 32)),
    (fnn.max_pool(2), (8, 16, 16, 32)),
    (fnn.upsample(2), (8, 16, 16, 32)),
    (fnn.batch_norm(), (8, 16, 16, 32)),
    (fnn.layer_norm(), (8, 16, 64)),
    (fnn.gelu(), (8, 16, 64)),
    (fnn.relu(), (8, 16, 64)),
    (fnn.attention(4, causal=True), (8, 16, 64)),
    (fnn.lstm(64), (8, 16, 64)),
    (fnn.gru(64), (8, 16, 64)),
)


class Compiling:
    """Compile a function for arrays or their shapes: returns its seconds, remembers its sizes."""

    def __init__(self, function: Callable[..., Any], *arrays: Any):
        self.function, self.arrays = function, arrays
        self.sizes: list[int] = []

    def __call__(self) -> float:
        jax.clear_caches()
        began = time.process_time()
        lowered = jax.jit(self.function).lower(*self.arrays)
        compiled = lowered.compile()
        seconds = time.process_time() - began
        texts = lowered.as_text(), compiled.as_text()
        self.sizes = [text.count(" = ") for text in texts]
        return seconds


def gradient(blocks: fnn.Layer, which: str) -> Compiling:
    x = jax.ShapeDtypeStruct((BATCH, TIME, WIDTH), "float32")
    params, state = jax.eval_shape(blocks.init, jax.random.key(0), x)
    step = fnn.value_and_grad(blocks, fnn.losses.squared_error(), which)
    return Compiling(step, params, state, (x, x))


def training_step(blocks: fnn.Layer) -> Compiling:
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
    return Compiling(fnn.train_step(model, fnn.losses.cross_entropy(), optimizer), state, (x, x))


def of_network(name: str, way: str, stepping: bool) -> Compiling:
    network = NETWORKS[name]
    model, batch, key = network.model(), network.batch(), jax.random.key(0)
    if stepping:
        optimizer = fnn.optim.sgd(network.rate)
        state = jax.eval_shape(
            lambda key: fnn.init_train_state(model, optimizer, batch[0], key=key), key
        )
        return Compiling(fnn.train_step(model, network.loss, optimizer, way), state, batch)
    params, state = jax.eval_shape(model.init, key, batch[0])
    step = fnn.value_and_grad(model, network.loss, way)
    return Compiling(lambda *of: step(*of, key=key), params, state, batch)


def of_layer(layer: fnn.Layer, shape: tuple[int, ...], way: str) -> Compiling:
    x = jax.ShapeDtypeStruct(shape, "float32")
    params, state = jax.eval_shape(layer.init, jax.random.key(0), x)

    def run(params: Any, state: Any, x: Any, dy: Any) -> Any:
        if way == "auto":
            y, pull_back = jax.vjp(lambda p, x: layer.apply(p, state, x, train=True)[0], params, x)
            return y, pull_back(dy)
        y, _, residuals = layer.forward(params, state, x, train=True)
        return y, layer.backward(params, residuals, dy)

    y, _ = jax.eval_shape(lambda *of: layer.apply(*of, train=True), params, state, x)
    return Compiling(run, params, state, x, y)


def pairs() -> dict[str, tuple[str, Compiling, Compiling]]:
    """Return by name a size, what is compiled, and what it is compared with."""
    found = {}
    for name, network in NETWORKS.items():
        for stepping, where in ((False, ""), (True, " in a training step")):
            ours, other = (of_network(name, way, stepping) for way in ("manual", "auto"))
            found[f"{name}{where}: manual / auto"] = network.size, ours, other
    for layer, shape in LAYERS:
        ours, other = (of_layer(layer, shape, way) for way in ("manual", "auto"))
        found[f"{layer}: manual / auto"] = "x".join(map(str, shape)), ours, other
    block = fnn.transformer_block(HEADS, causal=True)
    deep, several = fnn.repeat(block, DEPTH), fnn.serial(*[block] * SHALLOW)
    size = f"{DEPTH} / 1"
    found |= {
        "training step, repeat": (size, training_step(deep), training_step(block)),
        "gradient, repeat": (size, gradient(deep, "manual"), gradient(block, "manual")),
        "gradient, repeat, auto": (size, gradient(deep, "auto"), gradient(block, "auto")),
        "gradient, serial": (
            f"{SHALLOW} / 1", gradient(several, "manual"), gradient(block, "manual"),
        ),
    }  # fmt: skip
    return found


def main() -> None:
    options = arguments(__doc__, rounds=5)
    print(f"{machine()}\n")
    rows: list[Row] = []
    for name, (size, ours, other) in watched(pairs().items()):
        if picked(name, options):
            turns: dict[str, Callable[[], float]] = {"ours": ours, "other": other}
            seconds = interleaved(turns, options.rounds)
            row = compared(name, size, seconds["ours"], seconds["other"])
            for way, of in (("ours", ours), ("other", other)):
                row[way], row[f"{way}_fused"] = of.sizes
            rows.append(row)
    report(rows, COLUMNS)
    write(rows, options.json)


if __name__ == "__main__":
    main()
