"""One run: a network, its gradient derived by hand, from data to pictures."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import math
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn import losses, plot
from fnn._core.atomic_write import atomic_write, check_file, output_folder
from fnn._core.keys import on_words
from fnn._core.types import Array, Prediction, Target, Unchecked
from fnn.cli import checkpoints, pictures
from fnn.cli.checkpoints import Past
from fnn.cli.data import Problem, described
from fnn.cli.folder import (
    CURVES,
    GRADIENTS,
    METRICS,
    PREDICTIONS,
    RECORD,
    WEIGHTS,
    clear,
    refuse_interrupted,
)
from fnn.cli.networks import network
from fnn.cli.optimizers import training
from fnn.cli.settings import LABELED, NOTES, LossName, Settings, complete, to_plain
from fnn.combinators.serial import serial
from fnn.combinators.walk import children
from fnn.gradient.objective import Gradient
from fnn.lab.compare import Comparison, compare
from fnn.lab.summary import summary
from fnn.layer import Layer
from fnn.layers.activation.softmax import log_softmax
from fnn.losses import Loss
from fnn.optim.optimizer import Optimizer, eval_params
from fnn.train.files.weights import save_weights
from fnn.train.fit import History, fit
from fnn.train.loop._events import Callback
from fnn.train.metrics import Metrics, accuracy as accuracy_of_labels
from fnn.train.step import TrainState, init_train_state, train_step

_COMPARED = 64
_WIDTH = 80


class NotWrittenError(Exception):
    """Results that could not be written; all others were."""


class StoppedError(Exception):
    """A run that was interrupted, and can be gone on with."""


class DivergedError(Exception):
    """A run whose loss or parameters became infinite or NaN."""


class Job(NamedTuple):
    """A run made ready: everything that its settings name.

    Args:
        settings: complete.
        problem: what is learned.
        model: the network.
        loss: compares its outputs with the targets.
        optimizer: with its noise.
        gradient: where gradients come from.
        train: x, and targets as the loss wants them.
        test: the same for examples held out.
    """

    settings: Settings
    problem: Problem
    model: Layer
    loss: Loss
    optimizer: Optimizer
    gradient: Gradient
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]

    @property
    def metrics(self) -> Metrics:
        """What is measured on the examples held out: one metric."""
        if self.problem.classes:
            return {"accuracy": accuracy}
        return {"absolute_error": absolute_error}


class Outcome(NamedTuple):
    """How a run ended.

    Args:
        history: of the training.
        score: accuracy, or mean absolute error where targets are values; NaN without any epoch.
        diverged: what was wrong and what to do, empty where nothing was.
    """

    history: History
    score: float
    diverged: str


def build(settings: Settings, example: tuple[int, ...], outputs: int) -> tuple[Layer, Loss]:
    """Return the network and the loss of complete settings.

    Args:
        settings: of the run.
        example: the shape of one example.
        outputs: how many outputs the network has.
    """
    model = network(
        settings.model,
        example,
        outputs,
        hidden=settings.hidden or (),
        channels=settings.channels or (),
        activation=settings.activation,
        initializer=settings.initializer,
        normalize=bool(settings.batch_norm),
        rate=settings.dropout or 0.0,
    )
    if settings.loss == "nll":
        model = serial(*children(model).values(), log_softmax())
    return model, getattr(losses, str(settings.loss))()


def targets(loss: LossName | None, target: np.ndarray, classes: int) -> np.ndarray:
    """Return targets as the loss wants them: as they are, one-hot, or -1 and +1 for each class.

    Args:
        loss: its name.
        target: (n,) integers, or values.
        classes: how many there are; 0 where targets are values.

    >>> targets("hinge", np.array([1]), 3)
    array([[-1.,  1., -1.]], dtype=float32)
    """
    if loss in LABELED or not classes:
        return target
    one_hot = np.eye(classes, dtype=np.float32)[target]
    return 2 * one_hot - 1 if loss in ("logistic", "hinge") else one_hot


def accuracy(prediction: Prediction, target: Target) -> Array:
    """Return 1 where the largest output is that of the right class.

    Args:
        prediction: (B, K).
        target: as `targets` makes it.
    """
    labels = target if target.ndim == 1 else target.argmax(-1)
    return accuracy_of_labels(prediction, labels)


def absolute_error(prediction: Prediction, target: Target) -> Array:
    """Return the mean over outputs of the absolute error.

    Args:
        prediction: (B, O).
        target: (B, O).
    """
    return jnp.abs(prediction - target).mean(-1)


def guessing(problem: Problem) -> float:
    """Return the score without looking at x: the most frequent class, or the median of the values.

    Args:
        problem: what is learned.
    """
    target, test = problem.train[1], problem.test[1]
    if problem.classes:
        return float((test == np.bincount(target).argmax()).mean())
    return float(np.abs(test - np.median(target, 0)).mean())


def assemble(problem: Problem, settings: Settings) -> Job:
    """Return what a run needs: its parts are made, and nothing is traced.

    Args:
        problem: what is learned.
        settings: of the run.
    Raises:    InputError for settings that do not go together.
    """
    settings = complete(settings, problem)
    model, loss = build(settings, problem.example, problem.outputs)
    (x, target), (test_x, test_target) = problem.train, problem.test
    classes = len(problem.classes)
    optimizer, gradient = training(
        settings.descent(),
        settings.gradient,
        steps=(settings.epochs or 0) * -(-len(x) // (settings.batch_size or 1)),
        examples=len(x),
        labels=settings.loss in LABELED,
        seed=settings.seed,
    )
    return Job(
        settings, problem, model, loss, optimizer, gradient,
        (x, targets(settings.loss, target, classes)),
        (test_x, targets(settings.loss, test_target, classes)),
    )  # fmt: skip


def prepare(problem: Problem, settings: Settings) -> Job:
    """Return what a run needs, checked as a whole: a step is traced, and nothing is computed.

    Args:
        problem: what is learned.
        settings: of the run.
    Raises:    InputError for settings that do not go together.
    """
    job = assemble(problem, settings)
    model, loss, optimizer, gradient, settings = *job[2:6], job.settings
    key = jax.eval_shape(lambda: jax.random.key(0))
    train_state = _init.eval_shape(model, optimizer, gradient, _spec(job), key)
    batch = tuple(part[: settings.batch_size] for part in job.train)
    jax.eval_shape(train_step(model, loss, optimizer, gradient), train_state, batch)
    return job


def _spec(job: Job) -> jax.ShapeDtypeStruct:
    """Return the shape of a batch."""
    x = job.train[0]
    return jax.ShapeDtypeStruct((job.settings.batch_size or 1, *x.shape[1:]), x.dtype)


# Compiled at once and in haste: the weights are drawn once, and one by one, as a call outside of
# jit would, their programs take a second and a half.
@functools.partial(
    jax.jit,
    static_argnums=(0, 1, 2, 3),
    compiler_options={"xla_backend_optimization_level": "0"},
)
def _init(
    model: Layer, optimizer: Optimizer, gradient: Gradient, x: jax.ShapeDtypeStruct, key: Array
) -> TrainState:
    return init_train_state(model, optimizer, x, key=key, gradient=gradient)


def start(job: Job) -> TrainState:
    """Return the train state to begin with.

    Args:
        job: the run.
    """
    key = jax.random.key(job.settings.seed)
    return _init(job.model, job.optimizer, job.gradient, _spec(job), key)


def train(
    job: Job,
    begin: TrainState,
    *,
    progress: bool,
    epochs: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> tuple[TrainState, Outcome]:
    """Train, and return what the model became and how it went; it does not warn.

    Args:
        job: the run.
        begin: the train state to begin with.
        progress: whether to show a bar.
        epochs: how many, those of the settings where it is None.
        callbacks: of `fnn.fit`.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train_state, history = fit(
            job.model,
            job.loss,
            job.optimizer,
            job.train,
            epochs=job.settings.epochs or 0 if epochs is None else epochs,
            batch_size=job.settings.batch_size or 1,
            gradient=job.gradient,
            validation=job.test,
            metrics=job.metrics,
            callbacks=callbacks,
            progress=progress,
            start=begin,
            sharding="data" if jax.process_count() > 1 else None,
        )
    if jax.process_count() > 1:
        # Every process has the whole of it: what comes after is for one of them to compute.
        train_state = jax.tree.map(functools.partial(on_words, _here), train_state)
    said = [str(one.message) for one in caught if str(one.message).startswith("fnn.fit")]
    for one in caught:
        if str(one.message) not in said:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    score = history.validation.get(next(iter(job.metrics)), np.zeros(0))
    return train_state, Outcome(
        history, float(score[-1]) if len(score) else math.nan, " ".join(said)
    )


def _here(leaf: Array) -> Array:
    """Return the copy of an array that lies in this process."""
    return leaf.addressable_data(0)


def run(problem: Problem, settings: Settings) -> Outcome:
    """Print, train, save and draw; all input is checked before anything is computed.

    The weights are written as soon as they are there, then the numbers, then the pictures; what
    cannot be written keeps none of the others from it.

    Args:
        problem: what is learned.
        settings: what to do.
    Raises:    InputError for settings that do not go together and an output that cannot be written
        to, or in which a run or a sweep was interrupted; `NotWrittenError` at the end where
        something was not written all the same, and `DivergedError` where the run diverged.
    """
    refuse_interrupted(settings.output)
    job = prepare(problem, settings)
    return finish(job, start(job), Past())


def finish(job: Job, begin: TrainState, past: Past) -> Outcome:
    """Train from a train state to the end of a run, print, save and draw.

    Checkpoints are kept until all results are written. Of several processes all train, and only the
    first writes.

    Args:
        job: the run.
        begin: the train state to go on from.
        past: the epochs before it.
    Raises:    as `run`, and `StoppedError` where the run was interrupted.
    """
    began, settings, epochs = time.perf_counter(), job.settings, job.settings.epochs or 0
    described = job.model, job.loss, job.optimizer
    folder, first = settings.output, jax.process_index() == 0
    keeping: AbstractContextManager[Callback | None] = contextlib.nullcontext()
    if first:
        keeping = checkpoints.kept(folder, *described, past, epochs)
    with keeping as callback:
        if first:
            open_folder(job)
        comparison = _introduce(job, start(job))
        train_state, outcome = train(
            job, begin, progress=first, epochs=epochs - past.epochs,
            callbacks=[] if callback is None else [callback],
        )  # fmt: skip
    history = past.joined(outcome.history, _sizes(job))
    if history.stopped.startswith("interrupted"):
        raise StoppedError(
            f"{history.stopped} in epoch {len(history.epoch_loss)} of {settings.epochs}; go on with"
            f" python -m fnn resume {folder}"
        )
    scores = history.validation.get(next(iter(job.metrics)), np.zeros(0))
    outcome = Outcome(history, float(scores[-1]) if len(scores) else math.nan, outcome.diverged)
    if not first:
        if outcome.diverged:
            raise DivergedError(outcome.diverged)
        return outcome
    print(f"\n{_verdict(job, outcome)}")
    failed = save(job, folder, train_state, outcome)
    failed |= _draw(job, folder, train_state, outcome, comparison)
    if not failed:
        checkpoints.remove(folder)
    _conclude(job, folder, outcome, failed, time.perf_counter() - began)
    return outcome


def _sizes(job: Job) -> np.ndarray:
    """Return how many examples every step of an epoch has."""
    full, rest = divmod(len(job.train[0]), job.settings.batch_size or 1)
    return np.array([job.settings.batch_size or 1] * full + [rest] * bool(rest))


def files(job: Job) -> tuple[str, ...]:
    """Return the names of the files that a run writes; those that cost most to make come first.

    Args:
        job: the run.
    """
    compared = [GRADIENTS] if job.settings.compare else []
    drawn = [PREDICTIONS] if pictures.can_be_drawn(job.problem) else []
    return (WEIGHTS, METRICS, RECORD, CURVES, *compared, *drawn)


def open_folder(job: Job) -> Path:
    """Make the folder for the results, clear it of earlier ones, and write the settings into it.

    Args:
        job: the run.
    Raises:    InputError where something cannot be written.
    """
    folder = output_folder(job.settings.output)
    for name in files(job):
        check_file(folder / name)
    clear(folder, keep=RECORD)
    write_record(folder / RECORD, job, {})
    return folder


def save(job: Job, folder: Path, train_state: TrainState, outcome: Outcome) -> dict[str, str]:
    """Write weights and numbers; return the names of files that could not be, with the reason.

    Args:
        job: the run.
        folder: for the results.
        train_state: what the model became.
        outcome: how it went.
    """
    params, state = eval_params(train_state.opt_state, train_state.params), train_state.state
    failed = _written(folder / WEIGHTS, lambda file: save_weights(file, params, state))
    if failed:
        # They cost the most: they are left where there may be room.
        elsewhere = Path(tempfile.mkdtemp(prefix="fnn-"), WEIGHTS)
        if not _written(elsewhere, lambda file: save_weights(file, params, state)):
            print(f"the weights are in {elsewhere}", file=sys.stderr)
    history = outcome.history
    results: dict[str, float | int | str] = {
        next(iter(job.metrics)): outcome.score,
        "loss": float(history.epoch_loss[-1]) if len(history.epoch_loss) else math.nan,
        "steps": len(history.loss),
        "seconds": round(history.run_seconds, 3),
        "diverged": outcome.diverged,
    }
    failed |= _written(folder / METRICS, lambda file: _write_metrics(file, history))
    return failed | _written(folder / RECORD, lambda file: write_record(file, job, results))


def _introduce(job: Job, begin: TrainState) -> Comparison | None:
    """Print what is done, the layers, and the gradients compared at the start of training."""
    print(f"{job.problem}\n{job.settings}")
    note = NOTES.get(str(job.settings.loss))
    print(*([note] if note and job.problem.classes else []), sep="\n")
    print(f"{summary(job.model, _spec(job))}\n", flush=True)
    if not job.settings.compare:
        return None
    batch = tuple(jnp.asarray(part[:_COMPARED]) for part in job.train)
    found = compare(
        job.model, job.loss, begin.params, begin.state, batch,
        key=jax.random.fold_in(begin.key, 0), costs=job.settings.costs,
    )  # fmt: skip
    print(f"{found}\n", flush=True)
    return found


def _verdict(job: Job, outcome: Outcome) -> str:
    """Return the line that a reader waits for."""
    test = len(job.test[0])
    if outcome.diverged:
        return "diverged: the outputs are no numbers any more"
    if math.isnan(outcome.score):
        return "no epoch, no score"
    guess = guessing(job.problem)
    if job.problem.classes:
        return (
            f"test accuracy {outcome.score:.4f} on {test:,} held-out examples"
            f" (most frequent class: {guess:.2f})"
        )
    return (
        f"test error {outcome.score:.4g}, mean absolute, on {test:,} held-out examples"
        f" (the median: {guess:.2g})"
    )


def _draw(
    job: Job,
    folder: Path,
    train_state: TrainState,
    outcome: Outcome,
    comparison: Comparison | None,
) -> dict[str, str]:
    """Draw the pictures; return the names of those that could not be, with the reason."""
    place = eval_params(train_state.opt_state, train_state.params), train_state.state
    drawn: dict[str, Callable[[Path], None]] = {
        CURVES: lambda file: plot.save(plot.curves(outcome.history), file)
    }
    if comparison is not None:
        drawn[GRADIENTS] = lambda file: plot.save(plot.gradients(comparison), file)
    if PREDICTIONS in files(job):
        drawn[PREDICTIONS] = lambda file: plot.save(
            pictures.predictions(job.problem, job.model, *place, job.settings.loss), file
        )
    failed: dict[str, str] = {}
    for name, write in drawn.items():
        failed |= _written(folder / name, write)
    return failed


def _written(file: Path, write: Callable[[Path], None]) -> dict[str, str]:
    """Write a file; return its name with what is wrong where that fails."""
    try:
        write(file)
    except Exception as error:
        # Whatever it is, the files that come after are not to be lost by it.
        return {file.name: f"{type(error).__name__}: {error}"}
    return {}


def _conclude(
    job: Job, folder: Path, outcome: Outcome, failed: dict[str, str], seconds: float
) -> None:
    """Print how long it took and what was written; raise where something was not."""
    history = outcome.history
    print(
        f"training: {len(history.loss):,} steps in {history.run_seconds:.2f} s, held-out examples"
        f" included;\ncompilation {history.compile_seconds:.2f} s; all together {seconds:.1f} s"
    )
    written = ", ".join(name for name in files(job) if name not in failed)
    print(textwrap.fill(f"written to {folder}/: {written or 'nothing'}", _WIDTH))
    if failed:
        raise NotWrittenError(
            "; ".join(f"{name} was not written ({e})" for name, e in failed.items())
        )
    if outcome.diverged:
        raise DivergedError(outcome.diverged)


def _write_metrics(file: Path, history: History) -> None:
    """Write a row an epoch: the training loss, and loss and metric on the held-out examples."""
    with atomic_write(file) as temporary, temporary.open("w", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(["epoch", "training_loss", *(f"held_out_{n}" for n in history.validation)])
        columns = zip(history.epoch_loss, *history.validation.values(), strict=False)
        for epoch, values in enumerate(columns, 1):
            writer.writerow([epoch, *(f"{value:.6g}" for value in values)])


def write_record(file: Path, job: Job, results: dict[str, float | int | str]) -> None:
    """Write settings, what was done to the data, results, and what they were made with.

    Args:
        file: to be written.
        job: the run.
        results: by name; none as long as it goes on.
    """
    record: dict[str, dict[str, Unchecked]] = {
        "settings": to_plain(job.settings),
        "data": described(job.problem),
        "results": {name: None if v != v else v for name, v in results.items()},
        "versions": {
            "jax": jax.__version__, "numpy": np.__version__, "python": sys.version.split()[0]
        },
    }  # fmt: skip
    # A line for each name: a file may have hundreds of columns.
    parts = [
        f" {json.dumps(part)}: {{\n"
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(v)}" for name, v in values.items())
        + "\n }"
        for part, values in record.items()
    ]
    with atomic_write(file) as temporary:
        temporary.write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8")
