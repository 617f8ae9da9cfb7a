"""The command line, from its options to its files."""

import csv
import inspect
import json
import logging
import os
import subprocess
import sys
import warnings
from typing import get_args

import jax
import numpy as np
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

import fnn
from fnn.cli import data, networks, optimizers, run as one_run, settings as options
from fnn.cli.main import app
from fnn.datasets import Dataset
from tests.xla import in_haste

FILES = {"curves.png", "predictions.png", "metrics.csv", "model.safetensors", "run.json"}
TOY = ("--data", "xor", "--hidden", "4", "--epochs", "2", "--no-compare")
SMALL = options.Settings(hidden=(8,), epochs=2, batch_size=30, compare=False)


def command(*words):
    """Run the command line in this process, as ``python -m fnn`` would in its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return CliRunner().invoke(app, words, prog_name="python -m fnn")


def few():
    (x, y), (test_x, test_y) = fnn.datasets.digits()
    return data.of_dataset(Dataset((x[:100], y[:100]), (test_x[:40], test_y[:40])))


def points():
    return data.of_dataset(fnn.datasets.clouds(100, key=jax.random.key(0), std=0.3))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_prints_tables_and_writes_its_files(folder):
    run = command("--hidden", "8", "--epochs", "2", "--dropout", "0", "--noise", "none")
    assert run.exit_code == 0, run.output
    assert "manual equals auto" in run.stdout
    assert "test accuracy 0." in run.stdout
    assert " ms " not in run.stdout
    assert max(map(len, run.stdout.splitlines())) <= 80
    assert {file.name for file in (folder / "fnn-run").iterdir()} == {*FILES, "gradients.png"}
    rows = list(csv.DictReader((folder / "fnn-run/metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["training_loss"]) < float(rows[0]["training_loss"])
    for name in ("curves", "gradients", "predictions"):
        assert np.ptp(imread(folder / "fnn-run" / f"{name}.png")[..., :3]) == 1


def test_the_module_runs_as_a_program_and_its_exit_status_tells_of_divergence(tmp_path):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "fnn", *TOY, "--plain", "--learning-rate", "1e30"],
        cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"COLUMNS": "80"} | in_haste(),
    )  # fmt: skip
    assert run.returncode == 1
    assert "diverged" in run.stdout
    assert "test accuracy" not in run.stdout
    last = run.stderr.splitlines()[-1]
    assert last.startswith("Error: fnn.fit: the loss became")
    assert "lower the learning rate" in last
    record = json.loads((tmp_path / "fnn-run/run.json").read_text())
    assert "the loss became" in record["results"]["diverged"]


def test_the_help_fits_80_columns_and_names_every_setting_in_a_group():
    lines = command("--help").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for name in options.Settings._fields:
        assert f"--{name.replace('_', '-')}" in text
    groups = [line[:-1] for line in lines if line.endswith(":") and line[0] != " "]
    assert groups == [
        "Data", "Model", "Loss and gradient", "Optimizer", "Noise", "Training", "Results",
        "Options", "Commands",
    ]  # fmt: skip
    # What every name of a list stands for is the library's to say; that it is there is the help's.
    for names in (optimizers.OPTIMIZERS, optimizers.SCHEDULES, optimizers.NOISES):
        assert [name for name in (*names, *networks.INITIALIZERS) if name not in text] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--loss wrong", "'cross_entropy'"),
        ("--gradient wrong", "'manual'"),
        ("--hidden 12,x", "expected numbers such as 256,128, got '12,x'"),
        ("--hidden 0", "fnn.dense: expected width of 1 or more, got 0"),
        ("--dropout 1", "fnn.dropout: expected rate in [0, 1), got 1.0"),
        ("--model wrong", "'mlp'"),
        ("--model cnn --channels 0", "fnn.conv: expected channels of 1 or more, got 0"),
        ("--optimizer wrong", "python -m fnn: expected optimizer of 'sgd', 'momentum'"),
        ("--optimizer adam --noise sgld", "expected no optimizer beside sgld, got 'adam'"),
        ("--optimizer adam --momentum 0.5", "expected no momentum for adam, got 0.5"),
        ("--noise wrong", "python -m fnn: expected noise of 'none', 'gradient_noise'"),
        ("--noise-scale -1", "fnn.optim.gradient_noise: expected variance of 0 or more"),
        ("--noise dp_sgd --batch-norm", "fnn.dp_sgd: expected a model without running state"),
        ("--epochs -1", "python -m fnn: expected epochs of 0 or more, got -1"),
        ("--batch-size 0", "python -m fnn: expected a batch_size from 1"),
        ("--batch-size 4001", "python -m fnn: expected a batch_size from 1 to 4000"),
        ("--data fashion_mnist --data-folder nowhere", "no such file in nowhere"),
        ("--output taken/inside", "expected a folder to write to"),
        *(
            (f"--learning-rate {value}", "expected learning_rate of 0 or more")
            for value in ("nan", "-1", "inf", "1e300")
        ),
        ("--learning-rate fast", "expected numbers such as 0.1,0.2, 0.001:1:log4 or"),
        ("--learning-rate 0.1,", "or 0:1:lin5 for learning_rate, got ''"),
        ("--learning-rate 0.1,-1", "expected learning_rate of 0 or more, got -1.0"),
        ("--learning-rate 0.1,0.1", "expected different values of learning_rate, got 0.1 twice"),
        ("--batch-size 10,x", "expected numbers such as 1,10, or a range"),
        ("--optimizer ,", "expected names, with commas between them for optimizer"),
        ("--seed 0:200 --momentum 0:0.9:lin200", "expected 10,000 runs at most, got 40,000"),
        ("--seed 0,1 --costs", "expected costs of one run, got several"),
        ("--momentum nan", "expected momentum in [0, 1)"),
        ("--noise-scale nan", "expected variance of 0 or more"),
        ("--noise sgld --noise-scale -1", "expected noise_scale of 0 or more"),
        ("--noise none --noise-scale 1", "expected no noise_scale without a noise"),
        ("--plain --noise-scale 1", "expected no noise_scale without a noise"),
        ("--seed -1", "expected seed"),
        ("--seed 99999999999999", "expected seed"),
        ("--hidden 99999999999999999999", "expected numbers up to 2147483647"),
        ("--data-folder .", "expected no data_folder for digits"),
        ("--data wrong", "expected data of digits, fashion_mnist, spirals"),
        ("--data none.csv", "expected data in none.csv, got a file that cannot be read"),
        ("--data xor --model cnn", "expected images for cnn, got points of 2 numbers"),
        ("--data sine --loss hinge", "expected loss for values of 'squared_error'"),
        ("--channels 3", "expected no channels for mlp"),
        ("--initializer wrong", "expected initializer of 'he_normal'"),
        ("--schedule wrong", "expected schedule of 'constant'"),
        ("--optimizer lbfgs --schedule cosine", "expected no schedule for lbfgs"),
        ("--model rnn --activation tanh", "expected no activation for rnn"),
        ("--model rnn --batch-norm", "expected no batch_norm for rnn"),
        ("--batch-size 1", "got batches of 1; pass --no-batch-norm, or another --batch-size"),
        ("--batch-size 31", "got a last batch of 1, of 4000 in 31s"),
        ("--costs --no-compare", "expected one of costs and no_compare, got both"),
        ("compare-runs taken taken", "expected the run.json of a run, got taken/run.json"),
        ("compare-runs taken", "expected two runs or more, got 1"),
        ("--epochs 3 compare-runs a b", "expected no options before compare-runs, got epochs"),
    ],
)
def test_bad_options_say_what_to_do_and_write_nothing(words, message, folder):
    (folder / "taken").write_text("a file")
    run = command(*words.split())
    assert run.exit_code == 2
    assert message in " ".join(run.stderr.split())
    # What the parser refuses by itself it precedes by how the command is used.
    assert run.stderr.startswith("Usage:") or len(run.stderr.splitlines()) == 1
    assert {file.name for file in folder.iterdir()} == {"taken"}


def outcome(problem, **given):
    """Train on a problem: how it went."""
    job = one_run.prepare(problem, options.Settings(**given))
    return one_run.train(job, one_run.start(job), progress=False)[1]


@pytest.mark.parametrize("toy", data.TOYS)
def test_every_toy_is_learned_with_its_own_settings(toy):
    problem = data.problem(toy, None, 0)
    score, guess = outcome(problem).score, one_run.guessing(problem)
    # The noise of the curve itself is 0.08 in the mean.
    assert score < 0.12 < guess if toy == "sine" else guess < 0.6 < 0.93 < score


@pytest.mark.parametrize("loss", get_args(options.LossName))
def test_every_loss_trains_at_the_learning_rate_that_it_is_given(loss):
    history = outcome(
        points(), hidden=(8,), loss=loss, optimizer="momentum", epochs=5, batch_size=25
    ).history
    assert history.epoch_loss[-1] < history.epoch_loss[0]


@pytest.mark.parametrize("activation", get_args(networks.Activation))
def test_every_activation_builds(activation):
    problem = data.problem("xor", None, 0)
    made = options.complete(options.Settings(activation=activation), problem)
    assert f"{activation}()" in repr(one_run.build(made, problem.example, problem.outputs)[0])


@pytest.mark.parametrize("model", get_args(networks.Model))
def test_the_initializer_draws_every_weight_outside_of_a_recurrence(model):
    made = networks.network(model, (8, 8), 3, hidden=(6,), channels=(4,), initializer="zeros")
    spec = jax.ShapeDtypeStruct((1, 8, 8), "float32")
    params, _ = jax.jit(made.init, static_argnums=1)(jax.random.key(0), spec)
    weights = {
        jax.tree_util.keystr(path): bool(np.asarray(leaf).any())
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if "weight" in jax.tree_util.keystr(path)
    }
    assert len(weights) >= 2
    assert {name for name, drawn in weights.items() if drawn} == {
        name for name in weights if "recurrent" in name
    }


def test_every_initializer_by_name_is_one():
    for name, initializer in networks.INITIALIZERS.items():
        made = initializer(jax.random.key(0), (5, 4), "float32")
        assert made.shape == (5, 4)
        assert bool((made == 0).all()) == (name == "zeros")


def test_every_schedule_starts_at_most_at_the_learning_rate_and_stays_at_or_below_it():
    for name, make in optimizers.SCHEDULES.items():
        for steps in (1, 2, 50):
            schedule = make(0.5, steps)
            values = [float(schedule(t)) if callable(schedule) else schedule for t in range(steps)]
            assert max(values) <= 0.5 * (1 + 1e-6), name
            assert min(values) > 0 or name == "one_cycle", name


def test_plain_is_descent_alone_and_what_is_asked_for_stays():
    made = options.complete(options.Settings(plain=True), few())
    assert (made.optimizer, made.schedule, made.momentum, made.noise) == (
        "sgd", "constant", None, "none",
    )  # fmt: skip
    assert (made.batch_norm, made.dropout) == (False, 0.0)
    asked = options.complete(options.Settings(plain=True, dropout=0.5, schedule="cosine"), few())
    assert (asked.dropout, asked.schedule, asked.noise) == (0.5, "cosine", "none")


@pytest.mark.parametrize("model", get_args(networks.Model))
@pytest.mark.parametrize("noise", [None, "sgld"])
def test_complete_settings_are_complete_and_survive_their_file(model, noise):
    made = options.complete(options.Settings(model=model, noise=noise), few())
    assert options.complete(made, few()) == made
    assert options.from_plain(json.loads(json.dumps(options.to_plain(made)))) == made


def test_settings_of_another_version_are_refused():
    plain = options.to_plain(options.Settings())
    with pytest.raises(fnn.InputError, match="settings of a run of this version, got speed"):
        options.from_plain(plain | {"speed": 1})


def test_the_saved_weights_are_the_trained_model(tmp_path, capsys):
    problem, settings = points(), SMALL._replace(output=tmp_path, batch_norm=True)
    result = one_run.run(problem, settings)
    complete = options.complete(settings, problem)
    model, _ = one_run.build(complete, problem.example, problem.outputs)
    x, labels = problem.test
    like = jax.eval_shape(model.init, jax.random.key(0), x)
    params, state = fnn.load_weights(tmp_path / "model.safetensors", like)
    guesses = np.asarray(fnn.predict(model, params, state, x)).argmax(-1)
    right = float((guesses == labels).mean())
    assert abs(result.score - right) < 1e-6
    assert f"test accuracy {right:.4f}" in capsys.readouterr().out
    assert json.loads((tmp_path / "run.json").read_text())["results"]["accuracy"] == result.score


def test_probabilities_are_shown_only_where_outputs_mean_some():
    scores = np.array([[2.0, -1.0, 0.5]], np.float32)
    for loss in get_args(options.LossName):
        shares = one_run.pictures.probabilities(loss, scores)
        if loss in ("cross_entropy", "nll", "binary_cross_entropy", "logistic"):
            assert ((shares >= 0) & (shares <= 1)).all()
        else:
            assert shares is None
    model = fnn.serial(fnn.flatten(), fnn.dense(10))
    params, state = model.init(jax.random.key(0), few().test[0])
    texts = [
        [axes.get_title() for axes in figure.axes] + [figure.get_suptitle()]
        for figure in (
            one_run.pictures.predictions(few(), model, params, state, loss)
            for loss in ("cross_entropy", "hinge")
        )
    ]
    assert any("%" in text for text in texts[0])
    assert "probability" in texts[0][-1]
    assert not any("%" in text or "probability" in text for text in texts[1])


FULL = OSError(28, "No space left on device")


def fail(*_):
    raise FULL


@pytest.mark.parametrize("lost", ["pictures", "metrics", "weights"])
def test_what_cannot_be_written_loses_nothing_else(tmp_path, capsys, monkeypatch, lost):
    name = {"pictures": "plot.save", "metrics": "_write_metrics", "weights": "save_weights"}[lost]
    where = one_run.plot if lost == "pictures" else one_run
    monkeypatch.setattr(where, name.removeprefix("plot."), fail)
    toy = options.Settings("xor", hidden=(4,), epochs=2, compare=False, output=tmp_path)
    with pytest.raises(one_run.NotWrittenError, match="No space left on device"):
        one_run.run(data.problem("xor", None, 0), toy)
    missing = {
        "pictures": {name for name in FILES if name.endswith("png")},
        "metrics": {"metrics.csv"},
        "weights": {"model.safetensors"},
    }[lost]
    # What the run can be gone on from stays too, if it ran for long enough to leave some.
    assert {file.name for file in tmp_path.iterdir()} - {"checkpoints"} == FILES - missing
    assert "test accuracy" in capsys.readouterr().out


def test_a_folder_in_the_place_of_a_file_is_refused_before_training(tmp_path, monkeypatch):
    (tmp_path / "curves.png").mkdir()
    monkeypatch.setattr(one_run, "fit", fail)
    with pytest.raises(fnn.InputError, match="a file to write to"):
        one_run.run(few(), SMALL._replace(output=tmp_path))


def test_several_values_are_the_sweep_of_them_and_a_later_one_takes_its_folder(folder):
    rates = ("--learning-rate", "0.1,1e30", "--momentum", "0.5,0.9")
    assert command(*TOY, "--seed", "0,1", "--plain").exit_code == 0
    run = command(*TOY, "--optimizer", "momentum", *rates)
    assert run.exit_code == 0, run.output
    assert max(map(len, run.stdout.splitlines())) <= 80
    words = ("data=xor", "hidden=4", "epochs=2", "optimizer=momentum")
    swept = command("sweep", *words, "learning_rate=0.1,1e30", "momentum=0.5,0.9")
    assert swept.exit_code == 0, swept.output
    tables = [(folder / name / "runs.csv").read_bytes() for name in ("fnn-run", "fnn-sweep")]
    assert tables[0] == tables[1]
    rows = list(csv.DictReader(tables[0].decode().splitlines()))
    assert [(row["learning_rate"], row["momentum"], row["stopped"] != "") for row in rows] == [
        ("0.1", "0.5", False), ("0.1", "0.9", False),
        ("1e+30", "0.5", True), ("1e+30", "0.9", True),
    ]  # fmt: skip
    assert np.ptp(imread(folder / "fnn-run/curves.png")[..., :3]) == 1


def test_the_picture_of_several_runs_has_a_line_for_a_setting_and_one_for_guessing():
    fine = fnn.History(np.ones(2), np.ones(2), {"accuracy": np.array([0.5, 0.9])}, 0.0, 0.0)
    # It diverged in its first epoch, and was never validated.
    lost = fine._replace(loss=np.array([1.0, np.nan]), validation={})
    other = fine._replace(validation={"accuracy": np.array([0.7, 0.7])})
    labels = ["rate 0.1", "rate 0.1", "rate 10"]
    figure = one_run.pictures.runs(labels, [fine, other, lost], "accuracy", 0.25)
    lines = [list(map(float, line.get_ydata())) for line in figure.axes[1].lines]
    assert any(np.allclose(line, [0.6, 0.8]) for line in lines if len(line) == 2)
    assert [0.25, 0.25] in lines


def test_runs_that_differ_are_told_apart_by_what_differs_alone(folder):
    assert command(*TOY, "--seed", "1", "--output", "a").exit_code == 0
    assert command(*TOY, "--seed", "2", "--dropout", "0.25", "--output", "b").exit_code == 0
    run = command("compare-runs", "a", "b")
    settings, results = run.stdout.split("\n\n")
    assert [line.split()[0] for line in settings.splitlines()] == ["setting", "dropout", "seed"]
    assert "0.25" in settings
    assert {"accuracy", "loss", "steps"} <= {line.split()[0] for line in results.splitlines()[1:]}
    (folder / "b/run.json").write_text("{}")
    assert command("compare-runs", "a", "b").exit_code == 2


def test_runs_that_differ_by_numbers_alone_share_one_program(caplog):
    problem = data.problem("xor", None, 0)
    found = []
    for rate, seed in ((0.1, 0), (0.01, 1), (0.001, 2)):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            outcome(problem, data="xor", hidden=(5,), epochs=1, learning_rate=rate, seed=seed)
        words = [line for line in caplog.messages if line.startswith("Finished XLA compilation")]
        found.append(len(words))
    assert found[0] > 2
    # The weights are drawn by a program of their own.
    assert max(found[1:]) <= 1


def learns(optimizer, noise, problem, **given):
    """Train on a few examples with an optimizer and a noise by name: the loss falls."""
    history = outcome(problem, optimizer=optimizer, noise=noise, dropout=0.0, **given).history
    return history.epoch_loss[-1] < 0.95 * history.epoch_loss[0]


@pytest.mark.parametrize("optimizer", optimizers.OPTIMIZERS)
def test_every_optimizer_by_name_learns(optimizer):
    size = 100 if optimizer == "lbfgs" else 25
    # The first steps of lars are large, from biases of 0, whose norm gives no measure.
    epochs = 24 if optimizer == "lars" else 8
    assert learns(optimizer, "none", points(), hidden=(8,), batch_size=size, epochs=epochs)


@pytest.mark.parametrize("noise", optimizers.NOISES)
def test_every_noise_by_name_learns(noise):
    assert learns(None, noise, points(), hidden=(8,), batch_size=25, epochs=8)


@pytest.mark.parametrize("model", get_args(networks.Model))
def test_every_network_by_name_learns(model):
    channels = (2, 4) if model == "cnn" else None
    assert learns("adam", "none", few(), model=model, channels=channels, hidden=(8,), batch_size=25,
                  epochs=8)  # fmt: skip


def test_label_noise_of_numbers_has_a_standard_deviation():
    chosen = optimizers.descent("sgd", "label_noise", "squared_error", noise_scale=0.2)
    _, gradient = optimizers.training(chosen, "manual", steps=1, examples=1, labels=False, seed=0)
    assert repr(gradient) == "label_noise(std=0.2, gradient='manual')"


def test_every_optimizer_and_noise_of_the_library_has_a_name():
    for name in fnn.optim.__all__:
        value = getattr(fnn.optim, name)
        if hasattr(value, "__wrapped__"):
            parameters = inspect.signature(value).parameters
            if {"learning_rate", "time_step", "key"} & set(parameters):
                assert name in {*optimizers.OPTIMIZERS, *optimizers.NOISES}
