"""The networks of the main job, by name: a perceptron, a convolutional and two recurrent ones."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import jax

import fnn
from fnn._core.errors import InputError, describe
from fnn.combinators.serial import serial
from fnn.layer import Layer
from fnn.layers.conv.conv import conv
from fnn.layers.dense import dense
from fnn.layers.dropout import dropout, spatial_dropout
from fnn.layers.norm.batch_norm import batch_norm
from fnn.layers.pool.pool import max_pool
from fnn.layers.recurrent.recurrent import last_step, lstm, rnn
from fnn.layers.shape import flatten, reshape

Model: TypeAlias = Literal["mlp", "cnn", "rnn", "lstm"]
Activation: TypeAlias = Literal[
    "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "tanh", "sigmoid",
    "straight_through_sign", "identity",
]  # fmt: skip
HIDDEN: dict[str, tuple[int, ...]] = {"mlp": (256, 128), "cnn": (128,), "rnn": (64,), "lstm": (64,)}


def network(
    model: Model,
    image: tuple[int, ...],
    classes: int,
    *,
    hidden: tuple[int, ...] | None = None,
    channels: tuple[int, ...] = (16, 32),
    activation: Activation = "relu",
    normalize: bool = True,
    rate: float = 0.3,
) -> Layer:
    """Return a network from images (B, H, W) to scores (B, K).

    ``mlp`` flattens the image into dense layers of the widths `hidden`. ``cnn`` begins with a 3x3
    convolution for each number in `channels`, the places halved after each by max-pooling. ``rnn``
    and ``lstm`` read the image row by row, and decide after the last: `hidden` are the sizes of the
    states. Where `normalize` says so a batch norm stands before every `activation`, and `rate` is
    the fraction dropped after it; recurrent layers have neither norm nor activation.

    >>> network("mlp", (28, 28), 10, hidden=(32,), normalize=False, rate=0.0)
    serial(flatten(), dense(32, initializer=variance_scaling), relu(), dense(10))
    """
    for name, value, known in (
        ("model", model, get_args(Model)),
        ("activation", activation, get_args(Activation)),
    ):
        if value not in known:
            raise InputError(f"{name} of {', '.join(known)}", describe(value), "pick one")
    he = jax.nn.initializers.he_normal()
    widths = HIDDEN[model] if hidden is None else hidden

    def unit(layer: Layer, dropped: Any) -> list[Layer]:
        parts = [layer, batch_norm()] if normalize else [layer]
        parts.append(getattr(fnn, activation)())
        return [*parts, dropped(rate)] if rate else parts

    layers: list[Layer] = []
    if model in ("rnn", "lstm"):
        make = rnn if model == "rnn" else lstm
        for width in widths:
            layers += [make(width), dropout(rate)] if rate else [make(width)]
        return serial(*layers, last_step(), dense(classes))
    if model == "cnn":
        layers.append(reshape(*image, 1))
        for count in channels:
            layers += [*unit(conv(count, 3, initializer=he), spatial_dropout), max_pool(2)]
    layers.append(flatten())
    for width in widths:
        layers += unit(dense(width, initializer=he), dropout)
    return serial(*layers, dense(classes))
