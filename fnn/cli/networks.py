"""The networks of the main job by name: multilayer perceptron, convolutional, recurrent."""

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
CHANNELS = (16, 32)
HIDDEN: dict[str, tuple[int, ...]] = {"mlp": (256, 128), "cnn": (128,), "rnn": (64,), "lstm": (64,)}


def network(
    model: Model,
    image: tuple[int, ...],
    classes: int,
    *,
    hidden: tuple[int, ...] | None = None,
    channels: tuple[int, ...] | None = None,
    activation: Activation | None = None,
    normalize: bool | None = None,
    rate: float = 0.3,
) -> Layer:
    """Network from images (B, H, W) to scores (B, K).

    ``mlp`` flattens the image into dense layers. ``cnn`` begins with 3x3 convolutions, the spatial
    axes halved after each by max-pooling. ``rnn`` and ``lstm`` read the image row by row, and
    decide after the last; they have neither norm nor activation.

    Args:
        model: which one.
        image: (H, W).
        classes: K.
        hidden: the widths of the dense layers, or of the hidden states; None for the usual ones.
        channels: the width of each convolution; None for the usual ones.
        activation: stands after every dense layer or convolution; None for ReLU.
        normalize: whether a batch normalization stands before every activation; None where there
            are activations.
        rate: the fraction dropped after it.
    Raises:    InputError for an unknown name, for an argument that the network has no use for, and
        as the layers do.

    >>> network("mlp", (28, 28), 10, hidden=(32,), normalize=False, rate=0.0)
    serial(flatten(), dense(32, initializer=variance_scaling), relu(), dense(10))
    """
    check.one_of(model, "model", get_args(Model))
    is_recurrent = model in ("rnn", "lstm")
    for name, given, is_useless in (
        ("channels", channels is not None, model != "cnn"),
        ("activation", activation is not None, is_recurrent),
        ("batch_norm", normalize is True, is_recurrent),
    ):
        if given and is_useless:
            raise InputError(f"no {name} for {model}", "one", "leave it out, or take another model")
    if activation is not None:
        check.one_of(activation, "activation", get_args(Activation))
    if normalize is not None:
        check.flag(normalize, "normalize")
    he = jax.nn.initializers.he_normal()
    widths = HIDDEN[model] if hidden is None else hidden

    def unit(layer: Layer, dropped: Callable[[float], Layer]) -> list[Layer]:
        parts = [layer] if normalize is False else [layer, batch_norm()]
        parts.append(getattr(fnn, activation or "relu")())
        return [*parts, dropped(rate)] if rate else parts

    layers: list[Layer] = []
    if is_recurrent:
        make = rnn if model == "rnn" else lstm
        for width in widths:
            layers += [make(width), dropout(rate)] if rate else [make(width)]
        return serial(*layers, last_step(), dense(classes))
    if model == "cnn":
        layers.append(reshape(*image, 1))
        for count in CHANNELS if channels is None else channels:
            layers += [*unit(conv(count, 3, initializer=he), spatial_dropout), max_pool(2)]
    layers.append(flatten())
    for width in widths:
        layers += unit(dense(width, initializer=he), dropout)
    return serial(*layers, dense(classes))
