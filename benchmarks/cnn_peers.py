"""The convolutional network of training.py in other libraries, as their users would write it.

Conv 32 and 64 (3x3, SAME), max pool 2, dense 128 and 10, relu between; plain SGD. Each function
takes the learning rate and a batch of images (B, 28, 28, 1) with labels, and returns a function
that takes one step and returns its loss. A library that is not installed raises ImportError.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Step = Callable[[], float]
Maker = Callable[[float, np.ndarray, np.ndarray], Step]
WIDTHS = (1, 32, 64)
ROWS, HIDDEN, CLASSES = 14 * 14 * 64, 128, 10


def plain_jax(rate: float, x: np.ndarray, label: np.ndarray) -> Step:
    he = jax.nn.initializers.he_normal()
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(3, 3, *WIDTHS[:2]), (3, 3, *WIDTHS[1:]), (ROWS, HIDDEN), (HIDDEN, CLASSES)]
    params = [(he(k, s), jnp.zeros(s[-1])) for k, s in zip(keys, shapes, strict=True)]

    def objective(params: Any, x: Any, label: Any) -> Any:
        *convolutions, (w, b), (v, c) = params
        for weight, bias in convolutions:
            x = jax.lax.conv_general_dilated(
                x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + bias)
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = jax.nn.relu(x.reshape(len(x), -1) @ w + b)
        log_p = jax.nn.log_softmax(x @ v + c)
        return -jnp.take_along_axis(log_p, label[:, None], 1).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def step(params: Any, x: Any, label: Any) -> tuple[Any, Any]:
        loss, grads = jax.value_and_grad(objective)(params, x, label)
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), loss

    x, label = jax.device_put((x, label))

    def run() -> float:
        nonlocal params
        params, loss = step(params, x, label)
        jax.block_until_ready(params)
        return float(loss)

    return run


def flax_nnx(rate: float, x: np.ndarray, label: np.ndarray) -> Step:
    nnx = importlib.import_module("flax.nnx")
    optax = importlib.import_module("optax")

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

    def objective(model: Any, x: Any, label: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(model(x), label).mean()

    @nnx.jit
    def step(model: Any, optimizer: Any, x: Any, label: Any) -> Any:
        loss, grads = nnx.value_and_grad(objective)(model, x, label)
        optimizer.update(model, grads)
        return loss

    model = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(rate), wrt=nnx.Param)
    x, label = jax.device_put((x, label))

    def run() -> float:
        loss = step(model, optimizer, x, label)
        jax.block_until_ready(nnx.state(model))
        return float(loss)

    return run


def equinox(rate: float, x: np.ndarray, label: np.ndarray) -> Step:
    eqx = importlib.import_module("equinox")
    optax = importlib.import_module("optax")
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
    rule = optax.sgd(rate)

    def objective(model: Any, x: Any, label: Any) -> Any:
        prediction = jax.vmap(model)(x)
        return optax.softmax_cross_entropy_with_integer_labels(prediction, label).mean()

    @eqx.filter_jit
    def step(model: Any, rule_state: Any, x: Any, label: Any) -> tuple[Any, Any, Any]:
        loss, grads = eqx.filter_value_and_grad(objective)(model, x, label)
        updates, rule_state = rule.update(grads, rule_state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), rule_state, loss

    rule_state = rule.init(eqx.filter(model, eqx.is_array))
    # Its convolutions take channels first.
    x, label = jax.device_put((np.moveaxis(x, -1, 1), label))

    def run() -> float:
        nonlocal model, rule_state
        model, rule_state, loss = step(model, rule_state, x, label)
        jax.block_until_ready(eqx.filter(model, eqx.is_array))
        return float(loss)

    return run


def pytorch(rate: float, x: np.ndarray, label: np.ndarray) -> Step:
    torch = importlib.import_module("torch")
    nn = torch.nn
    device = "cuda" if torch.cuda.is_available() else "cpu"
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
    ).to(device)
    objective = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    images = torch.tensor(np.moveaxis(x, -1, 1).copy()).to(device)
    target = torch.tensor(label).long().to(device)

    def run() -> float:
        optimizer.zero_grad()
        loss = objective(model(images), target)
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return run


MAKERS: dict[str, Maker] = {
    "plain jax": plain_jax,
    "flax nnx": flax_nnx,
    "equinox": equinox,
    "pytorch": pytorch,
}
