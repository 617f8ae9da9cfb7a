"""The training of the main job written directly in JAX: what `fnn.fit` is measured against.

No line of fnn: parameters are a dict, the network is a function, an epoch is one compiled program.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

HIDDEN, DROPOUT = ("1", "2"), 0.2
NOISE, ANNEALING = 1e-4, 0.55
RATE, MOMENTUM = 0.1, 0.9


def init(key: Any, widths: tuple[int, ...]) -> tuple[Any, ...]:
    """Return parameters, running statistics, velocity and the step count."""
    names = (*HIDDEN, "out")
    normal = jax.nn.initializers.he_normal(), jax.nn.initializers.lecun_normal()
    params, statistics = {}, {}
    for i, name in enumerate(names):
        shape = widths[i], widths[i + 1]
        weight = normal[name == "out"](jax.random.fold_in(key, i), shape)
        params[name] = {"weight": weight, "bias": jnp.zeros(shape[1])}
        if name != "out":
            params[name] |= {"scale": jnp.ones(shape[1]), "shift": jnp.zeros(shape[1])}
            statistics[name] = {"mean": jnp.zeros(shape[1]), "var": jnp.ones(shape[1])}
    return params, statistics, jax.tree.map(jnp.zeros_like, params), jnp.int32(0)


def batch_norm(p: Any, statistics: Any, x: Any) -> tuple[Any, Any]:
    mean = x.mean(0)
    var = jnp.square(x - mean).mean(0)
    statistics = {
        "mean": 0.9 * statistics["mean"] + 0.1 * mean,
        "var": 0.9 * statistics["var"] + 0.1 * var,
    }
    return (x - mean) * jax.lax.rsqrt(var + 1e-5) * p["scale"] + p["shift"], statistics


def objective(params: Any, statistics: Any, x: Any, label: Any, key: Any) -> tuple[Any, Any]:
    moved = {}
    for name, mask_key in zip(HIDDEN, jax.random.split(key, len(HIDDEN)), strict=True):
        p = params[name]
        x = x @ p["weight"] + p["bias"]
        x, moved[name] = batch_norm(p, statistics[name], x)
        x = jax.nn.relu(x)
        kept = jax.random.bernoulli(mask_key, 1 - DROPOUT, x.shape)
        x = jnp.where(kept, x / (1 - DROPOUT), 0)
    logits = x @ params["out"]["weight"] + params["out"]["bias"]
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, label[:, None], 1).mean(), moved


def add_noise(grads: Any, step: Any, key: Any) -> Any:
    deviation = jnp.sqrt(NOISE / (1.0 + step) ** ANNEALING)
    leaves, structure = jax.tree.flatten(grads)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        g + deviation * jax.random.normal(k, g.shape) for g, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)


@partial(jax.jit, static_argnames="batch_size", donate_argnums=0)
def run_epoch(
    carry: tuple[Any, ...], images: Any, labels: Any, key: Any, epoch: Any, *, batch_size: int
) -> tuple[tuple[Any, ...], Any]:
    """Go through all examples in a new order; return the loss of every step."""
    order_key, mask_key, noise_key = jax.random.split(key, 3)

    def step(carry: tuple[Any, ...], rows: Any) -> tuple[tuple[Any, ...], Any]:
        params, statistics, velocity, count = carry
        (loss, statistics), grads = jax.value_and_grad(objective, has_aux=True)(
            params, statistics, images[rows], labels[rows], jax.random.fold_in(mask_key, count)
        )
        grads = add_noise(grads, count, jax.random.fold_in(noise_key, count))
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, grads)
        params = jax.tree.map(lambda p, v: p - RATE * v, params, velocity)
        return (params, statistics, velocity, count + 1), loss

    order = jax.random.permutation(jax.random.fold_in(order_key, epoch), len(images))
    full = len(images) // batch_size * batch_size
    carry, losses = jax.lax.scan(step, carry, order[:full].reshape(-1, batch_size))
    if full < len(images):
        carry, last = step(carry, order[full:])
        losses = jnp.append(losses, last)
    return carry, losses
