"""The main job, from the command line to its files."""

import csv
import inspect
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from matplotlib.image import imread

import fnn
from fnn.cli import networks, optimizers as recipes, run as main_job
from fnn.datasets import Dataset

FILES = {"curves.png", "gradients.png", "predictions.png", "metrics.csv", "model.safetensors"}
SMALL = main_job.Settings(hidden=(8,), epochs=2, batch_size=30)


def command(folder, *options):
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "fnn", *options],
        cwd=folder, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"},
    )  # fmt: skip


def few():
    (x, y), (test_x, test_y) = fnn.datasets.digits()
    return Dataset((x[:100], y[:100]), (test_x[:40], test_y[:40]))


def test_the_command_prints_tables_and_writes_its_files(tmp_path):
    run = command(tmp_path, "--hidden", "16,8", "--epochs", "2")
    assert run.returncode == 0, run.stderr
    assert "manual equals auto" in run.stdout
    assert "test accuracy 0." in run.stdout
    assert max(map(len, run.stdout.splitlines())) <= 80
    folder = tmp_path / "fnn-run"
    assert {file.name for file in folder.iterdir()} == FILES
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["training_loss"]) < float(rows[0]["training_loss"])
    for name in FILES:
        if name.endswith("png"):
            assert np.ptp(imread(folder / name)[..., :3]) == 1


def test_the_help_fits_80_columns_and_names_every_setting(tmp_path):
    run = command(tmp_path, "--help")
    assert max(map(len, run.stdout.splitlines())) <= 80
    for name in main_job.Settings._fields:
        assert f"--{name.replace('_', '-')}" in run.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--loss", "wrong"], "'cross_entropy'"),
        (["--gradient", "wrong"], "'manual'"),
        (["--hidden", "12,x"], "expected numbers such as 256,128, got '12,x'"),
        (["--hidden", "0"], "fnn.dense: expected width of 1 or more, got 0"),
        (["--dropout", "1"], "fnn.dropout: expected rate in [0, 1), got 1.0"),
        (["--model", "wrong"], "'mlp'"),
        (["--model", "cnn", "--channels", "0"], "fnn.conv: expected channels of 1 or more, got 0"),
        (["--optimizer", "wrong"], "python -m fnn: expected optimizer of 'sgd', 'momentum'"),
        (
            ["--optimizer", "adam", "--noise", "sgld"],
            "expected no optimizer beside sgld, got 'adam'",
        ),
        (["--optimizer", "adam", "--momentum", "0.5"], "expected no momentum for adam, got 0.5"),
        (["--noise", "wrong"], "python -m fnn: expected noise of 'none', 'gradient_noise'"),
        (["--noise-scale", "-1"], "fnn.optim.gradient_noise: expected variance of 0 or more"),
        (["--noise", "dp_sgd"], "fnn.dp_sgd: expected a model without running state"),
        (["--epochs", "-1"], "python -m fnn: expected epochs of 0 or more, got -1"),
        (["--batch-size", "0"], "python -m fnn: expected a batch_size from 1"),
        (["--batch-size", "4001"], "python -m fnn: expected a batch_size from 1 to 4000"),
        (["--data", "fashion_mnist", "--data-folder", "nowhere"], "no such file in nowhere"),
        (["--output", "taken/inside"], "expected a folder to write to"),
        *(
            (["--learning-rate", value], "expected learning_rate of 0 or more")
            for value in ("nan", "-1", "inf", "1e300")
        ),
        (["--momentum", "nan"], "expected momentum in [0, 1)"),
        (["--noise-scale", "nan"], "expected variance of 0 or more"),
        (["--noise", "sgld", "--noise-scale", "-1"], "expected noise_scale of 0 or more"),
        (["--noise", "none", "--noise-scale", "1"], "expected no noise_scale without a noise"),
        (["--seed", "-1"], "expected seed"),
        (["--seed", "99999999999999"], "expected seed"),
        (["--hidden", "99999999999999999999"], "expected numbers up to 2147483647"),
        (["--data-folder", "."], "expected no data_folder for the digits"),
        (["--channels", "3"], "expected no channels for mlp"),
        (["--model", "rnn", "--activation", "tanh"], "expected no activation for rnn"),
        (["--model", "rnn", "--batch-norm"], "expected no batch_norm for rnn"),
    ],
)
def test_bad_options_say_what_to_do_and_write_nothing(options, message, tmp_path):
    (tmp_path / "taken").write_text("a file")
    run = command(tmp_path, *options)
    assert run.returncode == 2
    assert message in " ".join(run.stderr.replace("│", " ").split())
    assert "Traceback" not in run.stderr
    # What the parser refuses by itself it precedes by how the command is used.
    assert run.stderr.startswith("Usage:") or len(run.stderr.splitlines()) == 1
    assert {file.name for file in tmp_path.iterdir()} == {"taken"}


@pytest.mark.parametrize("loss", main_job.get_args(main_job.LossName))
def test_every_loss_trains(loss):
    (x, labels), _ = few()
    model, function = main_job.build(SMALL._replace(loss=loss, dropout=0.1), (28, 28), 10)
    data = x.astype(np.float32) / 255, main_job.targets(loss, labels, 10)
    _, history = fnn.fit(
        model, function, fnn.optim.sgd(0.02), data, epochs=5, batch_size=25, key=jax.random.key(0)
    )
    assert history.epoch_loss[-1] < history.epoch_loss[0]


@pytest.mark.parametrize("activation", main_job.get_args(networks.Activation))
def test_every_activation_builds(activation):
    model, _ = main_job.build(SMALL._replace(activation=activation), (28, 28), 10)
    assert f"{activation}()" in repr(model)


def test_the_saved_weights_are_the_trained_model(tmp_path, capsys):
    settings = SMALL._replace(output=tmp_path)
    main_job.run(few(), settings)
    model, _ = main_job.build(settings, (28, 28), 10)
    x = few().test[0].astype(np.float32) / 255
    like = jax.eval_shape(model.init, jax.random.key(0), x)
    params, state = fnn.load_weights(tmp_path / "model.safetensors", like)
    guesses = np.asarray(fnn.predict(model, params, state, x)).argmax(-1)
    right = float((guesses == few().test[1]).mean())
    assert f"test accuracy {right:.4f}" in capsys.readouterr().out


FULL = OSError(28, "No space left on device")


def fail(*_):
    raise FULL


@pytest.mark.parametrize("lost", ["pictures", "metrics", "weights"])
def test_what_cannot_be_written_loses_nothing_else(tmp_path, capsys, monkeypatch, lost):
    name = {"pictures": "plot.save", "metrics": "_write_metrics", "weights": "save_weights"}[lost]
    where = main_job.plot if lost == "pictures" else main_job
    monkeypatch.setattr(where, name.removeprefix("plot."), fail)
    with pytest.raises(main_job.NotWrittenError, match="No space left on device"):
        main_job.run(few(), SMALL._replace(output=tmp_path))
    missing = {
        "pictures": {name for name in FILES if name.endswith("png")},
        "metrics": {"metrics.csv"},
        "weights": {"model.safetensors"},
    }[lost]
    assert {file.name for file in tmp_path.iterdir()} == FILES - missing
    assert "test accuracy" in capsys.readouterr().out


def test_a_folder_in_the_place_of_a_file_is_refused_before_training(tmp_path, monkeypatch):
    (tmp_path / "curves.png").mkdir()
    monkeypatch.setattr(main_job, "fit", fail)
    with pytest.raises(fnn.InputError, match="a file to write to"):
        main_job.run(few(), SMALL._replace(output=tmp_path))


def test_label_noise_of_numbers_has_a_standard_deviation():
    _, gradient = recipes.training(
        "sgd", "label_noise", "manual", learning_rate=None, momentum=None, size=0.2, steps=1,
        examples=1, labels=False, seed=0,
    )  # fmt: skip
    assert repr(gradient) == "label_noise(std=0.2, gradient='manual')"


def learns(optimizer, noise, model="mlp", **settings):
    """Train on a few images with an optimizer and a noise by name: the loss falls."""
    (x, labels), _ = few()
    settings = SMALL._replace(
        model=model, batch_norm=False if noise == "dp_sgd" else None, dropout=0.1, **settings
    )
    model, loss = main_job.build(settings, (28, 28), 10)
    size = len(x) if optimizer == "lbfgs" else 25
    # The first steps of lars are large, from biases of 0, whose norm gives no measure.
    epochs = 24 if optimizer == "lars" else 8
    made, gradient = recipes.training(
        optimizer, noise, "manual", learning_rate=None, momentum=None, size=None,
        steps=epochs * len(x) // size, examples=len(x), labels=True, seed=0,
    )  # fmt: skip
    _, history = fnn.fit(
        model, loss, made, (x.astype(np.float32) / 255, labels),
        epochs=epochs, batch_size=size, key=jax.random.key(0), gradient=gradient,
    )  # fmt: skip
    return history.epoch_loss[-1] < 0.95 * history.epoch_loss[0]


@pytest.mark.parametrize("optimizer", recipes.OPTIMIZERS)
def test_every_optimizer_by_name_learns(optimizer):
    assert learns(optimizer, "none")


@pytest.mark.parametrize("noise", recipes.NOISES)
def test_every_noise_by_name_learns(noise):
    assert learns(None, noise)


@pytest.mark.parametrize("model", main_job.get_args(networks.Model))
def test_every_network_by_name_learns(model):
    assert learns("adam", "none", model, channels=(2, 4) if model == "cnn" else None)


def test_every_optimizer_and_noise_of_the_library_has_a_name():
    for name in fnn.optim.__all__:
        value = getattr(fnn.optim, name)
        if hasattr(value, "__wrapped__"):
            options = inspect.signature(value).parameters
            if {"learning_rate", "time_step", "key"} & set(options):
                assert name in {*recipes.OPTIMIZERS, *recipes.NOISES}
