"""The main job: a network for images, its gradient derived by hand, from data to pictures."""

from __future__ import annotations

import csv
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from fnn import losses, plot
from fnn._core import check
from fnn._core.atomic_write import atomic_write, check_file, output_folder
from fnn._core.types import Array, Prediction, Target
from fnn.cli.networks import Activation, Model, network
from fnn.cli.optimizers import training
from fnn.combinators.serial import serial
from fnn.combinators.walk import children
from fnn.datasets import Dataset
from fnn.gradient.objective import Gradient, GradientName
from fnn.lab.compare import Comparison, compare
from fnn.lab.summary import summary
from fnn.layer import Layer
from fnn.layers.activation.softmax import log_softmax
from fnn.losses import Loss
from fnn.optim.optimizer import Optimizer, eval_params
from fnn.train.evaluate import predict
from fnn.train.fit import History, check_plan, fit
from fnn.train.metrics import accuracy as accuracy_of_labels
from fnn.train.step import init_train_state, train_step
from fnn.train.weights import save_weights

LossName: TypeAlias = Literal[
    "cross_entropy", "nll", "squared_error", "absolute_error", "huber", "binary_cross_entropy",
    "logistic", "hinge",
]  # fmt: skip
# Losses whose targets are the labels themselves.
LABELED = ("cross_entropy", "nll")
DEFAULT_OPTIMIZER: dict[str, str] = {
    "mlp": "momentum",
    "cnn": "momentum",
    "rnn": "adam",
    "lstm": "adam",
}
# Those that cost most to make come first.
FILES = ("model.safetensors", "metrics.csv", "curves.png", "gradients.png", "predictions.png")
_COMPARED = 64


class Settings(NamedTuple):
    """What one run does; the command line's options, with their defaults."""

    model: Model = "mlp"
    hidden: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None
    activation: Activation | None = None
    batch_norm: bool | None = None
    dropout: float = 0.3
    loss: LossName = "cross_entropy"
    epochs: int = 30
    batch_size: int = 100
    optimizer: str | None = None
    learning_rate: float | None = None
    momentum: float | None = None
    noise: str = "gradient_noise"
    noise_scale: float | None = None
    gradient: GradientName = "manual"
    seed: int = 0
    output: Path = Path("fnn-run")


class NotWrittenError(Exception):
    """Results that could not be written; all others were."""


def build(settings: Settings, image: tuple[int, ...], classes: int) -> tuple[Layer, Loss]:
    """Return the network for images of a shape, and the loss.

    Args:
        settings: of the run.
        image: (H, W).
        classes: how many there are.

    >>> model, loss = build(Settings(hidden=(32,), batch_norm=False, dropout=0.0), (28, 28), 10)
    >>> model
    serial(flatten(), dense(32, initializer=variance_scaling), relu(), dense(10))
    """
    check.one_of(settings.loss, "loss", get_args(LossName))
    model = network(
        settings.model,
        image,
        classes,
        hidden=settings.hidden,
        channels=settings.channels,
        activation=settings.activation,
        normalize=settings.batch_norm,
        rate=settings.dropout,
    )
    if settings.loss == "nll":
        model = serial(*children(model).values(), log_softmax())
    return model, getattr(losses, settings.loss)()


def targets(loss: LossName, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return labels as the loss wants them: as they are, one-hot, or -1 and +1 for each class.

    Args:
        loss: its name.
        labels: (n,) integers.
        classes: how many there are.

    >>> targets("hinge", np.array([1]), 3)
    array([[-1.,  1., -1.]], dtype=float32)
    """
    if loss in LABELED:
        return labels
    one_hot = np.eye(classes, dtype=np.float32)[labels]
    return 2 * one_hot - 1 if loss in ("logistic", "hinge") else one_hot


def accuracy(prediction: Prediction, target: Target) -> Array:
    """Return 1 where the largest output is that of the right class.

    Args:
        prediction: (B, K).
        target: as `targets` makes it.
    """
    labels = target if target.ndim == 1 else target.argmax(-1)
    return accuracy_of_labels(prediction, labels)


class _Job(NamedTuple):
    """A run made ready: everything that its settings name."""

    model: Layer
    loss: Loss
    optimizer: Optimizer
    gradient: Gradient
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def run(data: Dataset, settings: Settings) -> History:
    """Print, train, save and draw; all input is checked before anything is computed.

    The weights are written as soon as they are there, then the numbers, then the pictures; what
    cannot be written keeps none of the others from it.

    Args:
        data: the images.
        settings: what to do.
    Raises:    InputError for settings that do not go together and an output that cannot be written
        to; `NotWrittenError` at the end where something was not written all the same.
    """
    began = time.perf_counter()
    job = _prepare(data, settings)
    folder = output_folder(settings.output)
    for name in FILES:
        check_file(folder / name)
    comparison = _introduce(job, settings)
    train_state, history = fit(
        job.model,
        job.loss,
        job.optimizer,
        job.train,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        key=jax.random.key(settings.seed),
        gradient=job.gradient,
        validation=job.test,
        metrics={"accuracy": accuracy},
        progress=True,
    )
    params, state = eval_params(train_state.opt_state, train_state.params), train_state.state
    test_x, test_labels = job.test[0], data.test[1]

    failed = _written(folder / FILES[0], lambda file: save_weights(file, params, state))
    if failed:
        # They cost the most: they are left where there may be room.
        elsewhere = Path(tempfile.mkdtemp(prefix="fnn-"), FILES[0])
        if not _written(elsewhere, lambda file: save_weights(file, params, state)):
            print(f"the weights are in {elsewhere}", file=sys.stderr)
    outputs = predict(job.model, params, state, test_x)
    right = float((np.asarray(outputs).argmax(-1) == test_labels).mean())
    print(f"\ntest accuracy {right:.4f} on {len(test_x):,} held-out images")
    results: dict[str, Callable[[Path], None]] = {
        "metrics.csv": lambda file: _write_metrics(file, history),
        "curves.png": lambda file: plot.save(plot.curves(history), file),
        "gradients.png": lambda file: plot.save(plot.gradients(comparison), file),
        "predictions.png": lambda file: plot.save(
            plot.predictions(
                jnp.asarray(test_x), jnp.asarray(test_labels), jax.nn.softmax(outputs)
            ),
            file,
        ),
    }
    for name, write in results.items():
        failed |= _written(folder / name, write)
    _conclude(folder, history, failed, time.perf_counter() - began)
    return history


def _prepare(data: Dataset, settings: Settings) -> _Job:
    """Return what a run needs, checked as a whole."""
    (x, labels), (test_x, test_labels) = data
    check.count(settings.seed, "seed", least=0)
    check_plan(settings.epochs, settings.batch_size, len(x))
    classes = int(max(labels.max(), test_labels.max())) + 1
    model, loss = build(settings, x.shape[1:], classes)
    optimizer, gradient = training(
        settings.optimizer,
        settings.noise,
        settings.gradient,
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
        size=settings.noise_scale,
        steps=settings.epochs * -(-len(x) // settings.batch_size),
        examples=len(x),
        labels=settings.loss in LABELED,
        seed=settings.seed,
        usual=DEFAULT_OPTIMIZER[settings.model],
    )
    x, test_x = (images.astype(np.float32) / 255 for images in (x, test_x))
    train = x, targets(settings.loss, labels, classes)
    test = test_x, targets(settings.loss, test_labels, classes)
    # A step that is traced and not run, for all its checks.
    step = train_step(model, loss, optimizer, gradient)
    jax.eval_shape(
        lambda key, batch: step(
            init_train_state(model, optimizer, batch[0], key=key, gradient=gradient), batch
        ),
        jax.random.key(0),
        tuple(part[: settings.batch_size] for part in train),
    )
    return _Job(model, loss, optimizer, gradient, train, test)


def _introduce(job: _Job, settings: Settings) -> Comparison:
    """Print the layers, and the gradients compared at the start of training, on a small batch."""
    x, test_x = job.train[0], job.test[0]
    shape = jax.ShapeDtypeStruct((settings.batch_size, *x.shape[1:]), x.dtype)
    print(f"{len(x):,} images to learn from, {len(test_x):,} held out\n")
    print(f"{summary(job.model, shape)}\n")
    batch = tuple(jnp.asarray(part[:_COMPARED]) for part in job.train)
    init_key, run_key = jax.random.split(jax.random.key(settings.seed))
    params, state = job.model.init(init_key, batch[0])
    comparison = compare(job.model, job.loss, params, state, batch, key=run_key)
    print(f"{comparison}\n")
    return comparison


def _written(file: Path, write: Callable[[Path], None]) -> dict[str, str]:
    """Write a file; return its name with what is wrong where that fails."""
    try:
        write(file)
    except Exception as error:
        # Whatever it is, the files that come after are not to be lost by it.
        return {file.name: f"{type(error).__name__}: {error}"}
    return {}


def _conclude(folder: Path, history: History, failed: dict[str, str], seconds: float) -> None:
    """Print how long it took and what was written; raise where something was not."""
    steps = len(history.loss)
    print(
        f"training: {steps:,} steps in {history.run_seconds:.2f} s, held-out images included;"
        f" compilation {history.compile_seconds:.2f} s;\n"
        f"all together {seconds:.1f} s"
    )
    written = ", ".join(name for name in FILES if name not in failed)
    print(textwrap.fill(f"written to {folder}/: {written or 'nothing'}", 80))
    if failed:
        raise NotWrittenError(
            "; ".join(f"{name} was not written ({e})" for name, e in failed.items())
        )


def _write_metrics(file: Path, history: History) -> None:
    """Write a row an epoch: the training loss, and loss and accuracy on the held-out images."""
    with atomic_write(file) as temporary, temporary.open("w", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(["epoch", "training_loss", *(f"held_out_{n}" for n in history.validation)])
        columns = zip(history.epoch_loss, *history.validation.values(), strict=False)
        for epoch, values in enumerate(columns, 1):
            writer.writerow([epoch, *(f"{value:.6g}" for value in values)])
