"""Time a training step of seven networks: by hand, by autodiff, in `fit`, and in other libraries.

A row is fnn over another, see network_step.py for what its columns say. ``auto`` is our step by
autodiff; the others are PyTorch at its best in eager mode (all cores, channels last, fused
attention), Flax NNX, Equinox and plain JAX, each a network of as many parameters. Data is drawn at
random. PyTorch gains by a core of its own: on a busy machine hold all to one, by ``taskset -c 1``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import network_peers as peers
import numpy as np
from loops import LossName
from measure import Row, arguments, machine, report, watched, write
from network_step import COLUMNS, Batch, Network, network_rows
from torch_side import at_its_best

import fnn

IMAGE, PATCH, CLASSES, VOCABULARY = 32, 4, 10, 256
WIDTH, DEPTH = 128, 4
PIXELS = (784, 512, 128, 512, 784)


def resnet() -> fnn.Layer:
    return fnn.networks.resnet((2, 2, 2), CLASSES, width=32, stem="cifar")


def convolution(channels: int) -> fnn.Layer:
    return fnn.serial(fnn.conv(channels, 3), fnn.relu())


def level(channels: int, depth: int) -> fnn.Layer:
    if not depth:
        return convolution(channels)
    below = fnn.serial(fnn.max_pool(2), level(2 * channels, depth - 1), fnn.upsample(2))
    around = fnn.serial(fnn.parallel(skip=fnn.identity(), below=below), fnn.concatenate())
    return fnn.serial(convolution(channels), around, convolution(channels))


def unet() -> fnn.Layer:
    return fnn.serial(level(16, 2), fnn.conv(2, 1))


def vit() -> fnn.Layer:
    return fnn.networks.vit(
        CLASSES, image=IMAGE, patch=PATCH, width=WIDTH, depth=DEPTH, heads=peers.HEADS
    )


def gpt() -> fnn.Layer:
    return fnn.serial(
        fnn.embedding(VOCABULARY, WIDTH), fnn.positional("learned", WIDTH),
        fnn.repeat(fnn.transformer_block(peers.HEADS, causal=True), DEPTH),
        fnn.layer_norm(), fnn.dense(VOCABULARY),
    )  # fmt: skip


def lstm() -> fnn.Layer:
    return fnn.serial(fnn.embedding(VOCABULARY, WIDTH), fnn.lstm(2 * WIDTH), fnn.dense(VOCABULARY))


def turned(x: Any) -> Any:
    return jnp.swapaxes(x, 1, 2)


def turned_back(x: Any, dy: Any) -> Any:
    del x
    return jnp.swapaxes(dy, 1, 2)


def mixer() -> fnn.Layer:
    steps = (IMAGE // PATCH) ** 2
    swap = fnn.from_function(turned, turned_back)
    block = fnn.serial(
        fnn.residual(fnn.serial(fnn.layer_norm(), swap, fnn.mlp(2 * steps), swap)),
        fnn.residual(fnn.serial(fnn.layer_norm(), fnn.mlp(4 * WIDTH))),
    )
    return fnn.serial(
        fnn.conv(WIDTH, PATCH, stride=PATCH, padding="VALID"), fnn.reshape(-1, WIDTH),
        fnn.repeat(block, DEPTH), fnn.layer_norm(), fnn.global_average_pool(), fnn.dense(CLASSES),
    )  # fmt: skip


def autoencoder() -> fnn.Layer:
    hidden = [part for width in PIXELS[1:-1] for part in (fnn.dense(width), fnn.relu())]
    return fnn.serial(*hidden, fnn.dense(PIXELS[-1]))


def images(count: int, size: int = IMAGE) -> Batch:
    random = np.random.default_rng(0)
    x = random.normal(size=(count, size, size, 3)).astype(np.float32)
    return x, random.integers(CLASSES, size=count).astype(np.int32)


def masks(count: int) -> Batch:
    """Draw blots under noise; the labels say which pixels are of a blot."""
    random = np.random.default_rng(0)
    blots = random.normal(size=(count, 8, 8)).repeat(8, 1).repeat(8, 2) > 0
    x = blots[..., None] + random.normal(size=(count, 64, 64, 1))
    return x.astype(np.float32), blots.astype(np.int32)


def text(count: int, steps: int) -> Batch:
    """Draw tokens that count on from a random one: the next is known."""
    start = np.random.default_rng(0).integers(VOCABULARY, size=(count, 1))
    tokens = (start + np.arange(steps + 1)) % VOCABULARY
    return tokens[:, :-1].astype(np.int32), tokens[:, 1:].astype(np.int32)


def noisy(count: int) -> Batch:
    random = np.random.default_rng(0)
    clean = random.uniform(size=(count, PIXELS[0])).astype(np.float32)
    return clean + 0.3 * random.normal(size=clean.shape).astype(np.float32), clean


def makers(
    model: Callable[[], fnn.Layer], network: Callable[..., Any], *of: Any,
    loss: LossName = "cross_entropy",
) -> Any:  # fmt: skip
    """Return what makes the training loop of each other library, of as many parameters as ours."""

    def make(kit: Any, loop: Any, rate: float, *batch: Any) -> Any:
        own = kit()
        other = own.whole(network(own, *of))
        params, _ = jax.eval_shape(model().init, jax.random.key(0), batch[0])
        ours, theirs = sum(leaf.size for leaf in jax.tree.leaves(params)), own.size_of(other)
        if ours != theirs:
            raise SystemExit(f"{model.__name__}: {ours} parameters, {theirs} by {kit.__name__}")
        return loop(other, rate, [batch], loss)

    return {name: functools.partial(make, *pair) for name, pair in peers.KITS.items()}


NETWORKS = {
    "residual network": Network(
        "32x32x3, batch 64", resnet, lambda: images(64), 0.05,
        makers(resnet, peers.residual_network, 32, 3, CLASSES),
    ),
    "unet": Network(
        "64x64x1, batch 16", unet, lambda: masks(16), 0.05, makers(unet, peers.unet, 16, 2, 2),
    ),
    "vit": Network(
        "32x32x3, batch 64", vit, lambda: images(64), 0.01,
        makers(vit, peers.vit, IMAGE, PATCH, WIDTH, DEPTH, CLASSES),
    ),
    "gpt": Network(
        "T 128, batch 16", gpt, lambda: text(16, 128), 0.05,
        makers(gpt, peers.gpt, VOCABULARY, 128, WIDTH, DEPTH),
    ),
    "lstm language model": Network(
        "T 64, batch 64", lstm, lambda: text(64, 64), 0.5,
        makers(lstm, peers.lstm, VOCABULARY, WIDTH, 2 * WIDTH),
    ),
    "mlp-mixer": Network(
        "32x32x3, batch 64", mixer, lambda: images(64), 0.05,
        makers(mixer, peers.mixer, IMAGE, PATCH, WIDTH, DEPTH, CLASSES),
    ),
    "denoising autoencoder": Network(
        "784-512-128, batch 256", autoencoder, lambda: noisy(256), 1e-3,
        makers(autoencoder, peers.autoencoder, PIXELS, loss="squared_error"),
        fnn.losses.squared_error(),
    ),
}  # fmt: skip


def summarize(rows: Sequence[Row]) -> None:
    for mode in ("step", "fit"):
        for other in ("auto", *peers.KITS):
            ratios = [
                row["time_ratio"] for row in rows if row["name"].endswith(f": {mode} / {other}")
            ]
            if ratios:
                mean = float(np.exp(np.log(ratios).mean()))
                print(f"{mode} / {other}: geometric mean of time {mean:.3f} over {len(ratios)}")
    compiling = [row["compile_s"] / row["other_compile_s"] for row in rows
                 if row["name"].endswith(": step / auto")]  # fmt: skip
    if compiling:
        print(f"compiling by hand takes {median(compiling):.2f} of the time by autodiff (median)")


def main() -> None:
    options = arguments(__doc__, rounds=9)
    at_its_best()
    print(f"{machine()}\n")
    rows: list[Row] = []
    try:
        for name in watched(NETWORKS):
            rows += network_rows(name, NETWORKS[name], options)
    finally:
        # What has been measured is not lost by what fails.
        report(rows, COLUMNS)
        print()
        summarize(rows)
        write(rows, options.json)


if __name__ == "__main__":
    main()
