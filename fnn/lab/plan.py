"""What a training needs on devices that are not at hand: bytes and collectives of a step."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import export
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from fnn._core import check
from fnn._core.arrays import require_arrays
from fnn._core.errors import entry
from fnn._core.extras import require
from fnn._core.keys import is_key, words_of
from fnn._core.table import in_bytes, table
from fnn._core.types import Array, Data, PyTree, Unchecked
from fnn.gradient.objective import Batch, as_batch
from fnn.lab.cost import ways_of
from fnn.layer import Layer
from fnn.losses import Loss
from fnn.optim.optimizer import Optimizer
from fnn.train.loop._nonfinite import finite_leaves
from fnn.train.loop._program import Steps, no_losses, run_steps
from fnn.train.precision import Precision, in_precision
from fnn.train.sharding import Layout, Sharding, planned_on
from fnn.train.step import TrainState, TrainStep, init_train_state, train_step

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# The result of a collective, one array or a tuple of them, and what it is called.
_COLLECTIVE = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(KINDS)})(?:-start)?\(")
_ARRAY = re.compile(r"[a-z]+(\d*)\w*\[([\d,]*)\]")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(
    r"(?:body|condition|calls|to_apply|(?:true|false)_computation)=%?([\w.\-]+)"
    r"|branch_computations=\{([^}]*)\}"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Sent(NamedTuple):
    """Collectives of one kind in a step.

    Args:
        times: how many each device takes part in; one inside of a scan counts at every turn.
        bytes: of their results on a device.
    """

    times: int
    bytes: int


class Plan(NamedTuple):
    """What a training step needs on each device; prints as a table.

    Args:
        devices: how many there are.
        params_bytes: the parameters that a device holds.
        opt_state_bytes: of the optimizer's state.
        state_bytes: of the state of the layers.
        batch_bytes: of its share of a batch.
        argument_bytes: all that goes into the compiled step, these four and some numbers.
        temporary_bytes: what the compiled step takes beside its inputs and outputs.
        peak_bytes: arguments, temporaries, and outputs that do not lie where arguments lay.
        residual_bytes: what layers and loss keep for the backward pass of a device's share of the
            batch, each layer whole: a part of the temporaries.
        collectives: what devices send each other in a step, by kind.
    """

    devices: int
    params_bytes: int
    opt_state_bytes: int
    state_bytes: int
    batch_bytes: int
    argument_bytes: int
    temporary_bytes: int
    peak_bytes: int
    residual_bytes: int
    collectives: dict[str, Sent]

    def __repr__(self) -> str:
        parts = {
            "parameters": self.params_bytes,
            "optimizer state": self.opt_state_bytes,
            "state": self.state_bytes,
            "batch": self.batch_bytes,
            "temporaries": self.temporary_bytes,
            "peak": self.peak_bytes,
            "(residuals)": self.residual_bytes,
        }
        rows = [(name, "", in_bytes(size)) for name, size in parts.items()]
        rows += [(kind, str(n), in_bytes(size)) for kind, (n, size) in self.collectives.items()]
        ending = "" if self.devices == 1 else "s"
        header = (f"{self.devices} device{ending}", "a step", "a device")
        return table(header, rows)


@entry
def plan(
    model: Layer,
    loss: Loss,
    optimizer: Optimizer,
    batch: Data,
    *,
    mesh: Mesh | AbstractMesh | None = None,
    sharding: Sharding = "data",
    gradient: Literal["manual", "auto"] = "manual",
    precision: Precision | None = None,
) -> Plan:
    """Plan a training on a mesh: the bytes and the collectives of a step on each device.

    The step that `fnn.fit` takes on a batch that is read is compiled for as many simulated CPUs, in
    a process of its own. Nothing is allocated and nothing is run, so that the model may be larger
    than this machine. Parameters, optimizer state and batch are exact for every platform.
    Temporaries and collectives are those of the program for CPUs: there a sum that is scattered is
    an all-reduce and a slice of it, and what is computed in bfloat16 may be in float32.

    Args:
        model: the layer to train.
        loss: compares its outputs with the targets.
        optimizer: of `fnn.optim` or of optax.
        batch: of all devices, ``(x, target)`` or ``(x, target, weights)``, or their shapes.
        mesh: the devices, as in ``jax.sharding.AbstractMesh((64,), ("data",))``, which needs none;
            None for one device.
        sharding: where parameters lie, as in `fnn.fit`.
        gradient: ``"manual"`` or ``"auto"``.
        precision: in which layers compute, as in `fnn.fit`.
    Raises:    InputError for what `fnn.fit` refuses of these; RuntimeError where XLA fails;
        ImportError without flatbuffers, which comes with ``fnn[export]``.

    >>> import fnn, jax
    >>> model = fnn.serial(fnn.dense(1024), fnn.relu(), fnn.dense(16))
    >>> batch = jax.ShapeDtypeStruct((64, 256), "float32"), jax.ShapeDtypeStruct((64,), "int32")
    >>> mesh = jax.sharding.AbstractMesh((4,), ("data",))
    >>> job = model, fnn.losses.cross_entropy(), fnn.optim.adam(0.001), batch
    >>> planned = plan(*job, mesh=mesh, sharding="full")
    >>> fnn.lab.in_bytes(planned.params_bytes), fnn.lab.in_bytes(planned.opt_state_bytes)
    ('273.1 KiB', '546.1 KiB')
    >>> sorted(planned.collectives)
    ['all-gather', 'all-reduce']
    """
    check.one_of(gradient, "gradient", ("manual", "auto"))
    layout = planned_on(mesh, sharding)
    step = train_step(model, loss, optimizer, gradient, precision)
    given = _batch(batch)
    size = jax.tree.leaves(given)[0].shape[0]
    train_state = jax.eval_shape(
        lambda key: init_train_state(
            model, optimizer, given.x, key=key, gradient=gradient, precision=precision
        ),
        jax.eval_shape(lambda: jax.random.key(0)),
    )
    arguments = _arguments(layout, train_state, given, size)
    compiled = _compiled(step, layout, arguments)
    taught, _ = in_precision(model, optimizer, precision, train_state.opt_state)
    share = _rows(given, -(-size // layout.mesh.shape[layout.axis]))
    run = train_state.params, train_state.state, *share, train_state.key
    state, data = arguments[:2]
    before = compiled["argument"] + compiled["temp"]
    return Plan(
        devices=layout.mesh.size,
        params_bytes=_held(state.params),
        opt_state_bytes=_held(state.opt_state),
        state_bytes=_held(state.state),
        batch_bytes=_held(data),
        argument_bytes=compiled["argument"],
        temporary_bytes=compiled["temp"],
        peak_bytes=before + compiled["output"] - compiled["alias"],
        residual_bytes=ways_of(taught, loss, run)[2][gradient],
        collectives=collectives(compiled["text"]),
    )


def _batch(batch: Data) -> Batch:
    """Return the shapes of a batch, or raise unless all have the same leading axis."""
    given = as_batch(batch)
    require_arrays(given, "batch", shapes=True)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), given)
    leaves = jax.tree.leaves(shapes)
    check.shape(leaves[0], "B ...", "batch")
    check.count(leaves[0].shape[0], "examples in a batch")
    for leaf in leaves:
        check.shape(leaf, "B ...", "batch", "give all parts one example each", B=leaves[0].shape[0])
    return shapes


def _rows(batch: Batch, count: int) -> Batch:
    """Return the shapes of so many examples."""
    shapes: Batch = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((count, *a.shape[1:]), a.dtype), batch
    )
    return shapes


def _arguments(
    layout: Layout, train_state: TrainState, batch: Batch, size: int
) -> tuple[Unchecked, ...]:
    """Return the shapes that `run_steps` takes for one step on a batch that is read."""
    whole = layout.sharding()
    even = size % layout.mesh.shape[layout.axis] == 0
    rows = layout.sharding(PartitionSpec(None, layout.axis)) if even else whole

    def placed(tree: PyTree, places: PyTree) -> PyTree:
        return jax.tree.map(
            lambda a, place: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), tree, places
        )

    data = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((1, *a.shape), a.dtype, sharding=rows), batch
    )
    watched = jax.eval_shape(finite_leaves, train_state.params)
    flag, count = (jax.ShapeDtypeStruct((), dtype) for dtype in (jnp.bool, jnp.int32))
    others = no_losses(1), watched, flag, count, count, flag
    return (
        placed(train_state, layout.of(train_state)),
        data,
        *placed(others, jax.tree.map(lambda leaf: whole, others)),
    )


def _compiled(step: TrainStep, layout: Layout, arguments: tuple[Unchecked, ...]) -> Unchecked:
    """Return what a process that simulates the devices tells of the compiled program."""
    require("flatbuffers", "lab.plan", "export")
    wanted, tree = jax.tree.flatten(arguments)

    def taken(*leaves: Array) -> list[Array]:
        train_state, data, losses, *bounds = jax.tree.unflatten(tree, map(_as_key, leaves, wanted))
        # What is read lies in the order of its steps.
        order = jnp.zeros((1, 1), jnp.int32)
        watched, alive, start, stop, look = bounds
        after = run_steps(
            step, None, train_state, Steps(data), order, losses, watched, alive, start, stop, look,
            layout,
        )  # fmt: skip
        return list(map(words_of, jax.tree.leaves(after)))

    # Up to JAX 0.8 an exported program takes no key that has a layout.
    given = map(_words_spec, wanted)
    exported = export.export(jax.jit(taken), platforms=["cpu"])(*given)
    # As in the program of `fit`, the train state and the losses are given away.
    first = len(jax.tree.leaves(arguments[0]))
    losses = first + len(jax.tree.leaves(arguments[1]))
    mesh = layout.mesh
    asked = {
        "sizes": list(mesh.axis_sizes),
        "names": list(mesh.axis_names),
        "donated": [*range(first), losses],
    }
    flags = os.environ.get("XLA_FLAGS", "")
    simulated = {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": str(jnp.result_type(float) == jnp.float64),
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={mesh.size}",
    }
    # -P: the folder of the script has modules with names of the standard library.
    done = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name("_simulated.py")), json.dumps(asked)],
        input=exported.serialize(), capture_output=True, env=os.environ | simulated,
    )  # fmt: skip
    if done.returncode:
        words = done.stderr.decode(errors="replace")[-2000:]
        raise RuntimeError(f"fnn: compiling for {mesh.size} simulated devices failed:\n{words}")
    return json.loads(done.stdout)


def _as_key(words: Array, wanted: jax.ShapeDtypeStruct) -> Array:
    return jax.random.wrap_key_data(words) if is_key(wanted) else words


def _words_spec(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    words = jax.eval_shape(words_of, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return jax.ShapeDtypeStruct(words.shape, words.dtype, sharding=leaf.sharding)


def _held(tree: PyTree) -> int:
    """Return the bytes of some arrays that one device holds."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def collectives(text: str) -> dict[str, Sent]:
    r"""Return the collectives that one run of a compiled program takes part in, by kind.

    Those in a loop count as often as XLA knows it to turn, and once where that is not known, as it
    is of the loop over the steps; of the branches of a conditional all count.

    Args:
        text: the program, as ``compiled.as_text()``.

    >>> lines = "ENTRY %main () -> f32[] {", "  %a = (f32[2,3], f32[4]) all-reduce(%b)", "}"
    >>> print(collectives("\n".join(lines)))
    {'all-reduce': Sent(times=1, bytes=40)}
    """
    bodies, first = _computations(text)
    found: dict[str, Sent] = {}

    def add(name: str, times: int) -> None:
        for line in bodies.get(name, ()):
            for result, kind in _COLLECTIVE.findall(line):
                count, size = found.get(kind, Sent(0, 0))
                found[kind] = Sent(count + times, size + times * _bytes(result))
            trips = _TRIPS.search(line)
            turns = int(trips[1]) if trips else 1
            for one, branches in _CALLED.findall(line):
                for called in [one] if one else re.findall(r"[\w.\-]+", branches):
                    add(called, times * turns)

    add(first, 1)
    return {kind: found[kind] for kind in KINDS if kind in found}


def _computations(text: str) -> tuple[Mapping[str, list[str]], str]:
    """Return the lines that matter of every computation by its name, and the name of main."""
    bodies: dict[str, list[str]] = {}
    first = name = ""
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            name = header[2]
            first = name if header[1] else first
            bodies[name] = []
        elif name and (_COLLECTIVE.search(line) or _CALLED.search(line)):
            bodies[name].append(line)
    return bodies, first


def _bytes(result: str) -> int:
    """Return the bytes of an array, or of a tuple of them, as XLA writes its type."""
    return sum(
        math.ceil(int(bits or 8) / 8) * math.prod(int(n) for n in sizes.split(",") if n)
        for bits, sizes in _ARRAY.findall(result)
    )
