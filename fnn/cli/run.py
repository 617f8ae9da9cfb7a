"""The main job: a network for images, its gradient derived by hand, from data to pictures."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from fnn import losses, plot
from fnn._core.atomic_write import atomic_write, output_folder
from fnn._core.errors import InputError, describe
from fnn._core.types import Array
from fnn.cli.networks import Activation, Model, network
from fnn.cli.optimizers import training
from fnn.combinators.serial import serial
from fnn.combinators.walk import children
from fnn.datasets import Dataset
from fnn.gradient.objective import GradientName
from fnn.lab.compare import Comparison, compare
from fnn.lab.summary import summary
from fnn.layer import Layer
from fnn.layers.activation.softmax import log_softmax
from fnn.losses import Loss
from fnn.optim.optimizer import eval_params
from fnn.train.checkpoint import save_weights
from fnn.train.evaluate import predict
from fnn.train.fit import History, check_plan, fit
from fnn.train.metrics import accuracy as accuracy_of_labels
from fnn.train.step import init_train_state, train_step

LossName: TypeAlias = Literal[
    "cross_entropy", "nll", "squared_error", "absolute_error", "huber", "binary_cross_entropy",
    "logistic", "hinge",
]  # fmt: skip
# Losses whose targets are the labels themselves.
LABELLED = ("cross_entropy", "nll")
DEFAULT_OPTIMIZER: dict[str, str] = {
    "mlp": "momentum",
    "cnn": "momentum",
    "rnn": "adam",
    "lstm": "adam",
}
_COMPARED = 64


class Settings(NamedTuple):
    """What one run does; the command line's options, with their defaults."""

    model: Model = "mlp"
    hidden: tuple[int, ...] | None = None
    channels: tuple[int, ...] = (16, 32)
    activation: Activation = "relu"
    batch_norm: bool = True
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


def build(settings: Settings, image: tuple[int, ...], classes: int) -> tuple[Layer, Loss]:
    """Return the network for images of a shape, and the loss.

    >>> model, loss = build(Settings(hidden=(32,), batch_norm=False, dropout=0.0), (28, 28), 10)
    >>> model
    serial(flatten(), dense(32, initializer=variance_scaling), relu(), dense(10))
    """
    if settings.loss not in get_args(LossName):
        known = ", ".join(get_args(LossName))
        raise InputError(f"loss of {known}", describe(settings.loss), "pick one")
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


def targets(loss: str, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return labels as the loss wants them: as they are, one-hot, or -1 and +1 for each class.

    >>> targets("hinge", np.array([1]), 3)
    array([[-1.,  1., -1.]], dtype=float32)
    """
    if loss in LABELLED:
        return labels
    one_hot = np.eye(classes, dtype=np.float32)[labels]
    return 2 * one_hot - 1 if loss in ("logistic", "hinge") else one_hot


def accuracy(prediction: Array, target: Array) -> Array:
    """Return 1 where the largest output is that of the right class; targets as `targets` makes."""
    labels = target if target.ndim == 1 else target.argmax(-1)
    return accuracy_of_labels(prediction, labels)


def run(data: Dataset, settings: Settings) -> History:
    """Print, train, draw and save; all input is checked before anything is computed."""
    began = time.perf_counter()
    (x, labels), (test_x, test_labels) = data
    classes = int(labels.max()) + 1
    model, loss = build(settings, x.shape[1:], classes)
    optimizer, gradient = training(
        settings.optimizer,
        settings.noise,
        settings.gradient,
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
        size=settings.noise_scale,
        steps=settings.epochs * -(-len(x) // max(settings.batch_size, 1)),
        examples=len(x),
        labels=settings.loss in LABELLED,
        seed=settings.seed,
        usual=DEFAULT_OPTIMIZER[settings.model],
    )
    check_plan(settings.epochs, settings.batch_size, len(x))
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
    folder = output_folder(settings.output)

    shape = jax.ShapeDtypeStruct((settings.batch_size, *x.shape[1:]), x.dtype)
    print(f"{len(x):,} images to learn from, {len(test_x):,} held out\n")
    print(f"{summary(model, shape)}\n")
    comparison = _compare(model, loss, train, settings.seed)
    print(f"{comparison}\n")

    train_state, history = fit(
        model,
        loss,
        optimizer,
        train,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        key=jax.random.key(settings.seed),
        gradient=gradient,
        validation=test,
        metrics={"accuracy": accuracy},
        progress=True,
    )
    params = eval_params(train_state.opt_state, train_state.params)
    outputs = predict(model, params, train_state.state, test_x)
    right = float((np.asarray(outputs).argmax(-1) == test_labels).mean())
    probabilities = jax.nn.softmax(outputs)

    plot.save(plot.curves(history), folder / "curves.png")
    plot.save(plot.gradients(comparison), folder / "gradients.png")
    plot.save(plot.predictions(test_x, test_labels, probabilities), folder / "predictions.png")
    _write_metrics(folder / "metrics.csv", history)
    save_weights(folder / "model.safetensors", params, train_state.state)

    steps = len(history.loss)
    print(f"\ntest accuracy {right:.4f} on {len(test_x):,} held-out images")
    print(
        f"training: {steps:,} steps in {history.run_seconds:.2f} s, held-out images included;"
        f" compilation {history.compile_seconds:.2f} s;\n"
        f"all together {time.perf_counter() - began:.1f} s"
    )
    print(f"written to {folder}/: curves.png, gradients.png, predictions.png, metrics.csv,")
    print("model.safetensors")
    return history


def _compare(model: Layer, loss: Loss, data: tuple[Any, Any], seed: int) -> Comparison:
    """Compare gradients at the start of training, on a small batch."""
    batch = tuple(jnp.asarray(part[:_COMPARED]) for part in data)
    init_key, run_key = jax.random.split(jax.random.key(seed))
    params, state = model.init(init_key, batch[0])
    return compare(model, loss, params, state, batch, key=run_key)


def _write_metrics(file: Path, history: History) -> None:
    """Write a row an epoch: the training loss, and loss and accuracy on the held-out images."""
    with atomic_write(file) as temporary, temporary.open("w", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(["epoch", "training_loss", *(f"held_out_{n}" for n in history.validation)])
        columns = zip(history.epoch_loss, *history.validation.values(), strict=False)
        for epoch, values in enumerate(columns, 1):
            writer.writerow([epoch, *(f"{value:.6g}" for value in values)])
