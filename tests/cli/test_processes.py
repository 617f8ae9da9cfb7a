"""Several processes of one command: one run, one voice, one exit status, and nobody left behind."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from fnn.cli import run as one_run
from fnn.cli.checkpoints import FOLDER
from fnn.cli.data import problem
from fnn.cli.settings import Settings
from fnn.train import latest_checkpoint
from fnn.train.files import _safetensors
from tests.cli.test_run import command
from tests.tolerance import rounding
from tests.xla import in_haste

TOY = ("--data", "xor", "--hidden", "4", "--no-compare", "--batch-size", "50")
FEW = ("--epochs", "2", "--dropout", "0.2", "--noise", "gradient_noise")
STEPS, WIDTH = 16, 50


def started(folder, *words):
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "fnn", *words], cwd=folder, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=os.environ | in_haste(),
    )  # fmt: skip


def children(process):
    """The processes that a process started."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(one) for one in found]


def until(is_so, *running):
    while not is_so():
        assert all(one.poll() is None for one in running)
        time.sleep(0.02)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A run of two processes and what it said, and the folder of the same run of one."""
    folder = tmp_path_factory.mktemp("processes")
    shared = started(folder, *TOY, *FEW, "--processes", "2", "--output", "two")
    alone = command(*TOY, *FEW, "--output", str(folder / "one"))
    said, errors = shared.communicate()
    assert alone.exit_code == 0, alone.output
    assert shared.returncode == 0, errors
    return folder, said, alone.stdout


def test_two_processes_end_as_one_does_to_rounding(both):
    arrays = [
        _safetensors.read(both[0] / name / "model.safetensors").arrays for name in ("two", "one")
    ]
    assert arrays[0].keys() == arrays[1].keys()
    for name, array in arrays[0].items():
        tolerance = rounding("float32", STEPS * WIDTH)
        np.testing.assert_allclose(array, arrays[1][name], rtol=tolerance, atol=tolerance)
    texts = [(both[0] / name / "metrics.csv").read_text() for name in ("two", "one")]
    rows = [list(csv.DictReader(text.splitlines())) for text in texts]
    for row, other in zip(*rows, strict=True):
        assert float(row["training_loss"]) == pytest.approx(float(other["training_loss"]), rel=1e-5)


def test_one_of_them_writes_the_files_and_the_lines_of_one(both):
    folder, said, alone = both
    assert {file.name for file in (folder / "two").iterdir()} == {
        file.name for file in (folder / "one").iterdir()
    }
    # What comes behind is how long it took, and the name of the folder.
    assert said.partition("training: ")[0] == alone.partition("training: ")[0]
    assert said.count("written to ") == 1
    assert json.loads((folder / "two/run.json").read_text())["settings"]["processes"] == 2


def test_of_several_processes_each_has_its_part_of_a_batch(monkeypatch):
    given = {}

    def fit(*_, **options):
        given.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(one_run, "fit", fit)
    job = one_run.assemble(problem("xor", None, 0), Settings("xor", hidden=(4,)))
    for count, expected in ((1, None), (2, "data")):
        monkeypatch.setattr(jax, "process_count", lambda count=count: count)
        with pytest.raises(KeyboardInterrupt):
            one_run.train(job, None, progress=False)
        assert given["sharding"] == expected


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A folder in which two processes were interrupted, and what the command said of it."""
    folder = tmp_path_factory.mktemp("interrupted")
    shared = started(folder, *TOY, "--epochs", "4000", "--processes", "2")
    until(lambda: latest_checkpoint(folder / "fnn-run" / FOLDER) is not None, shared)
    left = children(shared)
    # To the command alone: the terminal would send it to all that it sees, which is the same.
    shared.send_signal(signal.SIGINT)
    _, said = shared.communicate()
    return folder, shared.returncode, said, left


def running(numbers):
    return [number for number in numbers if Path(f"/proc/{number}").exists()]


def test_an_interruption_ends_all_of_them_and_is_told_once(interrupted):
    _, status, said, left = interrupted
    assert status == 1
    assert len(left) == 2
    assert running(left) == []
    assert said.count("go on with python -m fnn resume fnn-run") == 1
    assert "Traceback" not in said


def test_resume_goes_on_with_as_many_and_where_one_is_killed_the_others_end(interrupted):
    shared = started(interrupted[0], "resume", "fnn-run")
    for line in shared.stdout:
        if line.startswith("goes on after epoch"):
            break
    left = children(shared)
    os.kill(left[1], signal.SIGKILL)
    _, said = shared.communicate()
    assert shared.returncode == 1
    assert len(left) == 2
    assert running(left) == []
    last = said.splitlines()[-1]
    assert last.startswith("Error: process 1 of 2 was ended by SIGKILL, and so were the others")
    assert last.endswith("go on with python -m fnn resume fnn-run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--processes 0", "expected processes of 1 or more, got 0"),
        ("--processes 65", "expected processes from 1 to 64, got 65"),
        ("--processes 2 --seed 0,1", "expected one run for several processes, got several"),
        ("--processes 2 --costs", "expected costs of one process, got 2"),
    ],
)
def test_what_several_processes_cannot_share_is_refused_in_one_line(
    words, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run = command(*words.split())
    assert run.exit_code == 2
    assert message in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
