"""Every layer and loss on a mesh of 8 simulated devices, in every mode, by hand and by autodiff.

    export XLA_FLAGS=--xla_force_host_platform_device_count=8
    python -m tests.sharding.table                  a table of all cases, and its totals
    python -m tests.sharding.table --only PART      of those with PART in their name
    python -m tests.sharding.table --json FILE      kept in a file, from which it goes on

A row is a case, a column a mode; a cell is "ok", or what went wrong. Value, gradients in parameters
and input and the new state are those of one device, up to the rounding of the longest sum: of the
whole batch in the automatic and the explicit mode, and of every share by itself under `shard_map`.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import fnn
from fnn._core.tree import inexact_leaves
from fnn.gradient.objective import auto_gradients, manual_gradients
from fnn.lab.check import moved_place
from tests import cases
from tests.tolerance import rounding
from tests.xla import compile_in_haste

DEVICES, SHARE = 8, 2
BATCH = DEVICES * SHARE
KEY, PLACE_KEY = jax.random.split(jax.random.key(5))
MODES = ("automatic", "explicit", "shard_map", "shard_map, check_vma=False")
WAYS = {"manual": manual_gradients, "auto": auto_gradients}
AXIS = "data"


class Job(NamedTuple):
    """A model and a loss at one place: parameters, state, x and target are arrays of NumPy."""

    name: str
    model: Any
    loss: Any
    inputs: tuple[Any, Any, Any, Any]


def products() -> Any:
    """The loss whose gradient in every floating output is the target: cotangents are random."""

    def forward(prediction, target):
        floats = jax.tree.leaves(inexact_leaves(prediction))
        examples = floats[0].shape[0]
        values = [_by_example(a * b, examples) for a, b in zip(floats, target, strict=True)]
        return functools.reduce(jnp.add, values), (prediction, target)

    def backward(residuals, dvalues):
        prediction, target = residuals
        structure = jax.tree.structure(inexact_leaves(prediction))
        weighted = [
            b * dvalues.reshape(-1, *(1,) * (b.ndim - 1))
            if b.shape[0] == dvalues.shape[0]
            else b * dvalues.mean()
            for b in target
        ]
        return jax.tree.unflatten(structure, weighted)

    return fnn.losses.Loss(
        lambda prediction, target: forward(prediction, target)[0],
        forward,
        backward,
        lambda prediction, target: None,
    )


def _by_example(products, examples):
    """The sum of every example; of what is the same for all, such as weights, a share of it."""
    if products.shape[0] == examples:
        return products.reshape(examples, -1).sum(1)
    return jnp.broadcast_to(products.sum() / examples, (examples,))


def grown(tree: Any, examples: int) -> Any:
    """Repeat a few examples until there are BATCH of them, the numbers of each round others."""
    rounds = -(-BATCH // examples)

    def one(a):
        a = np.asarray(a)
        if not a.ndim or a.shape[0] != examples:
            return a.astype(np.float32) if a.dtype == np.float64 else a
        if a.dtype == np.float64:
            parts = [a * (1 + i / 8) for i in range(rounds)]
            return np.concatenate(parts)[:BATCH].astype(np.float32)
        whole = np.concatenate([a] * rounds)[:BATCH]
        return whole if whole.dtype == bool else whole.astype(np.int32)

    return jax.tree.map(one, tree)


def of_layer(case: Any, *, shapes: bool = False) -> Job:
    """Draw parameters, state and x of a case, or only tell their shapes."""
    shape = next(iter(case.shapes.values()))
    x = case.draw(np.random.default_rng(3), shape)
    x = grown(x, np.shape(jax.tree.leaves(x)[0])[0])
    layer = case.make()

    def prepared(x):
        params, state = moved_place(layer, x, PLACE_KEY)
        y, _ = layer.apply(params, state, x, key=KEY, train=True)
        floats = jax.tree.leaves(inexact_leaves(y))
        keys = jax.random.split(KEY, len(floats))
        return (
            params,
            state,
            [jax.random.normal(k, a.shape) for k, a in zip(keys, floats, strict=True)],
        )

    made = jax.eval_shape(prepared, x) if shapes else jax.jit(prepared)(x)
    params, state, target = made if shapes else jax.tree.map(np.asarray, made)
    return Job(case.name, layer, products(), (params, state, x, target))


def of_loss(case: Any) -> Job:
    examples = len(jax.tree.leaves(case.target)[0])
    x = grown(case.draw(np.random.default_rng(3)), examples)
    target = jax.tree.map(np.asarray, case.target)
    if jax.tree.structure(target) == jax.tree.structure(0) and target.dtype == np.float32:
        target = target.astype(np.float64)
    return Job(
        f"losses.{case.name}", fnn.identity(), case.make(), ((), (), x, grown(target, examples))
    )


def planted() -> Job:
    """A layer whose backward forgets a term: what the table has to see."""
    square = fnn.stateless(
        lambda key, x: (), lambda params, x: (x**2 + x, x), lambda params, x, dy: ((), 2 * x * dy)
    )
    x = np.random.default_rng(3).normal(size=(BATCH, 3)).astype(np.float32)
    return Job("planted", square, products(), ((), (), x, [x]))


def jobs(*, shapes: bool = False) -> list[tuple[str, Callable[[], Job]]]:
    """Return all cases by name, and what makes them."""
    makers = [
        (case.name, functools.partial(of_layer, case, shapes=shapes)) for case in cases.LAYERS
    ]
    return makers + [
        (f"losses.{case.name}", functools.partial(of_loss, case)) for case in cases.LOSSES
    ]


def gradients(job: Job, way: str, params: Any, state: Any, x: Any, target: Any) -> Any:
    """Value, state, dparams and dx: what is compared."""
    return WAYS[way](job.model, job.loss, params, state, x, target, None, KEY)


def mesh(kind: Any) -> Any:
    return jax.make_mesh((DEVICES,), (AXIS,), axis_types=(kind,))


def specs(job: Job) -> Any:
    """How the inputs lie: examples over the devices, all else on each of them."""
    params, state, x, target = job.inputs

    def by_example(a):
        return PartitionSpec(AXIS) if np.ndim(a) and len(a) == BATCH else PartitionSpec()

    whole = jax.tree.map(lambda a: PartitionSpec(), (params, state))
    return (*whole, *jax.tree.map(by_example, (x, target)))


def both_ways(job: Job, *inputs: Any) -> Any:
    return {way: gradients(job, way, *inputs) for way in WAYS}


def runs(job: Job) -> dict[str, Callable[..., Any]]:
    """What runs a job in every mode, on arrays that are laid out."""

    def share(*inputs):
        return jax.tree.map(lambda a: a[None], both_ways(job, *inputs))

    mapped = functools.partial(
        jax.shard_map, share, mesh=mesh(AxisType.Auto), in_specs=specs(job),
        out_specs=PartitionSpec(AXIS),
    )  # fmt: skip
    plain = functools.partial(both_ways, job)
    return dict(zip(MODES, (plain, plain, mapped(), mapped(check_vma=False)), strict=True))


def compiled(job: Job, kind: Any, functions: dict[str, Callable[..., Any]]) -> Any:
    """Run functions of one kind of mesh as one program."""
    devices = mesh(kind)
    put = jax.tree.map(
        lambda a, spec: jax.device_put(a, NamedSharding(devices, spec)), job.inputs, specs(job)
    )
    with jax.set_mesh(devices):
        return jax.jit(lambda *inputs: {name: f(*inputs) for name, f in functions.items()})(*put)


def results(job: Job) -> dict[str, Any]:
    """Return what every mode gives, or the error that it ends with."""
    found: dict[str, Any] = {}
    functions = runs(job)
    explicit = {"explicit": functions.pop("explicit")}
    alone = [(AxisType.Auto, {name: one}) for name, one in functions.items()]
    for together in ((AxisType.Explicit, explicit), (AxisType.Auto, functions), *alone):
        if found.keys() >= together[1].keys():
            continue
        try:
            found |= compiled(job, *together)
        except Exception as error:  # What it is goes into the table.
            # Of several each by itself is told apart afterwards.
            found |= dict.fromkeys(together[1], error) if len(together[1]) == 1 else {}
    return found


def on_one_device(job: Job) -> Any:
    """Run the plain formula on the whole batch, and on every share of it."""
    split = [spec == PartitionSpec(AXIS) for spec in jax.tree.leaves(specs(job))]
    leaves, structure = jax.tree.flatten(job.inputs)
    shares = [
        a.reshape(DEVICES, SHARE, *a.shape[1:]) if one else a
        for a, one in zip(leaves, split, strict=True)
    ]

    def run(leaves, shares):
        def one(*leaves):
            return gradients(job, "auto", *jax.tree.unflatten(structure, leaves))

        axes = [0 if one else None for one in split]
        return one(*leaves), jax.vmap(one, axes)(*shares)

    return jax.jit(run)(leaves, shares)


def difference(one: Any, other: Any) -> float:
    """The largest difference, in units of what the rounding of the longest sum explains."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    left, right = (
        [np.asarray(a, np.float64) for a in jax.tree.leaves(tree)] for tree in (one, other)
    )
    terms = max([a.size for a in right], default=1)
    scale = max([np.abs(a).max(initial=0) for a in right], default=0) or 1
    most = 0.0
    for a, b in zip(left, right, strict=True):
        assert a.shape == b.shape
        most = max(most, np.abs(a - b).max(initial=0) / scale / rounding(jnp.float32, terms))
    return most


def row(make: Callable[[], Job]) -> dict[str, str]:
    """Return what every mode and way gives for a case: "ok", or what went wrong."""
    job = make()
    whole, shares = on_one_device(job)
    expected = dict(zip(MODES, (whole, whole, shares, shares), strict=True))
    cells, found = {"case": job.name}, results(job)
    for mode in MODES:
        for way in WAYS:
            cells[f"{mode} {way}"] = _cell(found[mode], way, expected[mode])
    return cells


def _cell(found: Any, way: str, expected: Any) -> str:
    if isinstance(found, Exception):
        return f"{type(found).__name__}: {found}".replace("\n", " ")[:300]
    apart = difference(found[way], expected)
    return "ok" if apart <= 1 else f"differs, {apart:.3g} roundings"


def totals(rows: list[dict[str, str]]) -> list[str]:
    """Return lines of how many cases are right in every mode, by hand and by autodiff."""
    columns = [f"{mode} {way}" for mode in MODES for way in WAYS]
    return [f"{name}: {sum(r[name] == 'ok' for r in rows)} of {len(rows)}" for name in columns]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", default=[], metavar="PART")
    parser.add_argument("--case", action="append", default=[], metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a line of JSON for every row")
    options = parser.parse_args()
    compile_in_haste()
    lines = options.json.read_text().splitlines() if options.json and options.json.exists() else []
    rows = [json.loads(line) for line in lines]
    known = {row["case"] for row in rows}
    for name, make in [*jobs(), ("planted", planted)]:
        anything = not options.only and not options.case and name != "planted"
        wanted = name in options.case or any(part in name for part in options.only)
        if name in known or not (anything or wanted):
            continue
        rows.append(row(make))
        print(*rows[-1].values(), sep=" | ", flush=True)
        if options.json:
            with options.json.open("a") as file:
                print(json.dumps(rows[-1]), file=file)
    if not options.case:
        print(*totals(rows), sep="\n")


if __name__ == "__main__":
    main()
