"""Plan trainings on simulated devices; check plans against programs of `fit` that can be run.

    python benchmarks/plan.py [--only NAME] [--json FILE]

- ``mlp``, ``transformer``, each on 1, 2, 4 and 8 devices, ``data`` and ``full``: a step of `fit` is
  taken on 8 simulated devices of this process, and its arrays and its compiled program are looked
  at. held_error and temporary_error are the relative errors of the plan, in what a device holds of
  the train state and the batch and in temporaries; any but 0 ends the benchmark.
- ``7B``: 32 blocks of `transformer_block`, width 4096, vocabulary 32000, 64 texts of 2048 tokens,
  Adam, fully sharded over 64 devices; nothing of it is allocated. ``7B-remat`` computes the blocks
  again in the backward pass.
- ``512``: a matrix of 4 TiB on 512 devices.

Sizes are those on a device, of a step. seconds is what the plan took, and peak_mib the most memory
that a process which simulates devices took so far. `--rounds` does nothing.
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh
from measure import Row, arguments, machine, picked, report, watched, write

import fnn
import fnn.train.loop._loop

DEVICES, BATCH = 8, 64
COLUMNS = (
    "name", "size", "held_error", "temporary_error", "params_mib", "opt_state_mib",
    "temporary_mib", "residual_mib", "collectives", "sent_mib", "seconds", "peak_mib",
)  # fmt: skip
MIB = 2**20
Job = tuple[fnn.Layer, fnn.losses.Loss, Any, tuple[Any, Any]]


def transformer(width: int, layers: int, vocabulary: int, heads: int, remat: bool) -> fnn.Layer:
    block = fnn.transformer_block(heads, causal=True)
    blocks = fnn.repeat(fnn.remat(block) if remat else block, layers)
    return fnn.serial(fnn.embedding(vocabulary, width), blocks, fnn.linear_head(vocabulary))


def large(remat: bool) -> Job:
    model = transformer(4096, 32, 32_000, 32, remat)
    tokens = jax.ShapeDtypeStruct((64, 2048), "int32")
    head = fnn.losses.linear_cross_entropy(chunk=4000)
    return model, head, fnn.optim.adam(1e-4), (tokens, tokens)


def matrix() -> Job:
    x = jax.ShapeDtypeStruct((512, 2**20), "float32")
    return fnn.dense(2**20), fnn.losses.squared_error(), fnn.optim.sgd(0.1), (x, x)


def small() -> dict[str, Job]:
    rows, tokens = np.zeros((BATCH, 784), np.float32), np.zeros((BATCH, 32), np.int32)
    mlp = fnn.serial(fnn.dense(256), fnn.batch_norm(), fnn.relu(), fnn.dense(10))
    head = fnn.losses.linear_cross_entropy()
    return {
        "mlp": (mlp, fnn.losses.cross_entropy(), fnn.optim.adam(1e-3), (rows, tokens[:, 0])),
        "transformer": (
            transformer(64, 2, 64, 4, False), head, fnn.optim.sgd(0.1, 0.9), (tokens, tokens)
        ),
    }  # fmt: skip


def planned(name: str, size: str, job: Job, devices: int, sharding: Any) -> tuple[Row, Any]:
    """Return the row of a plan, and the plan."""
    began = time.perf_counter()
    mesh = AbstractMesh((devices,), ("data",))
    found = fnn.lab.plan(*job, mesh=mesh, sharding=sharding)
    row: Row = {"name": name, "size": size, "seconds": time.perf_counter() - began}
    for part in ("params", "opt_state", "temporary", "residual"):
        row[f"{part}_mib"] = getattr(found, f"{part}_bytes") / MIB
    unit = 1 if sys.platform == "darwin" else 1024
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    sent = found.collectives.values()
    row |= {"collectives": sum(kind.times for kind in sent), "peak_mib": most / MIB}
    return row | {"sent_mib": sum(kind.bytes for kind in sent) / MIB}, found


def measured(job: Job, devices: int, sharding: Any) -> tuple[int, int]:
    """Return what a device holds in a step of `fit`, and the temporaries of its program."""
    loop: Any = fnn.train.loop._loop
    run, seen = loop.run, []

    def note(*args: Any) -> Any:
        if not seen:
            compiled = run.lower(*args).compile()
            shards = [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(args[2:4])]
            held = sum(_bytes(shard) for shard in shards)
            seen.append((held, compiled.memory_analysis().temp_size_in_bytes))
        return run(*args)

    loop.run = note
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
    model, loss, optimizer, batch = job
    try:
        fnn.fit(
            model, loss, optimizer, [batch], steps=1, key=jax.random.key(0), mesh=mesh,
            sharding=sharding,
        )  # fmt: skip
    finally:
        loop.run = run
    return seen[0]


def _bytes(leaf: jax.Array) -> int:
    return leaf.size * leaf.dtype.itemsize


def main() -> None:
    options = arguments(__doc__, rounds=1)
    jax.config.update("jax_num_cpu_devices", DEVICES)
    print(machine())
    rows: list[Row] = []
    cases = [
        (name, devices, sharding)
        for name in small()
        for devices in (1, 2, 4, 8)
        for sharding in ("data", "full")
    ]
    for name, devices, sharding in watched(cases):
        if not picked(f"{name}-{sharding}", options):
            continue
        job = small()[name]
        row, found = planned(f"{name}-{sharding}", f"{devices} devices", job, devices, sharding)
        held, temporary = measured(job, devices, sharding)
        # Beside what is named: the key, the count of the step, and hyper-parameters.
        numbers = fnn.init_train_state(job[0], job[2], job[3][0], key=jax.random.key(0))
        more = (numbers.key, numbers.step, numbers.hyperparameters)
        ours = sum(_bytes(leaf) for leaf in jax.tree.leaves(more)) + sum(
            getattr(found, f"{part}_bytes") for part in ("params", "opt_state", "state", "batch")
        )
        row |= {"held_error": ours / held - 1, "temporary_error": 0.0}
        row["temporary_error"] = found.temporary_bytes / temporary - 1
        rows.append(row)
    big = {
        "7B": (large(remat=False), 64),
        "7B-remat": (large(remat=True), 64),
        "512": (matrix(), 512),
    }
    for name, (job, devices) in big.items():
        if picked(name, options):
            rows.append(planned(name, f"{devices} devices", job, devices, "full")[0])
    report(rows, COLUMNS)
    write(rows, options.json)
    if any(row.get("held_error") or row.get("temporary_error") for row in rows):
        raise SystemExit("a plan is not what the program of fit needs")


if __name__ == "__main__":
    main()
