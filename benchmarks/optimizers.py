"""Time a step of every optimizer against the same one of optax.

One compiled update with its state, parameters added and buffers given away, as in training:

- ``mlp``: the parameters of the main job's network, 784-256-128-10, in 6 arrays;
- ``1000 leaves``: a thousand arrays of 32 numbers, where what an array costs by itself counts.

Milliseconds a step, medians over rounds in which both take turns, every round a loop of steps long
enough for the clock, over several builds of both programs where they compile in a moment.
time_ratio is fnn over optax, below 1 where fnn is faster. Where optax has it in other words
it stands beside the next of kin: a clip by the norm of an array beside one by its root mean square,
the average of parameters beside one of updates. ``--only`` looks at name and size: ``--only "adam
mlp"``; a program for a thousand arrays takes long to compile, those of sophia, lbfgs and muon
several minutes.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from measure import Row, arguments, compared, interleaved, machine, picked, report, watched, write

from fnn import optim

COLUMNS = ("name", "size", "time_ratio", "ours_ms", "other_ms", "ours_compile_s", "other_compile_s")
LR, SECONDS = 1e-3, 0.02
KEY = jax.random.key(0)
PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "sgd": (lambda: optim.sgd(LR), lambda: optax.sgd(LR)),
    "momentum": (lambda: optim.momentum(LR), lambda: optax.sgd(LR, 0.9)),
    "nesterov": (lambda: optim.nesterov(LR), lambda: optax.sgd(LR, 0.9, nesterov=True)),
    "adagrad": (lambda: optim.adagrad(LR), lambda: optax.adagrad(LR)),
    "adadelta": (lambda: optim.adadelta(LR), lambda: optax.adadelta(LR)),
    "rmsprop": (lambda: optim.rmsprop(LR), lambda: optax.rmsprop(LR)),
    "adam": (lambda: optim.adam(LR), lambda: optax.adam(LR)),
    "adamw": (lambda: optim.adamw(LR), lambda: optax.adamw(LR)),
    "amsgrad": (lambda: optim.amsgrad(LR), lambda: optax.amsgrad(LR)),
    "nadam": (lambda: optim.nadam(LR), lambda: optax.nadam(LR)),
    "radam": (lambda: optim.radam(LR), lambda: optax.radam(LR)),
    "adamax": (lambda: optim.adamax(LR), lambda: optax.adamax(LR)),
    "lion": (lambda: optim.lion(LR, weight_decay=0.1), lambda: optax.lion(LR, weight_decay=0.1)),
    "lars": (lambda: optim.lars(LR, weight_decay=0.1), lambda: optax.lars(LR, weight_decay=0.1)),
    "lamb": (lambda: optim.lamb(LR, weight_decay=0.1), lambda: optax.lamb(LR, weight_decay=0.1)),
    "adafactor": (lambda: optim.adafactor(LR), lambda: optax.adafactor(LR)),
    "muon": (lambda: optim.muon(LR), lambda: optax.contrib.muon(LR)),
    "schedule_free_sgd": (
        lambda: optim.schedule_free_sgd(LR),
        lambda: optax.contrib.schedule_free_sgd(LR),
    ),
    "schedule_free_adamw": (
        lambda: optim.schedule_free_adamw(LR),
        lambda: optax.contrib.schedule_free_adamw(LR),
    ),
    "lbfgs": (
        lambda: optim.lbfgs(LR),
        lambda: optax.chain(optax.scale_by_lbfgs(), optax.scale(-LR)),
    ),
    "clip_by_value": (lambda: optim.clip_by_value(1.0), lambda: optax.clip(1.0)),
    "clip_by_norm": (lambda: optim.clip_by_norm(1.0), lambda: optax.clip_by_block_rms(1.0)),
    "clip_by_global_norm": (
        lambda: optim.clip_by_global_norm(1.0),
        lambda: optax.clip_by_global_norm(1.0),
    ),
    "clip_by_unit_norm": (
        lambda: optim.clip_by_unit_norm(0.01),
        lambda: optax.adaptive_grad_clip(0.01),
    ),
    "ema": (
        lambda: optim.chain(optim.sgd(LR), optim.ema(0.99)),
        lambda: optax.chain(optax.sgd(LR), optax.ema(0.99)),
    ),
    "accumulate": (
        lambda: optim.accumulate(optim.adam(LR), 4),
        lambda: optax.MultiSteps(optax.adam(LR), 4),
    ),
    "skip_nonfinite": (
        lambda: optim.skip_nonfinite(optim.adam(LR)),
        lambda: optax.apply_if_finite(optax.adam(LR), 1000),
    ),
    "by_path": (
        lambda: optim.by_path({"*bias": optim.sgd(LR)}, optim.adam(LR)),
        lambda: optax.partition({"b": optax.sgd(LR), "w": optax.adam(LR)}, kinds),
    ),
    "sam": (
        lambda: optim.chain(optim.sam(0.05), optim.sgd(LR)),
        lambda: optax.contrib.sam(
            optax.sgd(LR), optax.chain(optax.contrib.normalize(), optax.sgd(0.05)),
            opaque_mode=True,
        ),
    ),
    "sophia": (
        lambda: optim.sophia(LR, key=KEY),
        lambda: optax.contrib.sophia(LR),
    ),
    "reduce_on_plateau": (
        lambda: optim.chain(optim.sgd(LR), optim.reduce_on_plateau()),
        lambda: optax.chain(optax.sgd(LR), optax.contrib.reduce_on_plateau()),
    ),
}  # fmt: skip


def kinds(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "b" if "bias" in str(path[-1]) else "w", params
    )


def mlp() -> Any:
    random = jax.random.normal
    widths = 784, 256, 128, 10
    return [
        {
            "weight": random(jax.random.fold_in(KEY, i), widths[i : i + 2]),
            "bias": random(jax.random.fold_in(KEY, 10 + i), widths[i + 1 : i + 2]),
        }
        for i in range(len(widths) - 1)
    ]


def leaves() -> Any:
    return [
        {"weight": w, "bias": b}
        for w, b in zip(*jax.random.normal(KEY, (2, 500, 4, 8)), strict=True)
    ]


SIZES = {"mlp": mlp, "1000 leaves": leaves}
# Two builds of one program can differ by a tenth, and those of a thousand arrays by a third.
BUILDS = {"mlp": 5, "1000 leaves": 1}


def gradient_at(params: Any) -> Any:
    """Return value and gradient of an objective that costs little: half the squared norm."""
    value = sum(jnp.vdot(p, p) for p in jax.tree.leaves(params)) / 2
    return (value, ()), params


def ours(optimizer: Any, grads: Any, params: Any, state: Any) -> Any:
    if optimizer.step is None:
        updates, state = optimizer.update(grads, state, params)
    else:
        _, updates, state = optim.take_step(optimizer, gradient_at, params, state)
    return jax.tree.map(jnp.add, params, updates), state


def theirs(optimizer: Any, grads: Any, params: Any, state: Any) -> Any:
    try:
        updates, state = optimizer.update(grads, state, params)
    except (TypeError, ValueError):
        (value, _), grads = gradient_at(params)
        more = {
            "value": value,
            "grad_fn": lambda p, i: gradient_at(p)[1],
            "obj_fn": lambda p: gradient_at(p)[0][0],
        }
        for names in (("value",), ("grad_fn",), ("obj_fn",)):
            try:
                updates, state = optimizer.update(
                    grads, state, params, **{name: more[name] for name in names}
                )
                break
            except (TypeError, ValueError):
                continue
    return optax.apply_updates(params, updates), state


def stepper(take: Any, make: Any, params: Any) -> tuple[Callable[[], float], float]:
    """Return a function that times steps, and the seconds of compilation."""
    optimizer, grads = make(), jax.tree.map(lambda p: 0.1 * p, params)
    params = jax.tree.map(jnp.copy, params)
    state = jax.tree.map(jnp.copy, optimizer.init(params))
    began = time.perf_counter()
    lowered = jax.jit(functools.partial(take, optimizer), donate_argnums=(1, 2)).lower(
        grads, params, state
    )
    step = lowered.compile()
    compile_seconds = time.perf_counter() - began
    kept = [params, state]

    def run(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            kept[:] = step(grads, *kept)
        jax.block_until_ready(kept)
        return (time.perf_counter() - began) / steps

    run(3)
    steps = max(1, int(SECONDS / run(3)))
    return lambda: run(steps), compile_seconds


def rows(options: argparse.Namespace) -> list[Row]:
    found = []
    wanted = itertools.product(SIZES, PAIRS)
    for size, name in watched(pair for pair in wanted if picked(" ".join(pair[::-1]), options)):
        params = SIZES[size]()
        own_seconds, other_seconds = [], []
        for _ in range(BUILDS[size]):
            own, own_compile = stepper(ours, PAIRS[name][0], params)
            other, other_compile = stepper(theirs, PAIRS[name][1], params)
            seconds = interleaved({"ours": own, "other": other}, options.rounds)
            own_seconds += seconds["ours"]
            other_seconds += seconds["other"]
        found.append(
            compared(
                name, size, own_seconds, other_seconds,
                ours_compile_s=own_compile, other_compile_s=other_compile,
            )
        )  # fmt: skip
    return found


def main() -> None:
    options = arguments(__doc__, rounds=61)
    print(f"{machine()}\n")
    table = rows(options)
    report(table, COLUMNS)
    write(table, options.json)


if __name__ == "__main__":
    main()
