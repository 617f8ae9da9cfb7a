"""The training loops of other libraries, each as its own tutorial writes it.

A maker takes the widths of a perceptron, the learning rate and the batches as numpy arrays, and
returns a function that takes one step a batch and returns the last loss. The batches are cut and
converted beforehand, so a loop is measured for nothing but its steps.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Batches = Sequence[tuple[np.ndarray, np.ndarray]]
Maker = Callable[[tuple[int, int, int], float, Batches], Callable[[], float]]


def plain_jax(widths: tuple[int, int, int], rate: float, batches: Batches) -> Callable[[], float]:
    initializer = jax.nn.initializers.lecun_normal()

    def objective(params: Any, x: Any, label: Any) -> Any:
        (w1, b1), (w2, b2) = params
        log_p = jax.nn.log_softmax(jax.nn.relu(x @ w1 + b1) @ w2 + b2)
        return -jnp.take_along_axis(log_p, label[:, None], 1).mean()

    @partial(jax.jit, donate_argnums=0)
    def step(params: Any, x: Any, label: Any) -> tuple[Any, Any]:
        loss, grads = jax.value_and_grad(objective)(params, x, label)
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), loss

    params = [
        (initializer(jax.random.key(i), widths[i : i + 2]), jnp.zeros(widths[i + 1]))
        for i in range(2)
    ]
    on_device = [jax.device_put(batch) for batch in batches]

    def run() -> float:
        nonlocal params
        for x, label in on_device:
            params, loss = step(params, x, label)
        jax.block_until_ready(params)
        return float(loss)

    return run


def flax_nnx(widths: tuple[int, int, int], rate: float, batches: Batches) -> Callable[[], float]:
    nnx = importlib.import_module("flax.nnx")
    optax = importlib.import_module("optax")

    class Perceptron(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.hidden = nnx.Linear(widths[0], widths[1], rngs=rngs)
            self.out = nnx.Linear(widths[1], widths[2], rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.out(nnx.relu(self.hidden(x)))

    def objective(model: Any, x: Any, label: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(model(x), label).mean()

    @nnx.jit
    def step(model: Any, optimizer: Any, x: Any, label: Any) -> Any:
        loss, grads = nnx.value_and_grad(objective)(model, x, label)
        optimizer.update(model, grads)
        return loss

    model = Perceptron(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(rate), wrt=nnx.Param)
    on_device = [jax.device_put(batch) for batch in batches]

    def run() -> float:
        for x, label in on_device:
            loss = step(model, optimizer, x, label)
        jax.block_until_ready(nnx.state(model))
        return float(loss)

    return run


def equinox(widths: tuple[int, int, int], rate: float, batches: Batches) -> Callable[[], float]:
    eqx = importlib.import_module("equinox")
    optax = importlib.import_module("optax")
    rule = optax.sgd(rate)

    def objective(model: Any, x: Any, label: Any) -> Any:
        prediction = jax.vmap(model)(x)
        return optax.softmax_cross_entropy_with_integer_labels(prediction, label).mean()

    @eqx.filter_jit
    def step(model: Any, rule_state: Any, x: Any, label: Any) -> tuple[Any, Any, Any]:
        loss, grads = eqx.filter_value_and_grad(objective)(model, x, label)
        updates, rule_state = rule.update(grads, rule_state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), rule_state, loss

    inputs, hidden, outputs = widths
    model = eqx.nn.MLP(inputs, outputs, hidden, depth=1, key=jax.random.key(0))
    rule_state = rule.init(eqx.filter(model, eqx.is_array))
    on_device = [jax.device_put(batch) for batch in batches]

    def run() -> float:
        nonlocal model, rule_state
        for x, label in on_device:
            model, rule_state, loss = step(model, rule_state, x, label)
        jax.block_until_ready(eqx.filter(model, eqx.is_array))
        return float(loss)

    return run


def pytorch(widths: tuple[int, int, int], rate: float, batches: Batches) -> Callable[[], float]:
    torch = importlib.import_module("torch")
    # Its best for so small a network: with more, the threads wait for each other on a busy machine.
    torch.set_num_threads(1)
    inputs, hidden, outputs = widths
    model = torch.nn.Sequential(
        torch.nn.Linear(inputs, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, outputs)
    )
    objective = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    tensors = [(torch.tensor(x), torch.tensor(label).long()) for x, label in batches]

    def run() -> float:
        for x, label in tensors:
            optimizer.zero_grad()
            loss = objective(model(x), label)
            loss.backward()
            optimizer.step()
        return loss.item()

    return run


MAKERS: dict[str, Maker] = {
    "flax nnx": flax_nnx,
    "equinox": equinox,
    "pytorch": pytorch,
    "plain jax loop": plain_jax,
}
