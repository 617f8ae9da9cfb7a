"""Time `fit` on simulated devices against a sharded loop by hand; check that the curve stays.

- ``mlp``, ``cnn``, ``lstm``, ``transformer``, each with ``sharding="data"`` and ``"full"``: a run
  of `fit` on all devices against `jax.lax.scan` over `fnn.train_step`, with the same batches and
  the shardings written by hand, which says where arrays lie and leaves to XLA what is sent.
  time_ratio is ours over the other's, milliseconds a step, medians over rounds in which both take
  turns; compilation is left out.
- curve: the largest difference of a loss on 2, 4 and 8 devices from that on one, over the loss;
  more than rounding ends the benchmark.
- work: the operations that 8 devices do together over those that one does, in the compiled step; 1
  is weak scaling without loss, but for what is sent.

The devices are simulated, eight on the cores at hand: times compare two programs, and say nothing
of how much faster eight devices would be.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from measure import Row, arguments, compared, interleaved, machine, picked, report, watched, write

import fnn

COLUMNS = ("name", "size", "time_ratio", "ours_ms", "other_ms", "curve", "work")
DEVICES, BATCH, STEPS, EPOCHS = 8, 64, 16, 2
Problem = tuple[fnn.Layer, fnn.losses.Loss, Any, tuple[np.ndarray, np.ndarray], str]


def problems() -> dict[str, Problem]:
    random = np.random.default_rng(0)
    rows = random.normal(size=(BATCH * STEPS, 784)).astype(np.float32)
    labels = (rows[:, 0] > 0).astype(np.int32)
    tokens = random.integers(0, 64, size=(BATCH * STEPS, 33))
    mlp = fnn.serial(
        fnn.dense(256), fnn.batch_norm(), fnn.relu(), fnn.dropout(0.2), fnn.dense(128), fnn.relu(),
        fnn.dense(2),
    )  # fmt: skip
    cnn = fnn.serial(
        fnn.conv(16, 3), fnn.relu(), fnn.max_pool(2), fnn.conv(32, 3), fnn.relu(),
        fnn.max_pool(2), fnn.flatten(), fnn.dense(2),
    )  # fmt: skip
    lstm = fnn.serial(fnn.lstm(64), fnn.last_step(), fnn.dense(2))
    blocks = fnn.repeat(fnn.transformer_block(4, causal=True), 2)
    transformer = fnn.serial(fnn.embedding(64, 64), fnn.positional(), blocks, fnn.linear_head(64))
    classes, head = fnn.losses.cross_entropy(), fnn.losses.linear_cross_entropy()
    following = tokens[:, :-1], tokens[:, 1:]
    return {
        "mlp": (mlp, classes, fnn.optim.adam(1e-3), (rows, labels), "784-256-128-2"),
        "cnn": (
            cnn, classes, fnn.optim.sgd(0.01, 0.9), (rows.reshape(-1, 28, 28, 1), labels), "28x28"
        ),
        "lstm": (
            lstm, classes, fnn.optim.adam(1e-3), (rows.reshape(-1, 28, 28), labels), "T=28, 64"
        ),
        "transformer": (transformer, head, fnn.optim.sgd(0.1), following, "2 blocks, T=32, 64"),
    }  # fmt: skip


def mesh_of(devices: int) -> Mesh:
    kinds = (AxisType.Auto,)
    return jax.make_mesh((devices,), ("data",), kinds, devices=jax.devices()[:devices])


def fitted(problem: Problem, sharding: Any, devices: int, epochs: int = EPOCHS) -> fnn.History:
    model, loss, optimizer, data, _ = problem
    _, history = fnn.fit(
        model, loss, optimizer, data, epochs=epochs, batch_size=BATCH, key=jax.random.key(0),
        mesh=mesh_of(devices), sharding=sharding,
    )  # fmt: skip
    return history


def placed(tree: Any, sharding: str, mesh: Mesh) -> Any:
    """Return the places of a train state: what a user would write down for it."""

    def place(leaf: Any) -> NamedSharding:
        axes = [i for i, n in enumerate(leaf.shape) if n % mesh.size == 0]
        if sharding == "data" or leaf.size < 1024 or not axes:
            return NamedSharding(mesh, PartitionSpec())
        axis = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*(None,) * axis, "data"))

    return jax.tree.map(place, tree)


def by_hand(problem: Problem, sharding: str, devices: int) -> tuple[Any, Any]:
    """Return an epoch as a compiled program, and what it begins with."""
    model, loss, optimizer, data, _ = problem
    mesh = mesh_of(devices)
    step = fnn.train_step(model, loss, optimizer)
    start = fnn.init_train_state(model, optimizer, data[0][:1], key=jax.random.key(0))
    places = placed(start, sharding, mesh)
    data = jax.device_put(data, NamedSharding(mesh, PartitionSpec()))
    split, keep = NamedSharding(mesh, PartitionSpec("data")), jax.lax.with_sharding_constraint

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(places, None))
    def epoch(state: Any, order: Any, x: Any, y: Any) -> Any:
        def take(state: Any, rows: Any) -> Any:
            state, metrics = step(state, (keep(x[rows], split), keep(y[rows], split)))
            return keep(state, places), metrics["loss"]

        return jax.lax.scan(take, state, order)

    order = np.arange(BATCH * STEPS, dtype=np.int32).reshape(STEPS, BATCH)
    begin = jax.device_put(start, places)
    return epoch.lower(begin, order, *data).compile(), (begin, order, *data)


def hand_written(problem: Problem, sharding: str) -> Callable[[], float]:
    epoch, (begin, order, *data) = by_hand(problem, sharding, DEVICES)

    def run() -> float:
        state = jax.block_until_ready(jax.tree.map(jax.numpy.copy, begin))
        began = time.perf_counter()
        for _ in range(EPOCHS):
            state, losses = epoch(state, order, *data)
        np.asarray(losses)
        jax.block_until_ready(state)
        return time.perf_counter() - began

    return run


def curve(problem: Problem, sharding: str, expected: np.ndarray) -> float:
    found = [fitted(problem, sharding, n, 1).loss for n in (2, 4, DEVICES)]
    worst = max(float(abs(loss / expected - 1).max()) for loss in found)
    # Some thousand terms a sum, over steps that pass their errors on.
    if not worst < 1e-3:
        raise SystemExit(f"a loss differs by {worst} of that of one device")
    return worst


def row(name: str, problem: Problem, sharding: str, expected: np.ndarray, rounds: int) -> Row:
    flops = [by_hand(problem, sharding, n)[0].cost_analysis()["flops"] for n in (1, DEVICES)]
    functions = {
        "fit": lambda: fitted(problem, sharding, DEVICES).run_seconds,
        "hand": hand_written(problem, sharding),
    }
    seconds = interleaved(functions, rounds)
    return compared(
        f"{name} {sharding}", problem[-1], seconds["fit"], seconds["hand"], EPOCHS * STEPS,
        curve=curve(problem, sharding, expected), work=DEVICES * flops[1] / flops[0],
    )  # fmt: skip


def main() -> None:
    options = arguments(__doc__, rounds=5)
    jax.config.update("jax_num_cpu_devices", DEVICES)
    print(machine())
    rows = []
    for name, problem in watched(problems().items()):
        wanted = [one for one in ("data", "full") if picked(f"{name} {one}", options)]
        if wanted:
            expected = fitted(problem, "data", 1, 1).loss
            rows += [row(name, problem, one, expected, options.rounds) for one in wanted]
    report(rows, COLUMNS)
    write(rows, options.json)


if __name__ == "__main__":
    main()
