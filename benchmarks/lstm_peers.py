"""The recurrent network of training.py in other libraries, as their users would write it.

Long short-term memory of 256 units and a dense layer of 10 over every step. Each function takes the
learning rate and a batch of sequences (B, T, 128) with a label for every step, and returns one of
the loops of loops.py.
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
INPUTS, WIDTH, CLASSES = 128, 256, 10


def plain_jax(rate: float, x: np.ndarray, label: np.ndarray) -> Loop:
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"input": (INPUTS, 4 * WIDTH), "carried": (WIDTH, 4 * WIDTH), "out": (WIDTH, CLASSES)}
    initial = jax.nn.initializers.lecun_normal()
    params = {
        name: (initial(key, shape), jnp.zeros(shape[-1]))
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }

    def predict(params: Any, x: Any) -> Any:
        (v, b), (w, c), (u, d) = (params[name] for name in shapes)

        def step(carry: Any, projected: Any) -> tuple[Any, Any]:
            h, cell = carry
            i, f, g, o = jnp.split(projected + h @ w + c, 4, -1)
            cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(cell)
            return (h, cell), h

        # All inputs by one product, as one is told to.
        projected = jnp.swapaxes(x @ v + b, 0, 1)
        zeros = jnp.zeros((x.shape[0], WIDTH))
        _, h = jax.lax.scan(step, (zeros, zeros), projected)
        return jnp.swapaxes(h, 0, 1) @ u + d

    return jax_loop(predict, params, rate, [(x, label)])


def flax_nnx(rate: float, x: np.ndarray, label: np.ndarray) -> Loop:
    nnx = importlib.import_module("flax.nnx")

    class Network(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.recurrent = nnx.RNN(nnx.OptimizedLSTMCell(INPUTS, WIDTH, rngs=rngs))
            self.out = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.out(self.recurrent(x))

    return nnx_loop(Network(nnx.Rngs(0)), rate, [(x, label)])


def equinox(rate: float, x: np.ndarray, label: np.ndarray) -> Loop:
    eqx = importlib.import_module("equinox")

    class Network(eqx.Module):
        cell: Any
        out: Any

        def __init__(self, key: Any) -> None:
            own, out = jax.random.split(key)
            self.cell = eqx.nn.LSTMCell(INPUTS, WIDTH, key=own)
            self.out = eqx.nn.Linear(WIDTH, CLASSES, key=out)

        def __call__(self, x: Any) -> Any:
            def step(carry: Any, x: Any) -> tuple[Any, Any]:
                carry = self.cell(x, carry)
                return carry, carry[0]

            zeros = jnp.zeros(WIDTH)
            _, h = jax.lax.scan(step, (zeros, zeros), x)
            return jax.vmap(self.out)(h)

    return equinox_loop(Network(jax.random.key(0)), rate, [(x, label)])


def pytorch(rate: float, x: np.ndarray, label: np.ndarray) -> Loop:
    nn = importlib.import_module("torch").nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = nn.LSTM(INPUTS, WIDTH, batch_first=True)
            self.out = nn.Linear(WIDTH, CLASSES)

        def forward(self, x: Any) -> Any:
            return self.out(self.recurrent(x)[0])

    return torch_loop(Network(), rate, [(x, label)])


MAKERS: dict[str, Maker] = {
    "plain jax": plain_jax,
    "flax nnx": flax_nnx,
    "equinox": equinox,
    "pytorch": pytorch,
}
