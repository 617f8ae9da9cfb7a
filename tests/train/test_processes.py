"""Two processes take the steps that one takes, and one goes on where two were killed."""

from __future__ import annotations

import functools
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

import fnn
from fnn import optim, train
from fnn.train.sharding import layout_of
from tests.tolerance import rounding
from tests.xla import in_haste

BATCH, EPOCHS, WIDTH = 8, 2, 64
RNG = np.random.default_rng(0)
# 4 steps of 8, and one of 3 where all are read.
ROWS = RNG.normal(size=(35, 16)).astype("float32")
LABELS = (ROWS[:, 0] > 0).astype("int32")
FULL = ROWS[:32], LABELS[:32]
MODEL = fnn.serial(fnn.dense(WIDTH), fnn.batch_norm(), fnn.tanh(), fnn.dropout(0.2), fnn.dense(2))
KILLED_AT = int(np.random.default_rng().integers(4, 9))


@functools.cache
def optimizer():
    # Not before the processes know each other: a key is on a device.
    return optim.chain(optim.gradient_noise(1e-4, key=jax.random.key(7)), optim.sgd(0.1, 0.9))


def fitted(data=FULL, **options):
    options = {"epochs": EPOCHS, "batch_size": BATCH, "key": jax.random.key(0)} | options
    return fnn.fit(MODEL, fnn.losses.cross_entropy(), optimizer(), data, **options)


def batches_of(process, processes):
    """The share of a process of every batch."""
    here = slice(process * BATCH // processes, (process + 1) * BATCH // processes)
    cuts = range(0, len(ROWS) - BATCH + 1, BATCH)
    return [(ROWS[i : i + BATCH][here], LABELS[i : i + BATCH][here]) for i in cuts]


def runs(folder, process=0, processes=1):
    """The losses of runs on 4 devices, from memory, from a file and from batches."""
    held = {"validation": FULL}
    mapped = np.load(folder / "rows.npy", mmap_mode="r")
    share = batches_of(process, processes)
    found = {
        "memory": fitted(sharding="full", **held),
        "file": fitted((mapped, LABELS), sharding="data", epochs=1),
        "batches": fitted(share, sharding="data", batch_size=None, steps=6, epochs=None),
    }
    return {
        name: (history.loss, history.validation.get("loss")) for name, (_, history) in found.items()
    }


def refused(process):
    """What is said of batches that are more in one process than in the other."""
    with pytest.raises(fnn.InputError) as raised:
        fitted(batches_of(process, 2)[: 2 + process], sharding="data", batch_size=None, epochs=1)
    return str(raised.value)


def interrupted(process):
    """A run of which one process is asked to stop, and what is said where it is to be one file."""

    def ask(event):
        if process and event.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with warnings.catch_warnings(record=True):
        asked = train.callbacks.every(ask, steps=1)
        state, history = fitted(sharding="full", callbacks=[asked], steps=8, epochs=None)
    with pytest.raises(fnn.InputError) as raised:
        fnn.save_train_state("nowhere.safetensors", state)
    return int(state.step), len(history.loss), history.stopped, str(raised.value)


def killed(folder, process, step):
    """A run that keeps a checkpoint of every third step, whose second process dies in a step."""

    def die(event):
        if process and event.kind == "step" and event.step == step:
            checkpoints.wait()
            os._exit(9)

    with train.ShardedCheckpoints(folder / "checkpoints") as checkpoints:
        every = train.callbacks.every
        callbacks = [every(checkpoints, steps=3), every(die, steps=1)]
        fitted(sharding="full", callbacks=callbacks)


def two(folder, process, port, step):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, process)
    found = runs(folder, process, 2) | {"refused": refused(process)}
    found["interrupted"] = interrupted(process)
    (folder / f"found {process}").write_bytes(pickle.dumps(found))
    killed(folder, process, step)


def one(folder):
    found = {"runs": runs(folder)}
    shapes = jax.eval_shape(
        lambda key: fnn.init_train_state(MODEL, optimizer(), ROWS[:1], key=key), jax.random.key(0)
    )
    with train.ShardedCheckpoints(folder / "checkpoints") as checkpoints:
        found["steps"] = checkpoints.steps
        for devices in (4, 2, 1):
            mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
            on = {"mesh": mesh, "sharding": "full"} if devices > 1 else {}
            start, data_state = checkpoints.load(shapes, **on)
            found[f"loaded {devices}"] = jax.tree.map(
                np.asarray, (start.params, start.opt_state[1])
            )
            left = EPOCHS - int(start.step) // 4
            _, history = fitted(start=start, key=None, data_state=data_state, epochs=left, **on)
            found[f"resumed {devices}"] = history.loss
        with pytest.raises(fnn.InputError) as raised:
            checkpoints.load(shapes._replace(params=()))
    found["refused"] = str(raised.value)
    (folder / "found").write_bytes(pickle.dumps(found))


def free_port():
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def started(call, devices):
    flags = in_haste(f"--xla_force_host_platform_device_count={devices}")
    script = f"import pathlib; from tests.train.test_processes import *; {call}"
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, env=os.environ | flags | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    np.save(folder / "rows.npy", ROWS)
    place, port = f"pathlib.Path({str(folder)!r})", free_port()
    first, second = (
        started(f"two({place}, {process}, {port}, {KILLED_AT})", 2) for process in (0, 1)
    )
    said, _ = second.communicate()
    # The other one waits for it.
    first.kill()
    said += first.communicate()[0]
    assert second.returncode == 9, said
    alone = started(f"one({place})", 4)
    said, _ = alone.communicate()
    assert not alone.returncode, said
    both = [pickle.loads((folder / f"found {i}").read_bytes()) for i in (0, 1)]
    return both, pickle.loads((folder / "found").read_bytes())


TOLERANCE = rounding("float32", BATCH * WIDTH * 10)


@pytest.mark.parametrize("name", ["memory", "file", "batches"])
def test_two_processes_have_the_curve_of_one(found, name):
    both, alone = found
    (losses, held), (other, _), (expected, held_alone) = (of[name] for of in (*both, alone["runs"]))
    np.testing.assert_array_equal(losses, other)
    np.testing.assert_allclose(losses, expected, rtol=TOLERANCE)
    if held is not None:
        np.testing.assert_allclose(held, held_alone, rtol=TOLERANCE)
    assert np.ptp(expected) > 100 * TOLERANCE


def test_batches_that_one_process_has_more_of_are_refused_in_both(found):
    for one in found[0]:
        assert "expected equal batches in all processes" in one["refused"]


def test_a_signal_to_one_process_stops_both_after_the_same_step(found):
    (step, losses, stopped), (other, also, because) = (one["interrupted"][:3] for one in found[0])
    assert step == other == losses == also < 8
    assert (stopped, because) == (
        "interrupted by a signal to another process", "interrupted by SIGTERM"
    )  # fmt: skip


def test_a_part_of_a_train_state_is_refused_as_one_file(found):
    for one in found[0]:
        assert re.search(r"the whole of params/0/\w+ in this process", one["interrupted"][3])


def test_of_a_killed_run_every_whole_checkpoint_is_there(found):
    # After every third step and every epoch, behind the callback that kills it.
    assert found[1]["steps"] == [step for step in (3, 4, 6) if step < KILLED_AT]


def test_a_checkpoint_is_read_to_the_same_bits_on_4_devices_on_2_and_on_1(found):
    loaded = [jax.tree.leaves(found[1][f"loaded {devices}"]) for devices in (4, 2, 1)]
    for leaves in zip(*loaded, strict=True):
        for other in leaves[1:]:
            np.testing.assert_array_equal(leaves[0], other)


@pytest.mark.parametrize("devices", [4, 2, 1])
def test_one_process_goes_on_with_the_run_of_two(found, devices):
    whole, resumed = found[1]["runs"]["memory"][0], found[1][f"resumed {devices}"]
    assert len(resumed) == len(whole) - found[1]["steps"][-1]
    np.testing.assert_allclose(resumed, whole[-len(resumed) :], rtol=TOLERANCE)


def test_a_checkpoint_of_another_model_is_refused_in_words(found):
    assert re.search(
        r"got float32 of shape \(\S+\) at params/\S+, where nothing", found[1]["refused"]
    )


def test_a_part_of_the_data_is_read_by_each_process():
    layout = layout_of(None, "data")
    assert layout.slots(BATCH).tolist() == list(range(BATCH))
