"""A plan is what the program of `fit` needs on a mesh: seen where that can be compiled, on 8."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

import fnn
from fnn import lab, train
from fnn.lab.plan import collectives

BATCH = 16
X = np.zeros((BATCH, 64), "float32")
TOKENS = np.zeros((BATCH, 8), "int32")


def mlp():
    return fnn.serial(fnn.dense(128), fnn.batch_norm(), fnn.relu(), fnn.dense(4))


def deep():
    blocks = fnn.repeat(fnn.residual(fnn.mlp()), 3)
    return fnn.serial(fnn.embedding(16, 32), blocks, fnn.linear_head(16))


MLP = mlp(), fnn.losses.cross_entropy(), fnn.optim.adam(0.01), (X, TOKENS[:, 0])
DEEP = (
    deep(), fnn.losses.linear_cross_entropy(), fnn.optim.sgd(0.1, 0.9), (TOKENS, TOKENS)
)  # fmt: skip
TENSOR = train.tensor_parallel(deep())
CASES = {
    "one device": (MLP, (1,), "data"),
    "data on 2": (MLP, (2,), "data"),
    "full on 8, by autodiff": (MLP, (8,), "full", "auto"),
    "tensor parallel on 2 x 4": (DEEP, (2, 4), TENSOR),
}


def planned(case):
    job, shape, sharding, *gradient = CASES[case]
    mesh = AbstractMesh(shape, ("data", "model")[: len(shape)])
    return lab.plan(*job, mesh=mesh, sharding=sharding, gradient=(*gradient, "manual")[0])


class Seen(Exception):
    """The program of a run was seen; it need not be run."""


def held(tree):
    """The bytes of arrays on the first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def measured(case):
    """What `fit` gives to its program, and what XLA says of that."""
    job, shape, sharding, *gradient = CASES[case]
    loop = sys.modules["fnn.train.loop._loop"]
    run, found = loop.run, {}

    def note(*args):
        start, data = args[2:4]
        compiled = run.lower(*args).compile()
        sizes = compiled.memory_analysis()
        found.update(
            params_bytes=held(start.params), opt_state_bytes=held(start.opt_state),
            state_bytes=held(start.state), batch_bytes=held(data),
            argument_bytes=sizes.argument_size_in_bytes, temporary_bytes=sizes.temp_size_in_bytes,
            collectives={k: tuple(v) for k, v in collectives(compiled.as_text()).items()},
        )  # fmt: skip
        raise Seen

    loop.run = note
    devices = jax.devices()[: int(np.prod(shape))]
    try:
        fnn.fit(
            *job[:3], [job[3]], steps=1, key=jax.random.key(0), sharding=sharding,
            mesh=jax.make_mesh(shape, ("data", "model")[: len(shape)], devices=devices),
            gradient=(*gradient, "manual")[0],
        )  # fmt: skip
    except Seen:
        return found
    finally:
        loop.run = run


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    file = tmp_path_factory.mktemp("devices") / "found"
    call = (
        "import pathlib, pickle, fnn.train.loop._loop, tests.lab.test_plan as t;"
        f"pathlib.Path({str(file)!r}).write_bytes("
        "pickle.dumps({case: t.measured(case) for case in t.CASES}))"
    )
    simulated = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    flags = {"XLA_FLAGS": simulated, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", call], cwd=Path(__file__).parents[2],
        capture_output=True, text=True, env=os.environ | flags,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    return pickle.loads(file.read_bytes())


@pytest.fixture(scope="module")
def plans():
    return {case: planned(case) for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_a_plan_is_what_the_program_of_fit_needs_on_a_device_to_the_byte(found, plans, case):
    assert {name: getattr(plans[case], name) for name in found[case]} == found[case]


def test_layouts_differ_in_what_is_compared(found):
    for name in found["one device"]:
        assert len({str(sizes[name]) for sizes in found.values()}) > 1, name


def test_the_residuals_of_a_plan_are_those_of_the_share_of_a_device(plans):
    model, loss, _, (x, target) = MLP
    params, state = model.init(jax.random.key(0), x)
    _, _, kept = model.forward(params, state, x[:8], key=jax.random.key(0), train=True)
    _, of_loss = loss.forward(np.zeros((8, 4), "float32"), target[:8])
    owned = {id(leaf) for leaf in jax.tree.leaves(params)}
    arrays = {id(leaf): leaf for leaf in jax.tree.leaves((kept, of_loss)) if id(leaf) not in owned}
    size = sum(leaf.nbytes for leaf in arrays.values())
    assert plans["data on 2"].residual_bytes == pytest.approx(size, rel=0.02)


def test_a_plan_prints_as_a_table_of_all_that_it_knows(plans):
    lines = str(plans["tensor parallel on 2 x 4"]).splitlines()
    assert lines[0].split() == ["8", "devices", "a", "step", "a", "device"]
    first = [line.split()[0] for line in lines[1:]]
    assert first[:4] == ["parameters", "optimizer", "state", "batch"]
    assert first[4:8] == ["temporaries", "peak", "(residuals)", "all-reduce"]


def test_four_tebibytes_are_planned_on_512_devices_without_being_there():
    width = 2**20
    x = jax.ShapeDtypeStruct((512, width), "float32")
    job = fnn.dense(width), fnn.losses.squared_error(), fnn.optim.sgd(0.1), (x, x)
    found = lab.plan(*job, mesh=AbstractMesh((512,), ("data",)), sharding="full")
    assert found.params_bytes == 4 * (width + 1) * width // 512


LOOP = """
%body (a: f32[]) -> f32[] {
  %b = (f32[2,3], bf16[4]) all-reduce(%a), to_apply=%add
}
%add (a: f32[]) -> f32[] {
  %c = pred[5]{0} all-gather(%a)
}
ENTRY %main (a: f32[]) -> f32[] {
  %d = f32[] while(%a), body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %e = f32[7]{0} conditional(%a), branch_computations={%add, %body}
}
"""


def test_a_collective_in_a_loop_counts_at_every_turn_and_one_in_each_branch():
    assert collectives(LOOP) == {"all-reduce": (4, 4 * 32), "all-gather": (5, 5 * 5)}


SHAPE = jax.ShapeDtypeStruct((4, 2), "float32")
JOB = fnn.dense(2), fnn.losses.squared_error(), fnn.optim.sgd(0.1)
REFUSED = {
    "a mesh": (lambda: lab.plan(*JOB, (SHAPE, SHAPE), mesh=3), "a jax.sharding.AbstractMesh"),
    "a word": (lambda: lab.plan(*JOB, (SHAPE, SHAPE), sharding="all"), "'data', 'full'"),
    "a gradient": (lambda: lab.plan(*JOB, (SHAPE, SHAPE), gradient="numeric"), "'manual', 'auto'"),
    "no batch": (lambda: lab.plan(*JOB, SHAPE), "(x, target)"),
    "no examples": (lambda: lab.plan(*JOB, (X[:0], X[:0])), "examples in a batch"),
    "unequal parts": (lambda: lab.plan(*JOB, (SHAPE, X)), "batch of shape (4, ...)"),
    "no axis": (lambda: lab.plan(*JOB, (X[0, 0], X[0, 0])), "batch of shape (B, ...)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_planned_is_refused_in_words(case):
    call, words = REFUSED[case]
    with pytest.raises(fnn.InputError, match=re.escape(words)):
        call()


def test_what_xla_says_of_a_failure_is_told(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_no_such_flag=1")
    with pytest.raises(RuntimeError, match="xla_no_such_flag"):
        lab.plan(*JOB, (SHAPE, SHAPE))
