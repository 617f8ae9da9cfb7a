"""The recurrent network of training.py in other libraries, as their users would write it.

Long short-term memory of 256 units and a dense layer of 10 over every step; plain SGD. Each
function takes the learning rate and a batch of sequences (B, T, 128) with a label for every step,
and returns a function that takes one step and returns its loss. A library that is not installed
raises ImportError.
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
INPUTS, WIDTH, CLASSES = 128, 256, 10


def plain_jax(rate: float, x: np.ndarray, label: np.ndarray) -> Step:
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"input": (INPUTS, 4 * WIDTH), "carried": (WIDTH, 4 * WIDTH), "out": (WIDTH, CLASSES)}
    initial = jax.nn.initializers.lecun_normal()
    params = {
        name: (initial(key, shape), jnp.zeros(shape[-1]))
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }

    def objective(params: Any, x: Any, label: Any) -> Any:
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
        log_p = jax.nn.log_softmax(jnp.swapaxes(h, 0, 1) @ u + d)
        return -jnp.take_along_axis(log_p, label[..., None], -1).mean()

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
            self.recurrent = nnx.RNN(nnx.OptimizedLSTMCell(INPUTS, WIDTH, rngs=rngs))
            self.out = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.out(self.recurrent(x))

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

    model, rule = Network(jax.random.key(0)), optax.sgd(rate)

    def objective(model: Any, x: Any, label: Any) -> Any:
        prediction = jax.vmap(model)(x)
        return optax.softmax_cross_entropy_with_integer_labels(prediction, label).mean()

    @eqx.filter_jit
    def step(model: Any, rule_state: Any, x: Any, label: Any) -> tuple[Any, Any, Any]:
        loss, grads = eqx.filter_value_and_grad(objective)(model, x, label)
        updates, rule_state = rule.update(grads, rule_state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), rule_state, loss

    rule_state = rule.init(eqx.filter(model, eqx.is_array))
    x, label = jax.device_put((x, label))

    def run() -> float:
        nonlocal model, rule_state
        model, rule_state, loss = step(model, rule_state, x, label)
        jax.block_until_ready(eqx.filter(model, eqx.is_array))
        return float(loss)

    return run


def pytorch(rate: float, x: np.ndarray, label: np.ndarray) -> Step:
    torch = importlib.import_module("torch")
    nn = torch.nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = nn.LSTM(INPUTS, WIDTH, batch_first=True)
            self.out = nn.Linear(WIDTH, CLASSES)

        def forward(self, x: Any) -> Any:
            return self.out(self.recurrent(x)[0])

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Network().to(device)
    objective = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    inputs = torch.tensor(x).to(device)
    target = torch.tensor(label).long().to(device)

    def run() -> float:
        optimizer.zero_grad()
        loss = objective(model(inputs).flatten(0, 1), target.flatten())
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
