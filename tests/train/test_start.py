"""The start of a training: few programs to compile, and data looked at in one pass."""

import logging
import re

import jax
import numpy as np
import pytest

import fnn
from fnn.train import step as steps
from fnn.train.data import batch as batches

KEY = jax.random.key(3)
# Of sizes that no other test has: what these compile was not compiled before.
EXAMPLES, INPUTS, HIDDEN, CLASSES = 173, 29, 31, 17
# Beside those that put an array onto the device, one for each shape.
PROGRAMS = {"_init", "_optimizer_init", "_copies", "run_steps", "means"}
RESHAPING = {"stage", "_threefry_seed", "_multi_slice"}


def train(width=HIDDEN, **options):
    random = np.random.default_rng(0)
    x = random.normal(size=(EXAMPLES, INPUTS)).astype("float32")
    labels = random.integers(0, CLASSES, EXAMPLES).astype("int32")
    model = fnn.serial(fnn.dense(width), fnn.batch_norm(), fnn.relu(), fnn.dense(CLASSES))
    return fnn.fit(
        model, fnn.losses.cross_entropy(), fnn.optim.adam(0.01), (x, labels), epochs=1,
        batch_size=EXAMPLES, key=KEY, validation=(x, labels), **options,
    )  # fmt: skip


def programs(caplog, function):
    """Return the names of the programs that it made JAX compile."""
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        function()
    words = (record.getMessage() for record in caplog.records)
    found = [re.search(r"Finished XLA compilation of (?:jit\()?(\w+)", word) for word in words]
    return {one.group(1) for one in found if one} - RESHAPING


def test_a_first_fit_compiles_one_program_for_all_that_is_drawn_and_one_for_each_task(caplog):
    assert programs(caplog, train) == PROGRAMS


def test_what_an_optimizer_begins_with_compiles_by_itself_shape_by_shape_outside_of_its_program(
    caplog, monkeypatch
):
    monkeypatch.setattr(steps, "_begun", lambda optimizer, params: optimizer.init(params))
    assert programs(caplog, lambda: train(HIDDEN + 2)) - PROGRAMS


def test_the_evaluation_is_compiled_before_the_first_step_and_not_run(monkeypatch):
    calls = []
    whole = fnn.train.evaluate.run_evaluation

    def counted(*args, **kwargs):
        calls.append(1)
        return whole(*args, **kwargs)

    monkeypatch.setattr("fnn.train.evaluate.run_evaluation", counted)
    _, history = train()
    assert len(calls) == len(history.validation["loss"]) == 1


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "int64"])
def test_data_is_sound_by_one_sum_or_by_every_entry_alike(dtype, monkeypatch):
    large = (
        2**31 - 1 if dtype == "int64" else np.finfo("float16" if dtype == "float16" else "f4").max
    )
    sound = [np.ones((3, 4), dtype), np.full(40, large, dtype)]
    wrong = 2**40 if dtype == "int64" else np.nan
    spoiled = []
    for value in (wrong, *(() if dtype == "int64" else (np.inf, -np.inf))):
        spoiled.append(np.ones((3, 4), dtype))
        spoiled[-1][1, 2] = value
    quick = [batches._suspicious(leaf) for leaf in sound + spoiled]
    monkeypatch.setattr(batches, "_is_plainly_sound", lambda leaf: False)
    assert quick == [batches._suspicious(leaf) for leaf in sound + spoiled]
    assert quick == [False] * len(sound) + [True] * len(spoiled)


def test_opposite_infinities_are_found():
    with pytest.raises(fnn.InputError, match=r"inf at x\[0\]"):
        batches.check_finite("x", np.array([np.inf, -np.inf], "float32"))
