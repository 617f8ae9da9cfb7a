"""Measure manual against automatic gradients of every layer: time and temporary bytes, two sizes.

A row is one layer at one size, forward and backward in training in one compiled program: by the
layer's own `backward`, and by `jax.vjp` of its `apply`, which is that of the plain formula. Inputs,
cotangent, precision and returned values are the same; both are compiled and warm, and take turns.
time_ratio is the median over the rounds of manual over auto, below 1 where manual is faster, of one
call, whose results stand in memory taken anew, which is much of the time of a small or a cheap
layer, and a matter of luck; loop_ratio is that of a loop of such steps in one program, as training
is one. memory_ratio is that of the temporary bytes of the two programs of a call, ``-`` where auto
needs none and manual some. The losses are measured as layers of their predictions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from measure import (
    Row,
    arguments,
    computing_where_called,
    machine,
    picked,
    report,
    watched,
    write,
)

import fnn
from fnn.lab import Measurement, both_ways, choose, in_bytes, measure
from fnn.losses import Loss

COLUMNS = (
    "family", "name", "size", "time_ratio", "loop_ratio", "memory_ratio",
    "manual_ms", "auto_ms", "manual_bytes", "auto_bytes",
)  # fmt: skip
# Those that hold a matrix product, a reduction or a recurrence.
STRUCTURED = {
    "dense", "convolution", "pooling", "normalization", "softmax", "recurrent", "attention",
    "heads",
}  # fmt: skip
SMALL, LARGE = (256, 512), (4096, 512)
WORDS = 1.05
# Steps of a loop, by whether the size is the larger one.
STEPS_OF_LOOP = {False: 16, True: 4}


class Case(NamedTuple):
    """A layer of a family, and the two sizes of x: shapes of numbers, or arrays of indices."""

    family: str
    name: str
    layer: fnn.Layer
    sizes: tuple[Any, ...] = (SMALL, LARGE)


def of_loss(loss: Loss, target: Callable[[Any], Any]) -> fnn.Layer:
    """Make a layer of a loss, for a target that depends on the shape of the prediction.

    The target is its state: a constant would be folded into the program.
    """

    def init(key: Any, prediction: Any, /) -> tuple[Any, Any]:
        del key
        return (), target(shape_of(prediction))

    def apply(params: Any, state: Any, prediction: Any, /, **options: Any) -> tuple[Any, Any]:
        del params, options
        return loss.apply(prediction, state), state

    def forward(params: Any, state: Any, prediction: Any, /, **options: Any) -> Any:
        del params, options
        values, residuals = loss.forward(prediction, state)
        return values, state, residuals

    def backward(params: Any, residuals: Any, dy: Any, /) -> tuple[Any, Any]:
        del params
        return (), loss.backward(residuals, dy)

    return fnn.Layer(init, apply, forward, backward)


def shape_of(prediction: Any) -> tuple[int, ...]:
    if isinstance(prediction, fnn.LinearHead):
        return (*prediction.features.shape[:-1], prediction.weight.shape[-1])
    return prediction.shape


def labels(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(0).integers(shape[-1], size=shape[:-1])


def numbers(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def bits(shape: tuple[int, ...]) -> Any:
    return (numbers(shape) > 0).astype(np.float32)


def signs(shape: tuple[int, ...]) -> Any:
    return 2 * bits(shape) - 1


def linear_head(classes: int) -> fnn.Layer:
    """Make the chunked loss by hand, and the usual one, of all logits, for autodiff."""
    chunked = fnn.serial(
        fnn.linear_head(classes), of_loss(fnn.losses.linear_cross_entropy(), labels)
    )
    plain = fnn.serial(fnn.dense(classes), of_loss(fnn.losses.cross_entropy(), labels))
    return dataclasses.replace(chunked, apply=plain.apply)


def block(width: int) -> fnn.Layer:
    return fnn.serial(fnn.dense(width), fnn.gelu(), fnn.dense(width))


def reversible(depth: int) -> fnn.Layer:
    return fnn.reversible(block(256), block(256), depth)


def tokens(*shape: int) -> Any:
    return np.random.default_rng(0).integers(CLASSES, size=shape).astype(np.int32)


CLASSES = 32000
IMAGES = ((32, 14, 14, 64), (128, 28, 28, 64))
FEW_CHANNELS = ((32, 14, 14, 32), (128, 28, 28, 32))
ONE_CHANNEL = ((32, 28, 28, 1), (128, 28, 28, 1))
SMALL_IMAGES = ((32, 7, 7, 64), (128, 14, 14, 64))
LINES = ((32, 100, 64), (128, 400, 64))
STEPS = ((32, 50, 64), (64, 100, 128))
# XLA for CPUs has other programs for an axis of one.
ONE_IMAGE = ((1, 64, 64, 64), (1, 128, 128, 64))
ONE_SEQUENCE = ((1, 128, 64), (1, 512, 64))
WINDOWS = ((8, 128, 256), (4, 1024, 512))
ACTIVATIONS = (
    "identity", "sign", "straight_through_sign", "sigmoid", "tanh", "relu", "leaky_relu", "elu",
    "selu", "gelu", "silu", "mish", "softplus", "relu6", "hard_sigmoid", "hard_silu", "hard_tanh",
)  # fmt: skip
# Windows inside of the image, as those of the other libraries.
AVERAGE_POOL = fnn.average_pool(3, stride=2, padding="VALID")
CASES = [
    Case("dense", "dense", fnn.dense(512)),
    *(Case("activations", name, getattr(fnn, name)()) for name in ACTIVATIONS),
    Case("activations", "gelu approximate", fnn.gelu(approximate=True)),
    Case("gates", "prelu", fnn.prelu()),
    Case("gates", "glu", fnn.glu()),
    Case("gates", "geglu", fnn.geglu(512)),
    Case("gates", "swiglu", fnn.swiglu(512)),
    Case("softmax", "softmax", fnn.softmax()),
    Case("softmax", "log_softmax", fnn.log_softmax()),
    Case("noise", "dropout", fnn.dropout(0.3)),
    Case("noise", "spatial_dropout", fnn.spatial_dropout(0.3), IMAGES),
    Case("noise", "gaussian_noise", fnn.gaussian_noise(0.1)),
    Case("normalization", "batch_norm", fnn.batch_norm()),
    Case("normalization", "batch_norm images", fnn.batch_norm(), IMAGES),
    Case("normalization", "layer_norm", fnn.layer_norm()),
    Case("normalization", "rms_norm", fnn.rms_norm()),
    Case("normalization", "group_norm", fnn.group_norm(8), IMAGES),
    Case("normalization", "group_norm of one image", fnn.group_norm(8), ONE_IMAGE),
    Case("normalization", "instance_norm", fnn.instance_norm(), IMAGES),
    Case("convolution", "conv 3x3", fnn.conv(64, 3), FEW_CHANNELS),
    # In a loop, as every training run is one.
    Case("convolution", "conv 3x3 in a loop", fnn.repeat(fnn.conv(32, 3), 5), FEW_CHANNELS[:1]),
    Case("convolution", "conv 3x3 of one channel", fnn.conv(32, 3), ONE_CHANNEL),
    Case("convolution", "conv 1x1", fnn.conv(64, 1), FEW_CHANNELS),
    Case("convolution", "conv 5x5 stride 2", fnn.conv(64, 5, stride=2), FEW_CHANNELS),
    Case("convolution", "conv 3x3 in 4 groups", fnn.conv(64, 3, groups=4), FEW_CHANNELS),
    Case("convolution", "depthwise_conv 3x3", fnn.depthwise_conv(3), FEW_CHANNELS),
    Case(
        "convolution", "conv_transpose 3x3 stride 2", fnn.conv_transpose(32, 3, stride=2),
        SMALL_IMAGES,
    ),
    Case("convolution", "conv of 3 in 1 dimension", fnn.conv(64, 3), LINES),
    Case("pooling", "max_pool 2x2", fnn.max_pool(2), IMAGES),
    Case("pooling", "max_pool 3x3 stride 2", fnn.max_pool(3, stride=2, padding="VALID"), IMAGES),
    Case("pooling", "average_pool 2x2", fnn.average_pool(2), IMAGES),
    Case("pooling", "average_pool 3x3 stride 2", AVERAGE_POOL, IMAGES),
    Case("pooling", "global_average_pool", fnn.global_average_pool(), IMAGES),
    Case("pooling", "global_max_pool", fnn.global_max_pool(), IMAGES),
    Case("pooling", "adaptive_average_pool 7x7", fnn.adaptive_average_pool(7), IMAGES),
    Case("pooling", "adaptive_max_pool 7x7", fnn.adaptive_max_pool(7), IMAGES),
    Case("resizing", "upsample nearest", fnn.upsample(2), SMALL_IMAGES),
    Case("resizing", "upsample linear", fnn.upsample(2, method="linear"), SMALL_IMAGES),
    Case("recurrent", "rnn", fnn.rnn(256), STEPS),
    Case("recurrent", "lstm", fnn.lstm(256), STEPS),
    Case("recurrent", "lstm of one sequence", fnn.lstm(64), ONE_SEQUENCE),
    Case("recurrent", "gru", fnn.gru(256), STEPS),
    Case("attention", "attention of 8 heads", fnn.attention(8), WINDOWS),
    Case("attention", "attention causal", fnn.attention(8, causal=True), WINDOWS),
    Case("attention", "transformer_block causal", fnn.transformer_block(8, causal=True), WINDOWS),
    Case("attention", "mlp", fnn.mlp(), WINDOWS),
    Case("embedding", "embedding", fnn.embedding(CLASSES, 256), (tokens(256), tokens(64, 256))),
    Case("embedding", "positional", fnn.positional(), WINDOWS),
    Case("embedding", "rotary", fnn.rotary(), ((8, 128, 8, 32), (4, 1024, 8, 64))),
    Case("shape", "flatten", fnn.flatten(), IMAGES),
    Case("shape", "reshape", fnn.reshape(16, 32)),
    Case("combinators", "residual", fnn.residual(block(512))),
    Case("combinators", "repeat of 8", fnn.repeat(block(512), 8)),
    Case("combinators", "repeat of 8 remat", fnn.repeat(fnn.remat(block(512)), 8)),
    Case("combinators", "reversible of 2", reversible(2)),
    Case("combinators", "reversible of 32", reversible(32), (SMALL,)),
    Case(
        "heads", "linear_head, linear_cross_entropy", linear_head(CLASSES),
        ((256, 256), (2048, 256)),
    ),
    Case("losses", "cross_entropy", of_loss(fnn.losses.cross_entropy(), labels)),
    Case("losses", "cross_entropy smoothed", of_loss(fnn.losses.cross_entropy(0.1), labels)),
    Case("losses", "nll", of_loss(fnn.losses.nll(), labels)),
    Case("losses", "binary_cross_entropy", of_loss(fnn.losses.binary_cross_entropy(), bits)),
    Case("losses", "logistic", of_loss(fnn.losses.logistic(), signs)),
    Case("losses", "hinge", of_loss(fnn.losses.hinge(), signs)),
    Case("losses", "squared_error", of_loss(fnn.losses.squared_error(), numbers)),
    Case("losses", "absolute_error", of_loss(fnn.losses.absolute_error(), numbers)),
    Case("losses", "huber", of_loss(fnn.losses.huber(), numbers)),
]  # fmt: skip


def weight_gradient(layer: fnn.Layer, x: Any, rounds: int) -> Measurement:
    """Measure what the first layer of a network needs: the gradient of its weights alone."""
    params, _ = layer.init(jax.random.key(0), x)

    def manual(params: Any, x: Any, dy: Any) -> Any:
        return layer.backward(params, layer.forward(params, (), x)[2], dy)[0]

    def auto(params: Any, x: Any, dy: Any) -> Any:
        return jax.vjp(lambda params: layer.apply(params, (), x)[0], params)[1](dy)

    dy = numbers(layer.apply(params, (), x)[0].shape)
    ways = both_ways(
        {"manual": manual, "auto": auto}, (params, x, dy), {"manual": 0, "auto": 0}, rounds
    )
    return Measurement(**ways)


def in_a_loop(layer: fnn.Layer, x: Any, steps: int, rounds: int) -> Measurement:
    """Measure a loop of steps, each of which begins with what XLA takes for other inputs."""
    key = jax.random.key(0)
    if isinstance(x, jax.ShapeDtypeStruct):
        x = numbers(x.shape)
    params, state = layer.init(key, x)
    indices = jax.numpy.issubdtype(x.dtype, jax.numpy.integer)

    def apply(params: Any, state: Any, x: Any) -> Any:
        return layer.apply(params, state, x, key=key, train=True)[0]

    def manual(params: Any, state: Any, x: Any, dy: Any) -> Any:
        y, _, residuals = layer.forward(params, state, x, key=key, train=True)
        return y, *layer.backward(params, residuals, dy)

    def auto(params: Any, state: Any, x: Any, dy: Any) -> Any:
        if indices:
            y, back = jax.vjp(lambda params: apply(params, state, x), params)
            return y, *back(dy), None
        y, back = jax.vjp(lambda params, x: apply(params, state, x), params, x)
        return y, *back(dy)

    def looped(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(carry: Any, _: None) -> Any:
            inputs = jax.lax.optimization_barrier(carry[0])
            return (inputs, function(*inputs)), None

        def loop(*inputs: Any) -> Any:
            shapes = jax.eval_shape(function, *inputs)
            zeros = jax.tree.map(lambda spec: jax.numpy.zeros(spec.shape, spec.dtype), shapes)
            return jax.lax.scan(step, (inputs, zeros), length=steps)[0][1]

        return loop

    dy = jax.tree.map(lambda y: numbers(y.shape), jax.eval_shape(apply, params, state, x))
    functions = {"manual": looped(manual), "auto": looped(auto)}
    ways = both_ways(functions, (params, state, x, dy), {"manual": 0, "auto": 0}, rounds)
    return Measurement(**ways)


ALONE = Case("convolution", "conv 3x3, weight gradient alone", fnn.conv(64, 3), FEW_CHANNELS)


def row_of(case: Case, size: Any, ways: Measurement, loop: Measurement | None = None) -> Row:
    memory = ways.memory_ratio
    return {
        "family": case.family,
        "name": case.name,
        "size": "x".join(map(str, getattr(size, "shape", size))),
        "time_ratio": ways.time_ratio,
        "loop_ratio": None if loop is None else loop.time_ratio,
        "memory_ratio": memory if math.isfinite(memory) else None,
        "manual_ms": ways.manual.milliseconds,
        "auto_ms": ways.auto.milliseconds,
        "manual_bytes": ways.manual.temporary_bytes,
        "auto_bytes": ways.auto.temporary_bytes,
        "tuned": choose(ways, "time"),
    }


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def summarize(rows: list[Row]) -> None:
    structured = [row["time_ratio"] for row in rows if row["family"] in STRUCTURED]
    for what, ratios in (
        ("layers with a matrix product, a reduction or a recurrence", structured),
        ("everything", [row["time_ratio"] for row in rows]),
    ):
        if ratios:
            print(f"geometric mean of time over {what}: {geometric_mean(ratios):.3f}")
    loops = [row["loop_ratio"] for row in rows if row["loop_ratio"] is not None]
    if loops:
        above = sum(ratio > WORDS for ratio in loops)
        print(f"in a loop: {geometric_mean(loops):.3f}; {above} of {len(loops)} above {WORDS}")
    depths = {row["name"]: row for row in rows if row["size"] == "x".join(map(str, SMALL))}
    deep, flat = (depths.get(f"reversible of {depth}") for depth in (32, 2))
    if deep and flat:
        hand, auto = (deep[f"{w}_bytes"] / flat[f"{w}_bytes"] for w in ("manual", "auto"))
        print(
            f"reversible: 32 blocks take {hand:.2f} times the memory of 2, by autodiff {auto:.2f}"
        )
    for row in rows:
        if row["time_ratio"] > WORDS:
            used = "auto is used there by tune" if row["tuned"] == "auto" else "within the spread"
            loop = "" if row["loop_ratio"] is None else f", {row['loop_ratio']:.2f} in a loop"
            print(
                f"{row['name']} {row['size']}: {row['time_ratio']:.2f} times the time{loop}; {used}"
            )
    for row in rows:
        if row["manual_bytes"] > row["auto_bytes"]:
            print(
                f"{row['name']} {row['size']}: {in_bytes(row['manual_bytes'])} of temporary memory"
                f" where auto takes {in_bytes(row['auto_bytes'])}; tune(by='bytes') takes auto"
            )


def main() -> None:
    options = arguments(__doc__, rounds=15)
    computing_where_called()
    print(f"{machine()}\n")
    rows: list[Row] = []
    try:
        for case in watched(case for case in CASES if picked(case.name, options)):
            for number, size in enumerate(case.sizes):
                x = jax.ShapeDtypeStruct(size, "float32") if isinstance(size, tuple) else size
                ways = measure(case.layer, x, key=jax.random.key(0), rounds=options.rounds)
                loop = in_a_loop(case.layer, x, STEPS_OF_LOOP[number > 0], options.rounds)
                rows.append(row_of(case, size, ways, loop))
        if picked(ALONE.name, options):
            for size in ALONE.sizes:
                ways = weight_gradient(ALONE.layer, numbers(size), options.rounds)
                rows.append(row_of(ALONE, size, ways))
    finally:
        # What has been measured is not lost by what fails.
        report(rows, COLUMNS)
        print()
        summarize(rows)
        write(rows, options.json)


if __name__ == "__main__":
    main()
