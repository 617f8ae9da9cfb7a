"""What benchmarks/against_torch.py measures: all that PyTorch has too, and nothing else."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import twins

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# They move or do nothing; PyTorch has no focal loss of its own.
LEFT_OUT = {"identity", "flatten", "reshape", "focal"}


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
