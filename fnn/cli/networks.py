"""The networks of the command line by name: multilayer perceptron, convolutional, recurrent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import jax

import fnn
from fnn._core import check
from fnn._core.errors import InputError
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
RECURRENT = ("rnn", "lstm")
# Once: jax makes a new function at each call, and a program for each.
INITIALIZERS: dict[str, jax.nn.initializers.Initializer] = {
    "he_normal": jax.nn.initializers.he_normal(),
    "he_uniform": jax.nn.initializers.he_uniform(),
    "glorot_normal": jax.nn.initializers.glorot_normal(),
    "glorot_uniform": jax.nn.initializers.glorot_uniform(),
    "lecun_normal": jax.nn.initializers.lecun_normal(),
    "lecun_uniform": jax.nn.initializers.lecun_uniform(),
    "orthogonal": jax.nn.initializers.orthogonal(),
    "normal": jax.nn.initializers.normal(),
    "zeros": jax.nn.initializers.zeros,
}


def network(
    model: Model,
    example: tuple[int, ...],
    outputs: int,
    *,
    hidden: tuple[int, ...],
    channels: tuple[int, ...] = (),
    activation: Activation | None = "relu",
    initializer: str | None = None,
    normalize: bool = False,
    rate: float = 0.0,
) -> Layer:
    """Network from images (B, H, W) or points (B, D) to outputs (B, K).

    ``mlp`` flattens the image into dense layers. ``cnn`` begins with 3x3 convolutions, the spatial
    axes halved after each by max-pooling. ``rnn`` and ``lstm`` read the image row by row, and
    decide after the last; they have neither norm nor activation.

    Args:
        model: which one.
        example: (H, W) of images, (D,) of points, which only ``mlp`` takes.
        outputs: K.
        hidden: the widths of the dense layers, or of the hidden states.
        channels: the width of each convolution.
        activation: stands after every dense layer or convolution.
        initializer: of all weights but those inside of a recurrence; None for ``he_normal`` before
            an activation and ``lecun_normal`` elsewhere.
        normalize: whether a batch normalization stands before every activation.
        rate: the fraction dropped after it.
    Raises:    InputError for an unknown name, for an argument that the network has no use for, and
        as the layers do.

    >>> network("mlp", (28, 28), 10, hidden=(32,))
    serial(flatten(), dense(32, initializer=variance_scaling), relu(), dense(10))
    """
    check.one_of(model, "model", get_args(Model))
    if model != "mlp" and len(example) != 2:
        raise InputError(
            f"images for {model}", f"points of {example[0]} numbers", "pass --model mlp"
        )
    if initializer is not None:
        check.one_of(initializer, "initializer", INITIALIZERS)
    he = INITIALIZERS[initializer or "he_normal"]
    plain = INITIALIZERS[initializer or "lecun_normal"]
    head = dense(outputs) if initializer is None else dense(outputs, initializer=plain)
    layers: list[Layer] = []
    if model in RECURRENT:
        make = rnn if model == "rnn" else lstm
        for width in hidden:
            layers += [make(width, initializer=plain), *([dropout(rate)] if rate else [])]
        return serial(*layers, last_step(), head)

    def unit(layer: Layer, dropped: Callable[[float], Layer]) -> list[Layer]:
        parts = [
            layer,
            *([batch_norm()] if normalize else []),
            getattr(fnn, activation or "relu")(),
        ]
        return [*parts, dropped(rate)] if rate else parts

    if model == "cnn":
        layers.append(reshape(*example, 1))
        for count in channels:
            layers += [*unit(conv(count, 3, initializer=he), spatial_dropout), max_pool(2)]
    if len(example) > 1:
        layers.append(flatten())
    for width in hidden:
        layers += unit(dense(width, initializer=he), dropout)
    return serial(*layers, head)
