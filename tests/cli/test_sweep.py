"""The command that sweeps: ranges of settings, a table, pictures, and going on after a kill."""

from __future__ import annotations

import csv
import importlib
import re

import numpy as np
import pytest
from matplotlib.image import imread

import fnn
from fnn.cli import run as one_run, settings as options
from fnn.cli.data import problem
from fnn.cli.ranges import NAMES, read_settings
from fnn.cli.sweep import _print_table
from fnn.train import Sweep
from tests.cli.test_run import command

sweep = importlib.import_module("fnn.train.sweep.sweep")
SMALL = ("data=xor", "hidden=4", "epochs=2")
RANGE = (*SMALL, "learning_rate=0.01:1:log3", "seed=0:2", "optimizer=momentum,adam")
PICTURES = ("curves.png", "parallel_coordinates.png", "heat_map.png")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return command("sweep", *RANGE, "--output", str(folder)), folder


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(folder):
    with (folder / "runs.csv").open(newline="") as text:
        return list(csv.DictReader(text))


def test_it_prints_means_the_best_first_and_writes_a_table_of_all_runs_and_pictures(whole):
    run, folder = whole
    assert run.exit_code == 0, run.output
    lines = run.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    start = next(i for i, line in enumerate(lines) if line.startswith("learning_rate"))
    table = [line.split() for line in lines[start + 1 : start + 7]]
    assert {(row[0], row[1]) for row in table} == {
        (rate, name) for rate in ("0.01", "0.1", "1") for name in ("momentum", "adam")
    }
    reached = [float(row[2]) for row in table]
    assert reached == sorted(reached, reverse=True)
    rows = rows_of(folder)
    assert len(rows) == 12
    for rate, name, mean, *_ in table:
        found = [float(row["validation accuracy"]) for row in rows
                 if (row["learning_rate"], row["optimizer"]) == (rate, name)]  # fmt: skip
        assert float(mean) == pytest.approx(np.mean(found), abs=1e-4)
    for name in PICTURES:
        assert np.ptp(imread(folder / name)[..., :3]) > 0.9


def test_a_run_of_it_is_the_run_of_the_command_alone(whole):
    row = next(
        row for row in rows_of(whole[1]) if row["seed"] == "1" and row["optimizer"] == "adam"
    )
    settings = options.Settings(
        "xor", hidden=(4,), epochs=2, compare=False, seed=1, optimizer="adam",
        learning_rate=float(row["learning_rate"]),
    )  # fmt: skip
    job = one_run.prepare(problem("xor", None, 1), settings)
    _, outcome = one_run.train(job, one_run.start(job), progress=False)
    assert float(row["loss"]) == pytest.approx(outcome.history.epoch_loss[-1], rel=1e-5)
    assert float(row["validation accuracy"]) == pytest.approx(outcome.score, abs=1e-6)


class PowerCut(BaseException):
    """It ends a process, and nothing is called."""


def test_the_same_command_goes_on_after_a_kill_to_the_same_bits(whole, folder, monkeypatch):
    real, trained = sweep._train, []

    def some(plan, chunk, begin, end):
        if len(trained) == 1:
            raise PowerCut
        trained.append(real(plan, chunk, begin, end))

    monkeypatch.setattr(sweep, "_train", some)
    with pytest.raises(PowerCut):
        command("sweep", *RANGE)
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert not (folder / "fnn-sweep/runs.csv").exists()
    assert command("sweep", *RANGE).exit_code == 0
    read = [(place / "runs.csv").read_bytes() for place in (folder / "fnn-sweep", whole[1])]
    assert read[0] == read[1]


def test_an_interruption_is_told_and_not_traced(folder, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "_train", interrupt)
    run = command("sweep", *RANGE)
    assert run.exit_code == 1
    assert "Error: interrupted; the same command goes on with it" in run.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*RANGE[:-1], "optimizer=sgd,adam"), "optimizer=momentum,adam, as the sweep in"),
        ((*RANGE, "dropout=0,0.1"), "dropout=(nothing), as the sweep in"),
        ((*RANGE[1:], "hidden=4", "data=spirals"), "data=xor, as the sweep in"),
        ((*RANGE, "--halving", "1"), "halving=(nothing), as"),
        ((*RANGE, "--members", "2"), "fnn.sweep: expected members 64, as the sweep in"),
    ],
)
def test_another_sweep_in_the_folder_is_refused_with_what_differs_first(whole, words, message):
    run = command("sweep", *dict.fromkeys(words), "--output", str(whole[1]))
    assert run.exit_code == 2
    assert message in run.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("rate=0.1", "expected SETTING=VALUES with a setting of data,"),
        ("learning_rate", "write it as learning_rate=0.1 or 0.1,0.2"),
        ("compare=no", "expected SETTING=VALUES"),
        ("learning_rate=", "for learning_rate, got ''"),
        ("learning_rate=0.1,", "numbers such as 0.1,0.2"),
        ("learning_rate=0.1:1", "0.001:1:log4"),
        ("learning_rate=1:0.1:log3", "two numbers that grow"),
        ("learning_rate=0:1:log3", "two numbers that grow"),
        ("learning_rate=0.1:1:log1", "two numbers that grow"),
        ("learning_rate=0.1:1:geo3", "two numbers that grow"),
        ("learning_rate=0.1:nan:lin3", "two numbers that grow"),
        ("learning_rate=0.1:1:log99999999999", "two numbers that grow"),
        ("learning_rate=0.1,0.1", "expected different values of learning_rate, got 0.1 twice"),
        ("learning_rate=-1", "expected learning_rate of 0 or more"),
        ("seed=0:0", "a range such as 0:8"),
        ("seed=0:99999999", "a range such as 0:8"),
        ("seed=0:2:log3", "numbers such as 1,10, or a range"),
        ("seed=-1", "expected seed"),
        ("seed=0.5", "numbers such as 1,10"),
        ("seed=0:200 learning_rate=0:1:lin200", "expected 10,000 runs at most, got 40,000"),
        ("seed=1 seed=2", "expected seed once, got twice"),
        ("batch_size=0", "expected a batch_size from 1"),
        ("epochs=1,2", "expected one value of epochs, got '1,2'"),
        ("epochs=0", "expected epochs of 1 or more, got 0"),
        ("batch_norm=maybe", "expected yes or no for batch_norm"),
        ("hidden=8,x", "widths such as 64,32"),
        ("hidden=8/", ""),
        ("optimizer=,", "names, with commas"),
        ("optimizer=wrong", "expected optimizer of 'sgd'"),
        ("data=nothing", "expected data of digits"),
        ("--halving 3,1 epochs=4", "expected growing epochs below the last"),
        ("--halving x", "expected numbers such as 256,128"),
        ("--members 0", "expected members of 1 or more"),
        ("--output taken/inside", "expected a folder to write to"),
    ],
)
def test_bad_settings_say_what_to_do_and_train_nothing(words, message, folder, monkeypatch):
    def train(*_):
        raise AssertionError("trained")

    monkeypatch.setattr(sweep, "_train", train)
    (folder / "taken").write_text("a file")
    given = ["data=xor", *words.split()] if "data=" not in words else words.split()
    if not message:
        assert read_settings(words.split())["hidden"] == [(8,), ()]
        return
    run = command("sweep", *given)
    assert run.exit_code == 2, run.output
    assert message in " ".join(run.stderr.split())
    assert len(run.stderr.splitlines()) == 1
    assert not list(folder.rglob("epoch-*"))


def test_a_sweep_of_which_every_run_diverges_has_failed(folder):
    run = command("sweep", *SMALL, "plain=yes", "learning_rate=1e30,1e31")
    assert run.exit_code == 1
    assert "every run diverged" in run.stderr
    assert [row["stopped"] != "" for row in rows_of(folder / "fnn-sweep")] == [True, True]


def test_what_shares_no_data_or_estimator_is_swept_in_parts(folder):
    # The points are drawn with the seed, and the noise of labels is a gradient of its own.
    run = command("sweep", *SMALL, "noise=none,label_noise", "seed=3,4", "batch_size=100,200")
    assert run.exit_code == 0, run.output
    assert len(list((folder / "fnn-sweep/parts").iterdir())) == 8
    assert len({row["validation loss"] for row in rows_of(folder / "fnn-sweep")}) == 8


def test_a_table_that_is_too_wide_has_its_settings_in_one_column(capsys):
    names = ["learning_rate", "noise_scale", "batch_size", "initializer", "activation"]
    points = [dict.fromkeys(names, "something") | {"batch_size": i} for i in range(40)]
    runs = [fnn.History(np.ones(1), np.ones(1), {"accuracy": np.array([i])}, 0.0, 0.0)
            for i in range(40)]  # fmt: skip
    _print_table(Sweep(points, runs, [], 1), "validation accuracy", largest=True)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split()[-4:] == ["39.0000", "-", "1", "0"]
    assert lines[-1] == "the 30 best of 40; all are in runs.csv"


def test_the_help_fits_80_columns_and_shows_every_form():
    lines = command("sweep", "--help").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    # A line each: as a paragraph they cannot be read.
    forms = [line.strip().split()[0] for line in lines if line.startswith("    ") and "=" in line]
    assert forms == [
        "learning_rate=0.1,0.2", "learning_rate=0.001:10:log5", "momentum=0:0.9:lin4", "seed=0:8",
        "optimizer=sgd,adam", "hidden=64,32/128", "batch_norm=yes,no",
    ]  # fmt: skip


@pytest.mark.parametrize("words", [(), ("sweep",), ("resume",), ("compare-runs",)], ids=str)
def test_a_help_cuts_nothing_off_and_shows_no_mark_of_its_own_layout(words):
    assert re.findall(r"\w\.\.\.$|\\|\x08|\.{4,}", command(*words, "--help").stdout, re.M) == []


def test_every_setting_of_the_command_can_be_given():
    words = {"hidden": "8", "channels": "4", "seed": "0", "epochs": "1", "batch_size": "1"}
    words |= {"batch_norm": "yes", "plain": "no"}
    numbers = ("dropout", "learning_rate", "momentum", "noise_scale")
    given = [f"{n}={words.get(n, '0.5' if n in numbers else 'name')}" for n in NAMES]
    assert set(read_settings(given)) == set(NAMES)
    rest = {"processes", "compare", "costs", "output"}
    assert set(options.Settings._fields) - set(NAMES) == rest


ALONE = ("--data", "xor", "--hidden", "4", "--epochs", "2", "--no-compare", "--output", "here")
SEVERAL = (*ALONE, "--learning-rate", "0.1,0.2")


def names(folder):
    return {file.name for file in folder.iterdir()}


def test_of_a_sweep_and_a_run_in_one_folder_the_later_one_is_there_and_nothing_else(folder):
    found = []
    for words in (SEVERAL, ALONE, SEVERAL):
        run = command(*words)
        assert run.exit_code == 0, run.output
        found.append(names(folder / "here"))
    assert found == [
        {"sweep.json", "runs.csv", "parts", "curves.png", "parallel_coordinates.png"},
        {"run.json", "metrics.csv", "model.safetensors", "curves.png", "predictions.png"},
        found[0],
    ]


def test_a_file_of_ones_own_stays_where_results_give_way(folder):
    assert command(*ALONE).exit_code == 0
    (folder / "here/notes.txt").write_text("mine")
    (folder / "here/runs.csv").write_text("of no sweep")
    assert command(*ALONE).exit_code == 0
    assert names(folder / "here") >= {"run.json", "notes.txt", "runs.csv"}


@pytest.fixture
def cut_short(folder, monkeypatch):
    """The files of a sweep that was interrupted."""
    real = sweep._train

    def interrupt(plan, chunk, begin, end):
        real(plan, chunk, begin, end)
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "_train", interrupt)
    assert command(*SEVERAL).exit_code == 1
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    # What a kill leaves: of an interruption nothing of the epoch under way.
    (next((folder / "here/parts").iterdir()) / "epoch-000001-part-000000.safetensors").touch()
    return {file: file.read_bytes() for file in (folder / "here").rglob("*") if file.is_file()}


@pytest.mark.parametrize("words", [ALONE, (*SEVERAL, "--seed", "1")], ids=["a run", "a sweep"])
def test_an_interrupted_sweep_gives_way_to_nothing_else(cut_short, words):
    run = command(*words)
    assert run.exit_code == 2
    assert "expected a folder without an interrupted sweep, got here; go on with it" in run.stderr
    assert {file: file.read_bytes() for file in cut_short} == cut_short


def test_a_sweep_is_not_resumed_and_a_folder_of_a_run_is_not_swept_into(cut_short, folder):
    run = command("resume", "here")
    assert run.exit_code == 2
    assert "here, that of a sweep; a sweep goes on by the command that began it" in run.stderr
    (folder / "there").mkdir()
    (folder / "there/run.json").write_text("{}")
    run = command("sweep", *SMALL, "--output", "there")
    assert run.exit_code == 2
    assert "expected the folder of a sweep, got there, that of a run" in run.stderr
    assert names(folder / "there") == {"run.json"}
