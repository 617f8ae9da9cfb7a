"""The small perceptron of training.py in other libraries, as their users would write it.

A maker takes the widths, the learning rate and the batches as numpy arrays, and returns one of the
loops of loops.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from loops import Batches, Loop, equinox_loop, jax_loop, nnx_loop, torch_loop

Widths = tuple[int, int, int]
Maker = Callable[[Widths, float, Batches], Loop]


def plain_jax(widths: Widths, rate: float, batches: Batches) -> Loop:
    initializer = jax.nn.initializers.lecun_normal()
    params = [
        (initializer(jax.random.key(i), widths[i : i + 2]), jnp.zeros(widths[i + 1]))
        for i in range(2)
    ]

    def predict(params: Any, x: Any) -> Any:
        (w1, b1), (w2, b2) = params
        return jax.nn.relu(x @ w1 + b1) @ w2 + b2

    return jax_loop(predict, params, rate, batches)


def flax_nnx(widths: Widths, rate: float, batches: Batches) -> Loop:
    nnx = importlib.import_module("flax.nnx")

    class Perceptron(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.hidden = nnx.Linear(widths[0], widths[1], rngs=rngs)
            self.out = nnx.Linear(widths[1], widths[2], rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.out(nnx.relu(self.hidden(x)))

    return nnx_loop(Perceptron(nnx.Rngs(0)), rate, batches)


def equinox(widths: Widths, rate: float, batches: Batches) -> Loop:
    eqx = importlib.import_module("equinox")
    inputs, hidden, outputs = widths
    model = eqx.nn.MLP(inputs, outputs, hidden, depth=1, key=jax.random.key(0))
    return equinox_loop(model, rate, batches)


def pytorch(widths: Widths, rate: float, batches: Batches) -> Loop:
    torch = importlib.import_module("torch")
    inputs, hidden, outputs = widths
    model = torch.nn.Sequential(
        torch.nn.Linear(inputs, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, outputs)
    )
    loop = torch_loop(model, rate, batches)

    def run() -> float:
        # One thread is its best for so small a network: more of them wait for each other on a busy
        # machine. The others of this process get theirs back.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return loop()
        finally:
            torch.set_num_threads(threads)

    return run


MAKERS: dict[str, Maker] = {
    "flax nnx": flax_nnx,
    "equinox": equinox,
    "pytorch": pytorch,
    "plain jax loop": plain_jax,
}
