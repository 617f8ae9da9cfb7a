"""Callbacks of training: stop early, keep checkpoints, write logs, change learning rates.

A `Callback` is a function of an `Event`. It answers with None, with a train state to go on with, or
with a `Stop`; the ones here are no more than that. They begin anew with every run, unless it goes
on from a ``data_state``: then those that count go on with their counts. One of your own does so
too if it has the methods ``get_state() -> bytes`` and ``set_state(bytes)``; one that saves the
`Event.data_state` for that purpose should have ``saves = True``, to be called behind the others.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from fnn._core import check
from fnn._core.atomic_write import as_path, atomic_write, check_file, output_folder
from fnn._core.errors import InputError, describe, entry
from fnn._core.extras import require
from fnn._core.types import Unchecked
from fnn.layer import Layer
from fnn.losses import Loss
from fnn.optim.optimizer import Optimizer
from fnn.train.loop._events import (
    NONFINITE,
    Answer,
    Callback as Callback,
    Event as Event,
    Stop as Stop,
    Timed,
)
from fnn.train.loop._memory import pack_counts, unpack_counts
from fnn.train.step import TrainState

Best: TypeAlias = Literal["lowest", "highest"]


@entry
def every(callback: Callback, *, steps: int | None = None, seconds: float | None = None) -> Timed:
    """Callback that is called at steps too: every so many, or after so much time.

    Args:
        callback: a function of an `Event`.
        steps: it is called where the number of steps is a multiple of this.
        seconds: or where so much time has passed.
    Raises:    InputError unless one of the two is given, above 0.

    >>> every(print, steps=100).steps
    100
    """
    check.function(callback, "callback", "pass a function of one event", takes="event")
    if (steps is None) == (seconds is None):
        got = "neither" if steps is None else "both"
        raise InputError("steps or seconds", got, "pass one of them")
    if steps is not None:
        check.count(steps, "steps")
    else:
        check.number(seconds, "seconds", above=0)
    return Timed(callback, steps, seconds)


class _Counting:
    """What a run goes on with: numbers by name, and a train state that is kept."""

    kept: TrainState | None = None
    _before: bytes | None = None

    def counts(self) -> dict[str, float]:
        raise NotImplementedError

    def set_counts(self, counts: Mapping[str, float]) -> None:
        raise NotImplementedError

    def get_state(self) -> bytes:
        return pack_counts(self.counts(), () if self.kept is None else self.kept)

    def set_state(self, state: bytes) -> None:
        self._before = state

    def goes_on(self, event: Event) -> bool:
        """Take over what the run before knew, at the start; say whether there was one."""
        if self._before is None:
            return False
        counts, self.kept = unpack_counts(self._before, event.train_state)
        self.set_counts(counts)
        self._before = None
        return True


class _Watch:
    """The best value of a metric so far, and how many came since without a better one."""

    def __init__(self, metric: str, best: Best, min_delta: float):
        check.text(metric, "metric")
        check.one_of(best, "best", ("lowest", "highest"))
        check.number(min_delta, "min_delta", least=0)
        self.metric, self.min_delta = metric, float(min_delta)
        self.sign = 1 if best == "lowest" else -1
        self.reset()

    def reset(self) -> None:
        self.best, self.waited = math.inf, 0

    def counts(self) -> dict[str, float]:
        return {"best": self.best, "waited": self.waited}

    def set_counts(self, counts: Mapping[str, float]) -> None:
        self.best, self.waited = float(counts["best"]), int(counts["waited"])

    def value(self, event: Event) -> float | None:
        """Return the value that an event brings, or None."""
        if event.metrics and self.metric not in event.metrics:
            raise InputError(
                f"a metric among {', '.join(map(repr, event.metrics))}",
                repr(self.metric),
                "pass one of them, or metrics= with it to fit",
            )
        if event.metrics:
            return event.metrics[self.metric] if event.kind == "validation" else None
        if self.metric != "loss":
            expected = f"validation data for the metric {self.metric!r}"
            raise InputError(expected, "none", "pass validation=(x, target) to fit")
        return float(np.mean(event.losses)) if event.kind == "epoch" else None

    def improves(self, value: float) -> bool:
        """Note a value, and say whether it is better than the best by enough; NaN is not."""
        better = self.sign * value < self.best - self.min_delta
        self.best, self.waited = (self.sign * value, 0) if better else (self.best, self.waited + 1)
        return better


class _Watching(_Counting):
    def __init__(self, watch: _Watch):
        self.watch = watch

    def counts(self) -> dict[str, float]:
        return self.watch.counts()

    def set_counts(self, counts: Mapping[str, float]) -> None:
        self.watch.set_counts(counts)


class _EarlyStopping(_Watching):
    def __init__(self, watch: _Watch, patience: int, restore: bool):
        super().__init__(watch)
        self.patience, self.restore = patience, restore

    def __call__(self, event: Event) -> Answer:
        if event.kind == "start" and not self.goes_on(event):
            self.watch.reset()
            self.kept = None
        value = self.watch.value(event)
        if event.kind == "end":
            return self.kept if self.restore else None
        if value is None:
            return None
        if self.watch.improves(value):
            self.kept = event.train_state if self.restore else None
        elif self.watch.waited >= self.patience:
            name = f"no better {self.watch.metric} in {self.patience} validations"
            return Stop(name, self.kept)
        return None


@entry
def early_stopping(
    *,
    metric: str = "loss",
    best: Best = "lowest",
    patience: int = 5,
    min_delta: float = 0.0,
    restore: bool = True,
) -> Callback:
    """Early stopping: the end of a run that has not become better for a while.

    Args:
        metric: which value of the validation is watched; without validation data the training loss
            of every epoch is.
        best: ``"lowest"`` or ``"highest"``.
        patience: after so many values without a better one it stops.
        min_delta: by how much one has to be better.
        restore: whether the run ends with the train state of its best value, however it ends.
    Raises:    InputError for another argument, and in a run without such a metric.
    Source:    Prechelt 1998.

    >>> import fnn, jax, jax.numpy as jnp
    >>> x = jnp.linspace(-1, 1, 64)[:, None]
    >>> _, history = fnn.fit(
    ...     fnn.dense(1), fnn.losses.squared_error(), fnn.optim.sgd(0.1), (x, 2 * x),
    ...     epochs=1000, batch_size=16, key=jax.random.key(0),
    ...     callbacks=[early_stopping(patience=2, min_delta=1e-6)],
    ... )
    >>> history.stopped, len(history.epoch_loss) < 100
    ('no better loss in 2 validations', True)
    """
    check.count(patience, "patience")
    check.flag(restore, "restore")
    return _EarlyStopping(_Watch(metric, best, min_delta), patience, restore)


class _ReduceOnPlateau(_Watching):
    def __init__(self, watch: _Watch, factor: float, patience: int, least: float, path: str | None):
        super().__init__(watch)
        self.factor, self.patience = factor, patience
        self.least, self.path = least, path

    def __call__(self, event: Event) -> Answer:
        if event.kind == "start":
            learning_rates(event.train_state, self.path)
            if not self.goes_on(event):
                self.watch.reset()
        value = self.watch.value(event)
        if value is None or self.watch.improves(value) or self.watch.waited < self.patience:
            return None
        self.watch.waited = 0
        return scale_learning_rate(event.train_state, self.factor, path=self.path, least=self.least)


@entry
def reduce_on_plateau(
    *,
    factor: float = 0.5,
    metric: str = "loss",
    best: Best = "lowest",
    patience: int = 5,
    min_delta: float = 0.0,
    least: float = 0.0,
    path: str | None = None,
) -> Callback:
    """Learning rate reduced on a plateau: by a factor, where a run has not become better.

    Nothing compiles again: the learning rate is an input of the program.

    Update:    learning_rate = max(factor learning_rate, least)

    Args:
        factor: in (0, 1).
        metric: which value of the validation is watched; without validation data the training loss
            of every epoch is.
        best: ``"lowest"`` or ``"highest"``.
        patience: after so many values without a better one.
        min_delta: by how much one has to be better.
        least: the learning rate is not reduced below.
        path: of the hyper-parameter, as in `fnn.TrainState.hyperparameters`; None for all of the
            name ``learning_rate``.
    Raises:    InputError for another argument, and in a run without such a metric or learning rate.

    >>> reduce_on_plateau(factor=0.1).factor
    0.1
    """
    check.number(factor, "factor", above=0, below=1)
    check.number(least, "least", least=0)
    check.count(patience, "patience")
    _check_path(path)
    return _ReduceOnPlateau(
        _Watch(metric, best, min_delta), float(factor), patience, float(least), path
    )


class _RollBack(_Counting):
    def __init__(self, factor: float, at_most: int, path: str | None):
        self.factor, self.at_most, self.path = factor, at_most, path
        self.times, self.lowest, self.seen = 0, math.inf, 0

    def get_state(self) -> bytes:
        return pack_counts(self.counts(), ())

    def counts(self) -> dict[str, float]:
        return {"times": self.times, "lowest": self.lowest, "seen": self.seen}

    def set_counts(self, counts: Mapping[str, float]) -> None:
        self.times, self.lowest = int(counts["times"]), float(counts["lowest"])
        self.seen = int(counts["seen"])

    def __call__(self, event: Event) -> Answer:
        if event.kind == "start":
            learning_rates(event.train_state, self.path)
            if not self.goes_on(event):
                self.times, self.lowest, self.seen = 0, math.inf, event.step
            # A run goes back to no step before its own first.
            self.kept = event.train_state
        elif event.kind in ("step", "epoch") and event.step > self.seen:
            # The end of an epoch shows losses that steps showed before.
            losses = event.losses[self.seen - event.step :]
            self.seen = event.step
            # Finite, and yet lost: numbers grow for some steps before they overflow.
            mean, self.lowest = float(np.mean(losses)), min(self.lowest, float(losses[0]))
            if mean <= 2 * self.lowest:
                self.kept, self.lowest = event.train_state, min(self.lowest, mean)
        if event.kind != "nonfinite" or self.kept is None or self.times == self.at_most:
            return None
        self.times += 1
        self.kept = scale_learning_rate(self.kept, self.factor, path=self.path)
        self.seen = int(self.kept.step)
        return self.kept


@entry
def roll_back(*, factor: float = 0.5, at_most: int = 3, path: str | None = None) -> Callback:
    """Roll-back: a run that lost its numbers goes on from before, with a smaller learning rate.

    It keeps a copy of the train state of every epoch, in `every` of every so many steps, unless
    their mean loss is more than twice the lowest so far. The history has the steps that count:
    those rolled back are forgotten.

    Update:    learning_rate = factor learning_rate, at each roll-back

    Args:
        factor: in (0, 1).
        at_most: how often, in a run; then it stops as it would without.
        path: of the hyper-parameter; None for all of the name ``learning_rate``.
    Raises:    InputError for another argument, and in a run without such a learning rate.

    >>> import fnn, jax, jax.numpy as jnp
    >>> x = jnp.linspace(-1, 1, 64)[:, None]
    >>> train_state, history = fnn.fit(
    ...     fnn.dense(1), fnn.losses.squared_error(), fnn.optim.sgd(64.0), (x, 2 * x), epochs=20,
    ...     batch_size=16, key=jax.random.key(0), callbacks=[roll_back(factor=0.01)],
    ... )
    >>> round(float(train_state.hyperparameters["optimizer/learning_rate"]), 2), len(history.loss)
    (0.64, 80)
    """
    check.number(factor, "factor", above=0, below=1)
    check.count(at_most, "at_most")
    _check_path(path)
    return _RollBack(float(factor), at_most, path)


def learning_rates(train_state: TrainState, path: str | None) -> list[str]:
    """Return the paths of the learning rates of a run.

    Args:
        train_state: its train state.
        path: the one that is meant, or None for all of the name ``learning_rate``.
    Raises:    InputError where there is none.
    """
    if not isinstance(train_state, TrainState):
        raise InputError("a train state", describe(train_state), "pass that of an event")
    _check_path(path)
    known = train_state.hyperparameters
    found = [name for name in known if name.split("/")[-1] == "learning_rate"]
    if path is not None:
        found = [path] if path in known else []
    if not found:
        raise InputError(
            "a learning rate that is one number" if path is None else f"a hyper-parameter {path!r}",
            f"hyper-parameters {sorted(known)}",
            "name one of them with path=",
        )
    return found


def _check_path(path: Unchecked) -> None:
    if path is not None:
        check.text(path, "path", "name a hyper-parameter, or pass None")


@entry
def scale_learning_rate(
    train_state: TrainState, factor: float, *, path: str | None = None, least: float = 0.0
) -> TrainState:
    """Return a train state with its learning rates multiplied: an answer of a callback.

    Args:
        train_state: of an event.
        factor: by what, above 0.
        path: of the hyper-parameter; None for all of the name ``learning_rate``.
        least: below which none falls; one that is below stays.
    Raises:    InputError for what is no train state, where there is no such learning rate, and for
        numbers below 0.

    >>> import fnn, jax, jax.numpy as jnp
    >>> start = fnn.init_train_state(
    ...     fnn.dense(2), fnn.optim.sgd(0.1), jnp.ones((1, 3)), key=jax.random.key(0)
    ... )
    >>> scale_learning_rate(start, 0.5).hyperparameters
    {'optimizer/learning_rate': 0.05}
    """
    check.number(factor, "factor", above=0)
    check.number(least, "least", least=0)
    names, numbers = learning_rates(train_state, path), dict(train_state.hyperparameters)
    for name in names:
        # As it prints in float32, and not in twice the digits.
        now = float(str(np.float32(numbers[name])))
        numbers[name] = max(factor * now, min(now, least))
    return train_state._replace(hyperparameters=numbers)


class _Checkpoint:
    saves = True

    def __init__(self, make: Callable[[], Unchecked], metric: str | None, at: tuple[str, ...]):
        self.make, self.metric, self.at = make, metric, at
        self.folder: Unchecked = None
        self.last = -1

    def __call__(self, event: Event) -> Answer:
        if event.kind == "start":
            if self.metric is not None and self.metric not in event.metrics:
                expected = f"validation data with the metric {self.metric!r}"
                raise InputError(expected, f"{sorted(event.metrics)}", "pass them to fit")
            self.last = event.step
            self.folder = self.make()
            with self._closed_after_an_error():
                self.folder.ready(event.train_state)
        elif event.kind == "end" and event.stopped == NONFINITE:
            pass
        elif event.kind in (*self.at, "end") or event.step < self.last:
            with self._closed_after_an_error():
                self._save(event)
        if event.kind == "end" and self.folder is not None:
            self.folder.close()
        return None

    def _save(self, event: Event) -> None:
        if event.step == self.last or self.folder is None:
            return
        train_state = event.train_state
        # One that was stopped may end with the train state of an earlier step.
        if int(train_state.step) == event.step:
            score = None if self.metric is None else event.metrics[self.metric]
            if event.step < self.last and score is not None:
                # The run went back, and what was measured last is of the branch that it left.
                score = math.nan
            self.folder.save(train_state, score=score, data_state=event.data_state)
            self.last = event.step

    @contextlib.contextmanager
    def _closed_after_an_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            folder, self.folder = self.folder, None
            folder.close()
            raise


@entry
def checkpoint(
    folder: Path | str,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    keep: int = 3,
    metric: str | None = None,
    best: Best = "lowest",
    model: Layer | None = None,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
) -> Callback:
    """Checkpoints: the train state in a folder, after epochs, steps or seconds, and at the end.

    They are written while training goes on, as `fnn.train.Checkpoints` does it; a run goes on from
    ``fnn.load_train_state(file, like)`` and ``fnn.train.checkpoint_info(file).data_state`` of
    ``file = fnn.train.latest_checkpoint(folder)``, and with the same callbacks as if nothing had
    been: what early stopping and its like have counted is in the file.

    Args:
        folder: made with those around it.
        steps: after so many steps, in place of every epoch.
        seconds: or after so much time.
        keep: how many of the last stay.
        metric: of the validation, by which the best one stays too; None for none.
        best: ``"lowest"`` or ``"highest"``.
        model: whose description is written beside the arrays.
        loss: likewise.
        optimizer: likewise.
    Raises:    InputError for a folder that cannot be written to, which the run notices before its
        first step.

    >>> import fnn, jax, jax.numpy as jnp, tempfile
    >>> folder, x = tempfile.mkdtemp(), jnp.ones((4, 1))
    >>> end, _ = fnn.fit(
    ...     fnn.dense(1), fnn.losses.squared_error(), fnn.optim.sgd(0.1), (x, x), epochs=5,
    ...     batch_size=2, key=jax.random.key(0), callbacks=[checkpoint(folder)],
    ... )
    >>> file = fnn.train.latest_checkpoint(folder)
    >>> int(fnn.load_train_state(file, like=end).step)
    10
    """
    as_path(folder, "folder")
    check.count(keep, "keep")
    if metric is not None:
        check.text(metric, "metric")
    check.one_of(best, "best", ("lowest", "highest"))

    def make() -> Unchecked:
        from fnn.train.files.checkpoint_folder import Checkpoints

        return Checkpoints(
            folder, keep=keep, best=None if metric is None else best, model=model, loss=loss,
            optimizer=optimizer,
        )  # fmt: skip

    if steps is None and seconds is None:
        return _Checkpoint(make, metric, ("epoch",))
    return every(_Checkpoint(make, metric, ("step",)), steps=steps, seconds=seconds)


class _Log:
    """Rows of a run: one for every event, written through `_begin`, `_write` and `_close`."""

    def __init__(self, place: Path):
        self.place = place
        self.began = 0.0

    def __call__(self, event: Event) -> Answer:
        if event.kind == "start":
            self.began = time.perf_counter()
            self._begin(event)
        elif event.kind in ("step", "epoch", "validation"):
            losses = event.losses
            row: dict[str, float | int | str] = {"event": event.kind, "step": event.step}
            row |= {"epoch": event.epoch, "seconds": round(time.perf_counter() - self.began, 3)}
            row["loss"] = float(np.mean(losses)) if len(losses) else math.nan
            self._write(row | {f"validation_{name}": v for name, v in event.metrics.items()})
        elif event.kind == "end":
            self._close()
        return None

    def _begin(self, event: Event) -> None:
        raise NotImplementedError

    def _write(self, row: Mapping[str, float | int | str]) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        """Do what is to be done at the end."""


class _LogCSV(_Log):
    def _begin(self, event: Event) -> None:
        names = ["event", "step", "epoch", "seconds", "loss"]
        self.names = names + [f"validation_{name}" for name in event.metrics]
        check_file(self.place)
        kept: list[dict[str, str]] = []
        if event.step and self.place.exists():
            with self.place.open(newline="") as file:
                kept = [row for row in csv.DictReader(file) if _step(row) <= event.step]
        with atomic_write(self.place) as temporary:
            temporary.write_text(self._lines(kept, header=True))

    def _write(self, row: Mapping[str, float | int | str]) -> None:
        with self.place.open("a", newline="") as file:
            file.write(self._lines([row], header=False))

    def _lines(self, rows: list[Unchecked], *, header: bool) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.names, extrasaction="ignore", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


class _LogJSON(_Log):
    def _begin(self, event: Event) -> None:
        check_file(self.place)
        kept: list[str] = []
        if event.step and self.place.exists():
            lines = self.place.read_text().splitlines(keepends=True)
            kept = [line for line in lines if _step(_parsed(line)) <= event.step]
        with atomic_write(self.place) as temporary:
            temporary.write_text("".join(kept))

    def _write(self, row: Mapping[str, float | int | str]) -> None:
        # JSON has no NaN.
        fine = {
            name: v if isinstance(v, str) or math.isfinite(v) else None for name, v in row.items()
        }
        with self.place.open("a") as file:
            file.write(json.dumps(fine) + "\n")


class _LogTensorBoard(_Log):
    def _begin(self, event: Event) -> None:
        library = require("tensorboardX", "train.callbacks.log_tensorboard", "log")
        output_folder(self.place)
        self.writer = library.SummaryWriter(str(self.place), purge_step=event.step + 1)

    def _write(self, row: Mapping[str, float | int | str]) -> None:
        for name in ("loss", *(name for name in row if name.startswith("validation_"))):
            self.writer.add_scalar(name, row[name], row["step"])

    def _close(self) -> None:
        self.writer.close()


def _parsed(line: str) -> dict[str, Unchecked]:
    """Return a row of a log; one that a killed run left unfinished is none."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _step(row: Mapping[str, Unchecked]) -> float:
    """Return the step of a row, infinite where it is none."""
    try:
        return int(row["step"])
    except (KeyError, TypeError, ValueError):
        return math.inf


@entry
def log_csv(file: Path | str) -> Callback:
    """Log in the CSV format: a row for every epoch and validation; in `every`, for steps too.

    Its columns are event, step, epoch, seconds, loss (the mean of the training loss since the last
    row of this event) and the metrics of the validation. A run that begins anew replaces the file;
    one that goes on keeps the rows up to its first step.

    Args:
        file: where to; its folder must exist.
    Raises:    InputError for a file that cannot be written to.

    >>> import fnn, jax, jax.numpy as jnp, pathlib, tempfile
    >>> file, x = pathlib.Path(tempfile.mkdtemp(), "log.csv"), jnp.ones((4, 1))
    >>> _ = fnn.fit(
    ...     fnn.dense(1), fnn.losses.squared_error(), fnn.optim.sgd(0.1), (x, x), epochs=2,
    ...     batch_size=2, key=jax.random.key(0), callbacks=[log_csv(file)],
    ... )
    >>> [line.split(",")[:3] for line in file.read_text().splitlines()]
    [['event', 'step', 'epoch'], ['epoch', '2', '0'], ['epoch', '4', '1']]
    """
    return _LogCSV(as_path(file))


@entry
def log_json(file: Path | str) -> Callback:
    """Log in JSON lines: an object for every epoch and validation; in `every`, for steps too.

    Its entries are those of `log_csv`; what is not finite is null.

    Args:
        file: where to; its folder must exist.
    Raises:    InputError for a file that cannot be written to.

    >>> import fnn, jax, jax.numpy as jnp, pathlib, tempfile
    >>> file, x = pathlib.Path(tempfile.mkdtemp(), "log.jsonl"), jnp.ones((4, 1))
    >>> _ = fnn.fit(
    ...     fnn.dense(1), fnn.losses.squared_error(), fnn.optim.sgd(0.1), (x, x), epochs=1,
    ...     batch_size=2, key=jax.random.key(0), callbacks=[log_json(file)],
    ... )
    >>> sorted(json.loads(file.read_text()))
    ['epoch', 'event', 'loss', 'seconds', 'step']
    """
    return _LogJSON(as_path(file))


@entry
def log_tensorboard(folder: Path | str) -> Callback:
    """Log for TensorBoard: losses and metrics for every epoch; in `every`, for steps too.

    Args:
        folder: made with those around it.
    Raises:    InputError for a folder that cannot be written to; ImportError without tensorboardX,
        which comes with ``fnn[log]``.

    >>> log_tensorboard("runs/first").place.name
    'first'
    """
    return _LogTensorBoard(as_path(folder, "folder"))
