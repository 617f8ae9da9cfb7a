"""The convolutional network of training.py in other libraries, as their users would write it.

Conv 32 and 64 (3x3, SAME), max pool 2, dense 128 and 10, relu between. Each function takes the
learning rate and a batch of images (B, 28, 28, 1) with labels, and returns one of the loops of
loops.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from loops import Loop, equinox_loop, jax_loop, nnx_loop, torch_loop

Maker = Callable[[float, np.ndarray, np.ndarray], Loop]
WIDTHS = (1, 32, 64)
ROWS, HIDDEN, CLASSES = 14 * 14 * 64, 128, 10


def plain_jax(rate: float, x: np.ndarray, label: np.ndarray) -> Loop:
    he = jax.nn.initializers.he_normal()
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(3, 3, *WIDTHS[:2]), (3, 3, *WIDTHS[1:]), (ROWS, HIDDEN), (HIDDEN, CLASSES)]
    params = [(he(k, s), jnp.zeros(s[-1])) for k, s in zip(keys, shapes, strict=True)]

    def predict(params: Any, x: Any) -> Any:
        *convolutions, (w, b), (v, c) = params
        for weight, bias in convolutions:
            x = jax.lax.conv_general_dilated(
                x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + bias)
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return jax.nn.relu(x.reshape(len(x), -1) @ w + b) @ v + c

    return jax_loop(predict, params, rate, [(x, label)])


def flax_nnx(rate: float, x: np.ndarray, label: np.ndarray) -> Loop:
    nnx = importlib.import_module("flax.nnx")

    class Network(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.conv1 = nnx.Conv(*WIDTHS[:2], kernel_size=(3, 3), rngs=rngs)
            self.conv2 = nnx.Conv(*WIDTHS[1:], kernel_size=(3, 3), rngs=rngs)
            self.hidden = nnx.Linear(ROWS, HIDDEN, rngs=rngs)
            self.out = nnx.Linear(HIDDEN, CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = nnx.relu(self.conv2(nnx.relu(self.conv1(x))))
            x = nnx.max_pool(x, window_shape=(2, 2), strides=(2, 2))
            return self.out(nnx.relu(self.hidden(x.reshape(len(x), -1))))

    return nnx_loop(Network(nnx.Rngs(0)), rate, [(x, label)])


def equinox(rate: float, x: np.ndarray, label: np.ndarray) -> Loop:
    eqx = importlib.import_module("equinox")
    keys = jax.random.split(jax.random.key(0), 4)
    relu = eqx.nn.Lambda(jax.nn.relu)
    model = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(*WIDTHS[:2], kernel_size=3, padding=1, key=keys[0]),
            relu,
            eqx.nn.Conv2d(*WIDTHS[1:], kernel_size=3, padding=1, key=keys[1]),
            relu,
            eqx.nn.MaxPool2d(kernel_size=2, stride=2),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(ROWS, HIDDEN, key=keys[2]),
            relu,
            eqx.nn.Linear(HIDDEN, CLASSES, key=keys[3]),
        ]
    )
    # Its convolutions take channels first.
    return equinox_loop(model, rate, [(np.moveaxis(x, -1, 1), label)])


def pytorch(rate: float, x: np.ndarray, label: np.ndarray) -> Loop:
    nn = importlib.import_module("torch").nn
    model = nn.Sequential(
        nn.Conv2d(*WIDTHS[:2], 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(*WIDTHS[1:], 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(ROWS, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, CLASSES),
    )
    return torch_loop(model, rate, [(np.moveaxis(x, -1, 1).copy(), label)])


MAKERS: dict[str, Maker] = {
    "plain jax": plain_jax,
    "flax nnx": flax_nnx,
    "equinox": equinox,
    "pytorch": pytorch,
}
