"""Sweep: many runs of `fnn.fit` that differ in numbers, as few compiled programs."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fnn._core import check
from fnn._core.description import split
from fnn._core.errors import InputError, describe, entry
from fnn._core.table import table
from fnn._core.types import Data, Input, Scalar, Unchecked
from fnn.gradient.objective import Batch, Gradient, as_batch
from fnn.layer import Layer
from fnn.losses import Loss
from fnn.optim.optimizer import Optimizer
from fnn.train.data._order import EpochOrder
from fnn.train.data.batch import check_batch_size, check_data, length
from fnn.train.data.stream import Arrays, open_source, row_check
from fnn.train.fit import key_words
from fnn.train.loop._events import NONFINITE
from fnn.train.loop._nonfinite import finite_leaves
from fnn.train.loop._program import Transform, check_transform, no_losses, transformed_spec
from fnn.train.loop._record import History
from fnn.train.metrics import Metrics, check_metrics
from fnn.train.precision import Precision
from fnn.train.sharding import Sharding
from fnn.train.step import TrainState, TrainStep, init_train_state, train_step
from fnn.train.sweep._folder import (
    Folder,
    Member,
    about_runs,
    digest,
    in_words,
    on_host,
    opened,
    versions,
)
from fnn.train.sweep._members import (
    Devices,
    How,
    devices_of,
    evaluate_members,
    placed,
    placed_states,
    run_members,
    stacked,
    take,
)
from fnn.train.sweep.points import Point, grid

Build: TypeAlias = Callable[..., tuple[Layer, Loss, Optimizer]]
Summary: TypeAlias = list[dict[str, Unchecked]]
_HALVED = "it was behind, and halving ended it"
# Validation of a sweep reads so many examples at a time, as that of fit does.
_EVALUATED = 1024


class Sweep(NamedTuple):
    """What came of a sweep, run by run in the order of the points.

    Args:
        points: the settings of every run.
        histories: of every run, as `fnn.fit` returns them; the times are those of the whole sweep.
        train_states: of every run, as numpy arrays: go on with `fnn.fit(..., start=)`.
        programs: how many programs were compiled for the steps.
    """

    points: list[Point]
    histories: list[History]
    train_states: list[TrainState]
    programs: int

    def __repr__(self) -> str:
        """Say what came of it in words: the means over seeds and folds, a row for each setting."""
        rows = self.summary()
        names = list(dict.fromkeys(name for row in rows for name in row))
        return table(names, [[_shown(row.get(name, "")) for name in names] for row in rows])

    def table(self) -> dict[str, list[Unchecked]]:
        """Return columns by name: settings, last losses and metrics; `pandas.DataFrame` takes them.

        >>> Sweep([{"rate": 0.1}], [History(*2 * [np.ones(1)], {}, 0.0, 0.0)], [], 1).table()
        {'rate': [0.1], 'loss': [1.0], 'steps': [1], 'stopped': ['']}

        """
        names = dict.fromkeys(name for point in self.points for name in point)
        columns: dict[str, list[Unchecked]] = {
            name: [point.get(name) for point in self.points] for name in names
        }
        columns["loss"] = [_last(one.epoch_loss) for one in self.histories]
        measured = dict.fromkeys(name for one in self.histories for name in one.validation)
        for name in measured:
            found = [one.validation.get(name, no_losses(0)) for one in self.histories]
            columns[f"validation {name}"] = [_last(values) for values in found]
        columns["steps"] = [len(one.loss) for one in self.histories]
        columns["stopped"] = [one.stopped for one in self.histories]
        return columns

    def _columns_with(self, value: str) -> dict[str, list[Unchecked]]:
        """Return the table, or raise unless a value is one of its columns."""
        columns = self.table()
        check.one_of(value, "a column", columns, "name one of these")
        return columns

    def summary(self, value: str = "loss", *, over: Sequence[str] = ("seed", "fold")) -> Summary:
        """Return mean and standard error of a value over runs that differ in seed or fold alone.

        Runs that were stopped count as what they are: they are told in ``stopped``, and stand in no
        mean.

        Args:
            value: a column of `table`.
            over: the settings to take means over.
        Raises:    InputError for no such column.
        """
        columns = self._columns_with(value)
        groups: dict[tuple[Unchecked, ...], list[int]] = {}
        for i, point in enumerate(self.points):
            rest = tuple((name, repr(point[name])) for name in point if name not in over)
            groups.setdefault(rest, []).append(i)
        rows = []
        for members in groups.values():
            point = self.points[members[0]]
            whole = [i for i in members if not columns["stopped"][i]]
            found = np.array([columns[value][i] for i in whole], np.float64)
            error = found.std(ddof=1) / np.sqrt(len(found)) if len(found) > 1 else np.nan
            mean = found.mean() if len(found) else np.nan
            rows.append(
                {name: point[name] for name in point if name not in over}
                | {value: float(mean), "standard error": float(error), "runs": len(members)}
                | {"stopped": len(members) - len(whole)}
            )
        return rows

    def best(self, value: str = "validation loss", *, largest: bool = False) -> int:
        """Return the number of the run with the least value, of those that came to their end.

        Args:
            value: a column of `table`.
            largest: take the largest, as of an accuracy.
        Raises:    InputError for no such column, and where no run came to its end.
        """
        check.flag(largest, "largest")
        columns = self._columns_with(value)
        whole = [i for i, why in enumerate(columns["stopped"]) if not why]
        if not whole:
            remedy = "look at table()['stopped']"
            raise InputError("a run that came to its end", "none", remedy)
        sign = -1 if largest else 1
        return min(whole, key=lambda i: sign * columns[value][i])


class _Plan(NamedTuple):
    """What all runs have in common."""

    data: Batch
    batch_size: int
    held_out: Batch | None
    metrics: Metrics
    transform: Transform | None
    folds: int | None
    how: How
    devices: Devices | None

    def rows(self, fold: int | None) -> tuple[int, int]:
        """Return the first and the last but one of the examples that a fold holds out."""
        if fold is None or self.folds is None:
            return 0, 0
        each = length(self.data.x) // self.folds
        return fold * each, (fold + 1) * each


@entry
def sweep(
    build: Build,
    points: Mapping[str, Sequence[Unchecked]] | Sequence[Point],
    data: Data,
    *,
    epochs: int,
    batch_size: int,
    gradient: Gradient = "manual",
    precision: Precision | None = None,
    transform: Transform | None = None,
    validation: Data | None = None,
    metrics: Metrics | None = None,
    folds: int | None = None,
    halving: Sequence[int] = (),
    how: How = "map",
    members: int = 64,
    folder: Path | str | None = None,
    mesh: Mesh | None = None,
    sharding: Sharding | None = None,
) -> Sweep:
    """Train a model at many settings, and return what came of every run.

    Run i is ``fnn.fit(*build(**point), data, key=jax.random.key(seed), ...)`` alone: to the last
    bit where `how` is ``"map"`` or ``"turn"``, to rounding where it is ``"vmap"``. Settings that
    are numbers (learning rates, noise, dropout rates, seeds) share one compiled program; what
    shapes a program (a width, a flag) has a program of its own. Several devices share the runs; of
    a mesh of two axes and more each run has the devices along all but the first, and computes there
    what it does alone to rounding.

    A run whose parameters are not finite is stopped, and takes no more time.

    Args:
        build: takes the settings of a point but its seed and fold, by name, and returns
            ``(model, loss, optimizer)``.
        points: values of each setting by its name, for every combination of them, see
            `fnn.train.grid`; or a list of points, as `fnn.train.random_points` and
            `fnn.train.sobol_points` draw them. Every point has a ``"seed"``.
        data: ``(x, target)`` or ``(x, target, weights)``, arrays in memory.
        epochs: how often to go through the data.
        batch_size: examples in a step.
        gradient: as in `fnn.fit`.
        precision: as in `fnn.fit`.
        transform: of the batches, as in `fnn.fit`.
        validation: data held out, to evaluate every run after every epoch.
        metrics: functions ``(prediction, target) -> values`` by name, for validation data.
        folds: of cross-validation: every point then runs once for each fold k, which is validated
            on, with the other examples to train on, and has ``"fold"`` k. What does not divide into
            folds of one size is trained on.
        halving: successive halving: epochs after which the half of the runs that are behind, by the
            validation loss or else by the training loss, end. The folds of a point are judged by
            their mean, and end together.
        how: ``"map"`` for runs one after the other in one program, ``"vmap"`` for runs side by side
            in one, for accelerators (on a CPU it gains nothing), ``"turn"`` for a program of one
            run called for each.
        members: how many runs a program has at most; their train states are on the device at once.
        folder: where the runs of a program are written when they are done, whole or not at all: the
            same call goes on from there after it was killed, to the same bits. Fewer `members`
            write more often.
        mesh: devices, the runs shared over the first axis; over the others each run is trained as
            `fnn.fit` does on a mesh of these. None for all devices along one axis.
        sharding: where parameters and optimizer state of a run lie over the other axes, as in
            `fnn.fit`; None for ``"data"``. A run is drawn on one device, and ends on the host.
    Raises:    InputError as `fnn.fit` does, for points without a seed, and for a folder in which
        another sweep is, with the first difference: of settings, models, data or versions; for a
        sharding beside a mesh of one axis, one of several processes, and ``how="turn"`` on a mesh.
    Source:    Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and
        hyperparameter optimization", for `halving`.

    >>> import fnn, jax.numpy as jnp
    >>> x = jnp.linspace(-1, 1, 32)[:, None]
    >>> def build(learning_rate):
    ...     return fnn.dense(1), fnn.losses.squared_error(), fnn.optim.sgd(learning_rate)
    >>> result = sweep(
    ...     build, {"learning_rate": [0.01, 0.1, 100.0], "seed": range(2)}, (x, 2 * x),
    ...     epochs=30, batch_size=8,
    ... )
    >>> result.programs, result.points[result.best("loss")]["learning_rate"]
    (1, 0.1)
    >>> [(row["runs"], row["stopped"]) for row in result.summary()]
    [(2, 0), (2, 0), (2, 2)]

    """
    began = time.perf_counter()
    check.one_of(how, "how", ("map", "vmap", "turn"))
    devices = devices_of(mesh, sharding, how)
    check.count(members, "members")
    check.count(epochs, "epochs")
    _check_held_out(validation, metrics, folds)
    check_transform(transform)
    if folds is not None:
        check.count(folds, "folds", least=2)
    rungs = _rungs(halving, epochs)
    found = _checked_points(points, folds)
    source = open_source(data, batch_size)
    if not isinstance(source, Arrays):
        raise InputError("arrays in memory", describe(data), "call fnn.fit for each point")
    if folds is not None:
        if folds > source.examples:
            got, remedy = f"folds={folds}", "pass fewer folds"
            raise InputError(f"{source.examples} folds at most", got, remedy)
        check_batch_size(batch_size, source.examples - source.examples // folds)
    x = transformed_spec(transform, source.spec).x
    runs = list(_begun(build, found, x, gradient, precision))
    batch, held_out = _checked_data(runs, source.batch, validation, metrics, transform)
    plan = _Plan(
        batch, batch_size, held_out, check_metrics(metrics), transform, folds, how, devices
    )
    about = {} if folder is None else _about(plan, found, runs, rungs, members, gradient, precision)
    with opened(folder, about) as kept:
        _go_through(plan, runs, rungs, members, kept)
    seconds = time.perf_counter() - began
    histories = [_history(run, seconds) for run in runs]
    states = [run.train_state for run in runs]
    return Sweep(found, histories, states, len({run.step for run in runs}))


def _about(
    plan: _Plan, points: Sequence[Point], runs: Sequence[Member], rungs: Sequence[int],
    members: int, gradient: Gradient, precision: Precision | None,
) -> dict[str, Unchecked]:  # fmt: skip
    """Return what tells a sweep from another one, to be written beside its runs."""
    named: dict[str, Unchecked] = {"gradient": gradient, "precision": precision}
    named |= {"transform": plan.transform, "metrics": dict(plan.metrics)}
    layout = plan.devices and plan.devices.layout
    named |= {"sharding": layout and layout.rules}
    return {
        "epochs": rungs[-1],
        "halving": list(rungs[:-1]),
        "batch_size": plan.batch_size,
        "folds": plan.folds,
        "how": plan.how,
        "members": members,
        "mesh": None if plan.devices is None else dict(plan.devices.mesh.shape),
        **{name: in_words(value) for name, value in named.items()},
        "runs": about_runs(points, runs),
        "data": digest(plan.data),
        "validation": digest(plan.held_out),
        "versions": versions(),
    }


def _go_through(
    plan: _Plan, runs: Sequence[Member], rungs: Sequence[int], members: int, kept: Folder | None
) -> None:
    """Train all runs to the end, but those that a folder has."""
    epoch, together = 0, plan.folds or 1
    for rung in rungs:
        going = [run for run in runs if not run.stopped]
        for i, chunk in enumerate(_chunks(going, members)):
            if kept is None or not kept.restore(rung, i, chunk):
                _train(plan, chunk, epoch, rung)
                if kept is not None:
                    kept.save(rung, i, chunk)
        epoch = rung
        if rung != rungs[-1]:
            _halve([runs[i : i + together] for i in range(0, len(runs), together)])


def _check_held_out(validation: Data | None, metrics: Metrics | None, folds: Unchecked) -> None:
    """Raise for folds beside validation data, and for metrics without either."""
    if folds is not None:
        if validation is not None:
            got, remedy = "both", "leave one out: each fold is validated on"
            raise InputError("validation data or folds", got, remedy)
    elif metrics is not None and validation is None:
        remedy = "pass validation=(x, target) or folds="
        raise InputError("validation data for the metrics", "none", remedy)


def _rungs(halving: Unchecked, epochs: int) -> list[int]:
    """Return the epochs at which runs are compared, and the last."""
    if not isinstance(halving, tuple | list | range):
        raise InputError("a list of epochs", describe(halving), "pass halving=(1, 3, 9)")
    for one in halving:
        check.count(one, "halving")
    rungs = [*halving, epochs]
    if sorted(set(rungs)) != rungs:
        remedy = f"pass epochs that grow, below epochs={epochs}"
        raise InputError("growing epochs below the last", describe(halving), remedy)
    return rungs


def _checked_points(points: Unchecked, folds: int | None) -> list[Point]:
    """Return the points, one for each fold, or raise for what are none."""
    found = grid(points) if isinstance(points, Mapping) else points
    listed = isinstance(found, list | tuple) and all(isinstance(one, Mapping) for one in found)
    if not listed or not found:
        remedy = "pass a dict of lists, or what fnn.train.random_points returns"
        raise InputError("points", describe(points), remedy)
    for point in found:
        if "seed" not in point:
            remedy = 'give every point a "seed": its key is jax.random.key(seed)'
            raise InputError("a seed in every point", describe(sorted(point)), remedy)
        check.count(point["seed"], "seed", least=0)
        if "fold" in point:
            raise InputError("no fold in a point", describe(sorted(point)), "pass folds=")
    if folds is None:
        return [dict(point) for point in found]
    return [dict(point) | {"fold": fold} for point in found for fold in range(folds)]


def _begun(
    build: Build,
    points: Sequence[Point],
    x: Input,
    gradient: Gradient,
    precision: Precision | None,
) -> Iterator[Member]:
    """Yield every run as it begins."""
    remedy = "pass a function of the settings that returns (model, loss, optimizer)"
    names = ", ".join(name for name in points[0] if name not in ("seed", "fold"))
    check.function(build, "build", remedy, takes=f"*, {names}")
    drawn: dict[Unchecked, TrainState] = {}
    for number, point in enumerate(points):
        settings = {name: value for name, value in point.items() if name not in ("seed", "fold")}
        made: Unchecked = build(**settings)
        if not isinstance(made, tuple) or len(made) != 3:
            remedy = "return these three from build"
            raise InputError("(model, loss, optimizer) of build", describe(made), remedy)
        model, loss, optimizer = made
        step = train_step(model, loss, optimizer, gradient, precision)
        init = functools.partial(
            init_train_state, model, optimizer, x, gradient=gradient, precision=precision
        )
        # Equal models and optimizers draw the same from one key, whatever the fold.
        same = model, optimizer, int(point["seed"])
        if same not in drawn:
            drawn[same] = init(key=jax.random.key(int(point["seed"])))
        start = drawn[same]
        yield Member(number, model, loss, optimizer, point.get("fold"), step, start)


def _checked_data(
    runs: Sequence[Member],
    data: Batch,
    validation: Data | None,
    metrics: Metrics | None,
    transform: Transform | None,
) -> tuple[Batch, Batch | None]:
    """Return the data and the validation data on the device, held against every kind of run."""
    held_out = None
    for run in {run.step: run for run in reversed(runs)}.values():
        place = run.train_state.params, run.train_state.state
        data = row_check(run.model, run.loss, transform, *place)(data, whole=True)
        if validation is not None:
            held_out = check_data(run.model, run.loss, *place, as_batch(validation), metrics)
    return data, held_out


def _chunks(runs: Sequence[Member], members: int) -> Iterator[list[Member]]:
    """Yield runs that share a program, so many at a time."""
    groups: dict[TrainStep, list[Member]] = {}
    for one in runs:
        groups.setdefault(one.step, []).append(one)
    for group in groups.values():
        # Chunks of one size share a program.
        count = -(-len(group) // members)
        size = -(-len(group) // count)
        for begin in range(0, len(group), size):
            chunk = group[begin : begin + size]
            yield chunk + [_resting(chunk[0])] * (size - len(chunk) if begin else 0)


def _resting(run: Member) -> Member:
    """Return a member that fills a place: it takes no step, and nobody asks for it."""
    return replace(run, number=-1, losses=[], measured=[], epoch_losses=[], stopped="nobody")


def _train(plan: _Plan, chunk: Sequence[Member], begin: int, end: int) -> None:
    """Train the runs of a chunk from one epoch to another."""
    count = len(chunk)
    devices = plan.devices
    spare = 0 if devices is None else -count % devices.mesh.shape[devices.axis]
    chunk = [*chunk, *[_resting(chunk[0])] * spare]
    step, first = chunk[0].step, chunk[0].train_state
    watched = finite_leaves(first.params)
    seeds = [key_words(one.train_state.key) for one in chunk]
    states = placed_states(devices, [one.train_state for one in chunk])
    alive = np.array([not one.stopped for one in chunk])
    for epoch in range(begin, end):
        losses = []
        for orders in _orders(plan, chunk, seeds, epoch):
            room = np.stack([no_losses(orders.shape[1])] * len(chunk))
            given = placed(devices, orders), placed(devices, room)
            states, values, now = run_members(
                plan.how, devices, step, plan.transform, states, plan.data, *given, watched,
                placed(devices, alive),
            )  # fmt: skip
            alive = np.asarray(now)
            losses.append((orders.shape[2], np.asarray(values)))
        _note(chunk, losses, np.asarray(states.step), alive)
        for one, measured in zip(chunk, _measured(plan, chunk, states), strict=True):
            if not one.stopped:
                one.measured.append(measured)
    host = jax.tree.map(on_host, states)
    for i, one in enumerate(chunk):
        one.train_state = take(host, i)


def _orders(
    plan: _Plan, chunk: Sequence[Member], seeds: Sequence[list[int]], epoch: int
) -> list[np.ndarray]:
    """Return which examples every step takes, of all members: whole batches, and the rest."""
    rows = []
    for one, seed in zip(chunk, seeds, strict=True):
        start, stop = plan.rows(one.fold)
        examples = length(plan.data.x) - (stop - start)
        order = EpochOrder(seed, epoch, examples).rows(0, examples)
        # What the fold holds out is left out, and the rest closes up.
        rows.append(np.where(order < start, order, order + (stop - start)).astype(order.dtype))
    every = np.stack(rows)
    full = every.shape[1] // plan.batch_size * plan.batch_size
    parts = []
    if full:
        parts.append(every[:, :full].reshape(len(chunk), -1, plan.batch_size))
    if full < every.shape[1]:
        parts.append(every[:, None, full:])
    return parts


def _note(
    chunk: Sequence[Member],
    losses: Sequence[tuple[int, np.ndarray]],
    steps: np.ndarray,
    alive: np.ndarray,
) -> None:
    """Note the losses of an epoch with every run that took steps in it, and who is stopped."""
    for i, one in enumerate(chunk):
        if one.stopped:
            continue
        values = np.concatenate([part[i] for _, part in losses])
        sizes = np.concatenate([np.full(part.shape[1], size) for size, part in losses])
        taken = int(steps[i]) - sum(map(len, one.losses))
        one.losses.append(values[:taken])
        if taken:
            one.epoch_losses.append(float(values[:taken] @ sizes[:taken] / sizes[:taken].sum()))
        if not alive[i]:
            one.stopped = NONFINITE


def _measured(plan: _Plan, chunk: Sequence[Member], states: TrainState) -> list[dict[str, float]]:
    """Return loss and metrics of every member on what is held out."""
    if plan.held_out is None and plan.folds is None:
        return [{} for _ in chunk]
    made = [split(model=one.model, functions={"loss": one.loss, **plan.metrics}) for one in chunk]
    structure = made[0][0]
    numbers: dict[str, Scalar] = placed(
        plan.devices,
        stacked([{name: jnp.asarray(v) for name, v in numbers.items()} for _, numbers in made]),
    )
    rows, data = None, plan.held_out
    if data is None:
        data = plan.data
        held_out = [np.arange(*plan.rows(one.fold), dtype=np.int32) for one in chunk]
        rows = placed(plan.devices, np.stack(held_out))
    size = min(plan.batch_size, _EVALUATED)
    how: How = "map" if plan.how == "turn" else plan.how
    found = evaluate_members(how, plan.devices, structure, numbers, states, data, rows, size)
    values = {name: np.asarray(found[name]) for name in ("loss", *plan.metrics)}
    return [{name: float(value[i]) for name, value in values.items()} for i in range(len(chunk))]


def _halve(points: Sequence[Sequence[Member]]) -> None:
    """Stop the half of the points that are behind, each with all of its folds."""

    def behind(run: Member) -> float:
        value = run.measured[-1]["loss"] if run.measured and run.measured[-1] else None
        loss = run.epoch_losses[-1] if value is None else value
        return loss if np.isfinite(loss) else np.inf

    going = [[run for run in runs if not run.stopped] for runs in points]
    order = sorted(filter(None, going), key=lambda runs: np.mean([behind(run) for run in runs]))
    for runs in order[-(-len(order) // 2) :]:
        for run in runs:
            run.stopped = _HALVED


def _history(run: Member, seconds: float) -> History:
    """Return the history of a run."""
    loss = np.concatenate([no_losses(0), *run.losses])
    names = run.measured[0] if run.measured else {}
    validation = {name: np.array([one[name] for one in run.measured]) for name in names}
    epoch_loss = np.array(run.epoch_losses, np.float64)
    return History(loss, epoch_loss, validation, 0.0, seconds, run.stopped)


def _last(values: np.ndarray) -> float:
    return float(values[-1]) if len(values) else float("nan")


def _shown(value: Unchecked) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
