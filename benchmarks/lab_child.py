"""One question to the laboratory, in a process of its own: prints CPU seconds and seconds.

``lab_child.py NETWORK WAY``; `lab.py` runs it. Imports and the drawing of parameters are left out,
compilation is not.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

# One core for all ways, before JAX starts its threads.
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import jax
import jax.numpy as jnp
from jax.test_util import check_grads

import fnn

LOSS = fnn.losses.cross_entropy()
VOCABULARY, STEPS, WIDTH, BLOCKS, HEADS = 64, 64, 128, 4, 4


class Question(NamedTuple):
    """A network and a batch that it is asked about."""

    model: fnn.Layer
    batch: tuple[jax.Array, jax.Array]


def transformer() -> Question:
    model = fnn.serial(
        fnn.embedding(VOCABULARY, WIDTH),
        fnn.positional("learned", STEPS),
        *[fnn.transformer_block(HEADS, causal=True)] * BLOCKS,
        fnn.layer_norm(),
        fnn.dense(VOCABULARY),
    )
    x = jax.random.randint(jax.random.key(1), (8, STEPS), 0, VOCABULARY)
    return Question(model, (x, jnp.roll(x, -1, 1)))


def cnn() -> Question:
    layers: list[fnn.Layer] = []
    for channels in (32, 64):
        layers += [fnn.conv(channels, 3), fnn.batch_norm(), fnn.relu(), fnn.max_pool(2)]
    model = fnn.serial(*layers, fnn.flatten(), fnn.dense(120), fnn.relu(), fnn.dense(10))
    x = jax.random.normal(jax.random.key(1), (64, 28, 28, 1))
    return Question(model, (x, jax.random.randint(jax.random.key(2), (64,), 0, 10)))


NETWORKS = {"transformer 4x128": transformer, "CNN": cnn}


def compared(question: Question, params: Any, state: Any, **options: bool) -> None:
    key = jax.random.key(3)
    found = fnn.compare(question.model, LOSS, params, state, question.batch, key=key, **options)
    if not found.agrees:
        raise SystemExit(str(found))


def differences_of_jax(question: Question, params: Any, state: Any) -> None:
    """Check autodiff of the same objective by what JAX has for it, in float64."""
    x, labels = question.batch

    def objective(params: Any) -> jax.Array:
        y, _ = question.model.apply(params, state, wide_x, key=jax.random.key(3), train=True)
        return LOSS.apply(y, labels).mean()

    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        wide_x = x.astype("float64") if jnp.issubdtype(x.dtype, jnp.floating) else x
        params = jax.tree.map(lambda a: a.astype("float64"), params)
        check_grads(jax.jit(objective), (params,), order=1, modes=["rev"], eps=1e-6, rtol=1e-3)


WAYS: dict[str, Callable[..., None]] = {
    "compare": compared,
    "by leaf": lambda *of: compared(*of, by_leaf=True),
    "with costs": lambda *of: compared(*of, costs=True),
    "check_grads": differences_of_jax,
}


def main() -> None:
    network, way = sys.argv[1:]
    question = NETWORKS[network]()
    params, state = question.model.init(jax.random.key(0), question.batch[0])
    jax.block_until_ready(params)
    busy, began = time.process_time(), time.perf_counter()
    WAYS[way](question, params, state)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(time.process_time() - busy, time.perf_counter() - began, parameters)


if __name__ == "__main__":
    main()
