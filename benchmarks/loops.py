"""The training loops of other libraries, each as its own tutorial writes it: plain SGD.

A loop takes what is trained, the learning rate and the batches, and returns a function that takes
one step a batch and returns the last loss, the mean cross-entropy, or the squared error of an
example where that is the loss asked for. The batches are converted beforehand, so a loop is
measured for nothing but its steps. A library that is not installed raises ImportError.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Batches = Sequence[tuple[np.ndarray, np.ndarray]]
Loop = Callable[[], float]
LossName = Literal["cross_entropy", "squared_error"]


def jax_loop(
    predict: Callable[[Any, Any], Any], params: Any, rate: float, batches: Batches,
    loss_name: LossName = "cross_entropy",
) -> Loop:  # fmt: skip
    def objective(params: Any, x: Any, label: Any) -> Any:
        if loss_name == "squared_error":
            return jnp.square(predict(params, x) - label).sum(-1).mean()
        log_p = jax.nn.log_softmax(predict(params, x))
        return -jnp.take_along_axis(log_p, label[..., None], -1).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def step(params: Any, x: Any, label: Any) -> tuple[Any, Any]:
        loss, grads = jax.value_and_grad(objective)(params, x, label)
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), loss

    on_device = [jax.device_put(batch) for batch in batches]

    def run() -> float:
        nonlocal params
        for x, label in on_device:
            params, loss = step(params, x, label)
        jax.block_until_ready(params)
        return float(loss)

    return run


def optax_loss(prediction: Any, label: Any, loss_name: LossName) -> Any:
    optax = importlib.import_module("optax")
    if loss_name == "squared_error":
        return optax.squared_error(prediction, label).sum(-1).mean()
    return optax.softmax_cross_entropy_with_integer_labels(prediction, label).mean()


def nnx_loop(
    model: Any, rate: float, batches: Batches, loss_name: LossName = "cross_entropy"
) -> Loop:
    nnx = importlib.import_module("flax.nnx")
    optax = importlib.import_module("optax")

    def objective(model: Any, x: Any, label: Any) -> Any:
        return optax_loss(model(x), label, loss_name)

    @nnx.jit
    def step(model: Any, optimizer: Any, x: Any, label: Any) -> Any:
        loss, grads = nnx.value_and_grad(objective)(model, x, label)
        optimizer.update(model, grads)
        return loss

    optimizer = nnx.Optimizer(model, optax.sgd(rate), wrt=nnx.Param)
    on_device = [jax.device_put(batch) for batch in batches]

    def run() -> float:
        for x, label in on_device:
            loss = step(model, optimizer, x, label)
        jax.block_until_ready(nnx.state(model))
        return float(loss)

    return run


def equinox_loop(
    model: Any, rate: float, batches: Batches, loss_name: LossName = "cross_entropy"
) -> Loop:
    eqx = importlib.import_module("equinox")
    optax = importlib.import_module("optax")
    optimizer = optax.sgd(rate)

    def objective(model: Any, x: Any, label: Any) -> Any:
        return optax_loss(jax.vmap(model, axis_name="batch")(x), label, loss_name)

    @eqx.filter_jit
    def step(model: Any, opt_state: Any, x: Any, label: Any) -> tuple[Any, Any, Any]:
        loss, grads = eqx.filter_value_and_grad(objective)(model, x, label)
        updates, opt_state = optimizer.update(grads, opt_state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), opt_state, loss

    opt_state = optimizer.init(eqx.filter(model, eqx.is_array))
    on_device = [jax.device_put(batch) for batch in batches]

    def run() -> float:
        nonlocal model, opt_state
        for x, label in on_device:
            model, opt_state, loss = step(model, opt_state, x, label)
        jax.block_until_ready(eqx.filter(model, eqx.is_array))
        return float(loss)

    return run


def torch_loop(
    model: Any, rate: float, batches: Batches, loss_name: LossName = "cross_entropy"
) -> Loop:
    torch = importlib.import_module("torch")
    # Where JAX computes: nothing else is a comparison.
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    model = model.to(device)
    cross_entropy = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    tensors = [tuple(torch.tensor(part).to(device) for part in batch) for batch in batches]
    # Indices have 64 bits there.
    on_device = [tuple(t if t.is_floating_point() else t.long() for t in pair) for pair in tensors]

    def objective(prediction: Any, label: Any) -> Any:
        if loss_name == "squared_error":
            return torch.nn.functional.mse_loss(prediction, label, reduction="sum") / len(label)
        return cross_entropy(prediction.flatten(0, -2), label.flatten())

    def run() -> float:
        for x, label in on_device:
            optimizer.zero_grad()
            loss = objective(model(x), label)
            loss.backward()
            optimizer.step()
        return float(loss.item())

    return run
