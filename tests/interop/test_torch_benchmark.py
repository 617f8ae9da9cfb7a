"""What benchmarks/against_torch.py measures: all that PyTorch has too, and nothing else."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import torch

import fnn
from tests import twins

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# They move or do nothing; PyTorch has no focal loss of its own.
LEFT_OUT = {"identity", "flatten", "reshape", "focal"}

# What a program does to an array of the size of x, fused or not.
COMPUTED = re.compile(r"= f32\[64,64\]\S* (fusion|tanh)\(")


@pytest.fixture
def against_torch(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("against_torch")


def test_every_layer_and_loss_with_a_twin_is_measured(against_torch):
    names = [f"tests.twins.{module.name}" for module in pkgutil.iter_modules(twins.__path__)]
    tables = [getattr(importlib.import_module(name), "TWINS", []) for name in names]
    known = {twin.case.partition("-")[0] for table in tables for twin in table}
    measured = {word for case in against_torch.CASES for word in case.name.replace(",", "").split()}
    assert known - measured == LEFT_OUT


def test_a_layer_that_computes_something_else_is_refused(against_torch):
    case = next(case for case in against_torch.CASES if case.name == "relu")
    y = np.linspace(-1, 1, 6, dtype="float32").reshape(2, 3)
    against_torch.check_alike(case, y, torch.tensor(y))
    with pytest.raises(SystemExit, match="relu: fnn and PyTorch differ"):
        against_torch.check_alike(case, y, torch.tensor(y).clamp(min=0))


def test_the_peak_of_memory_is_that_of_the_tensors_alive_at_once(against_torch):
    x = torch.ones(256, 256)
    runs = {
        "one": lambda: x.neg(),
        "two": lambda: (x.neg(), x.exp()),
        "last": lambda: x.neg().sum(),
    }
    peaks = against_torch.peak_bytes(runs)
    assert peaks["one"] == x.nbytes
    assert peaks["two"] == 2 * x.nbytes
    assert x.nbytes <= peaks["last"] < 2 * x.nbytes


def before_and_in_the_loop(against_torch):
    """Return the program of an inference loop: what runs once, and what runs in every turn."""
    x = jax.ShapeDtypeStruct((64, 64), "float32")
    loop = against_torch.inference_loop(against_torch.of_layer(fnn.tanh()), 4)
    text = jax.jit(loop, donate_argnums=0).lower((((), (), x), x)).compile().as_text()
    inside, _, outside = text.partition("ENTRY")
    return outside, inside


def test_a_loop_computes_in_every_turn_and_copies_no_input(against_torch):
    outside, inside = before_and_in_the_loop(against_torch)
    assert " tanh(" in inside
    assert not COMPUTED.search(outside)
    assert "f32[64,64]{1,0} copy(" not in outside + inside


def test_what_is_computed_before_a_loop_is_seen(against_torch, monkeypatch):
    monkeypatch.setattr(jax.lax, "optimization_barrier", lambda tree: tree)
    assert COMPUTED.search(before_and_in_the_loop(against_torch)[0])


def test_the_floor_of_a_program_counts_the_kernels_that_are_shared(against_torch):
    floor = object.__new__(against_torch.Floor)
    floor.call, floor.shared = 4.0, 1.0
    alone, shared = against_torch.negative(8), against_torch.negative(2**20)
    kernels = shared.as_text().count(against_torch.SHARED)
    assert floor.seconds(alone, 2) == 2.0
    assert floor.seconds(shared, 2) == 2.0 + kernels
