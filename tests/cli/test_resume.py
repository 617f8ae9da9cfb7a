"""A run of the command line that is interrupted is gone on with, and ends to the same bits."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

import fnn
from fnn.cli import checkpoints, resume as resumed, run as single
from fnn.cli.checkpoints import FOLDER, Past, from_plain, to_plain
from fnn.cli.data import problem
from fnn.cli.settings import Settings
from fnn.train import latest_checkpoint
from fnn.train.files import _safetensors
from fnn.train.loop._record import History

SETTINGS = Settings("xor", hidden=(4,), epochs=4, batch_size=150, compare=False, dropout=0.1)
EXACT = {"model.safetensors", "metrics.csv", "curves.png", "predictions.png"}


def run(folder):
    return single.run(problem("xor", None, 0), SETTINGS._replace(output=folder))


def names(folder):
    return {file.name for file in folder.iterdir()}


class PowerCut(BaseException):
    """What no part of a run catches."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """A folder in which a run was cut short after two of four epochs."""

    def fit(*args, **options):
        single_fit(*args, **options | {"epochs": 2})
        raise PowerCut

    single_fit = single.fit
    monkeypatch.setattr(single, "fit", fit)
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    with pytest.raises(PowerCut):
        run(tmp_path)
    monkeypatch.undo()
    return tmp_path


def test_a_run_that_was_interrupted_ends_to_the_same_bits(interrupted, whole, capsys):
    folder, expected = whole
    assert FOLDER in names(interrupted)
    outcome = resumed.resume(interrupted)
    assert "goes on after epoch 2" in capsys.readouterr().out
    assert outcome.score == expected.score
    for name in ("loss", "epoch_loss"):
        one, other = getattr(outcome.history, name), getattr(expected.history, name)
        assert (one.dtype, one.tobytes()) == (other.dtype, other.tobytes())
    assert names(interrupted) == names(folder) >= EXACT
    folders = interrupted, folder
    one, other = (_safetensors.read(place / "model.safetensors").arrays for place in folders)
    assert {n: a.tobytes() for n, a in one.items()} == {n: a.tobytes() for n, a in other.items()}
    one, other = ((place / "metrics.csv").read_text() for place in folders)
    assert one == other


def test_a_new_run_does_not_take_the_place_of_an_interrupted_one(interrupted):
    before = {file: file.read_bytes() for file in interrupted.rglob("*") if file.is_file()}
    with pytest.raises(
        fnn.InputError, match=rf"go on with it by python -m fnn resume {interrupted}"
    ):
        run(interrupted)
    assert {file: file.read_bytes() for file in before} == before


def test_a_run_that_is_done_is_not_gone_on_with(whole):
    with pytest.raises(fnn.InputError, match="the folder of an interrupted run"):
        resumed.resume(whole[0])


def test_a_run_whose_data_was_changed_since_is_not_gone_on_with(interrupted):
    file = interrupted / "run.json"
    record = json.loads(file.read_text())
    record["data"]["sha256"] = "that of other bytes"
    file.write_text(json.dumps(record))
    with pytest.raises(fnn.InputError, match="the xor that the run began with, got another"):
        resumed.resume(interrupted)


def test_a_run_that_has_not_ended_is_not_loaded(interrupted):
    with pytest.raises(fnn.InputError, match=f"python -m fnn resume {interrupted}"):
        fnn.load_run(interrupted)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(fnn.InputError, match=r"the run.json of a run"):
        resumed.resume(tmp_path)


def test_a_run_that_fails_before_its_first_epoch_leaves_no_checkpoints(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise PowerCut

    monkeypatch.setattr(single, "fit", fail)
    with pytest.raises(PowerCut):
        run(tmp_path)
    checkpoints.refuse_interrupted(tmp_path)


def test_the_past_of_a_run_is_joined_to_what_came_after():
    sizes, loss = np.array([3, 1]), np.array([1, 2, 3, 4], "float32")
    past = Past().then(loss[:2], {"loss": 0.5}).then(loss[2:], {"loss": np.nan})
    again = from_plain(to_plain(past))
    assert (again.epochs, again.loss.tolist()) == (2, [1, 2, 3, 4])
    after = History(loss[:2] + 4, np.array([5.25]), {"loss": np.array([0.25])}, 0.0, 0.0)
    joined = again.joined(after, sizes)
    assert joined.loss.tolist() == [1, 2, 3, 4, 5, 6]
    assert joined.epoch_loss.tolist() == [1.25, 3.25, 5.25]
    np.testing.assert_array_equal(joined.validation["loss"], [0.5, np.nan, 0.25])


def test_the_command_goes_on_after_an_interruption(tmp_path):
    options = ["--data", "xor", "--epochs", "4000", "--no-compare", "--batch-size", "400"]
    command = [sys.executable, "-m", "fnn"]
    child = subprocess.Popen([*command, *options], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while latest_checkpoint(tmp_path / "fnn-run" / FOLDER) is None:
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    _, said = child.communicate()
    assert child.returncode == 1
    assert "go on with python -m fnn resume fnn-run" in said
    assert "Traceback" not in said
