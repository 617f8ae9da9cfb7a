"""No damaged file is read as something else, and none raises anything but `InputError`."""

import numpy as np
import pytest

import fnn
from tests.attack import damage

COUNT = 120


@pytest.mark.parametrize("name", damage.FORMATS)
def test_damaged_files_are_refused_or_read_as_what_they_were(tmp_path, name):
    counts, bad = damage.attack(name, COUNT, seed=7, folder=tmp_path)
    assert bad == []
    assert counts["refused"] > 0
    if damage.FORMATS[name].seen_all:
        assert counts["refused"] > COUNT * 0.9


def careless(file):
    """A reader without checks, as `numpy.fromfile` is one."""
    return {**damage.PARAMS, "weight": np.fromfile(file, "uint8")[-48:]}


def strict(file):
    raise KeyError("params/weight")


@pytest.mark.parametrize(
    ("read", "what"), [(careless, "read as something else"), (strict, "KeyError")]
)
def test_the_attack_finds_a_reader_that_is_careless(tmp_path, monkeypatch, read, what):
    calls = iter(range(10**6))

    def planted(file):
        first = next(calls) == 0
        return fnn.load_weights(file, (damage.PARAMS, ()))[0] if first else read(file)

    form = damage.FORMATS["safetensors"]._replace(read=planted)
    monkeypatch.setitem(damage.FORMATS, "safetensors", form)
    _, bad = damage.attack("safetensors", 20, seed=7, folder=tmp_path)
    assert len(bad) == 20
    assert all(what in line for line in bad)
