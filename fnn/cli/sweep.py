"""Many runs as few programs: ``python -m fnn sweep``, and ``python -m fnn`` of several values."""

from __future__ import annotations

import csv
import functools
import json
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fnn import plot
from fnn._core.atomic_write import atomic_write, check_file, output_folder
from fnn._core.errors import InputError
from fnn._core.table import table
from fnn._core.types import Unchecked
from fnn.cli import pictures
from fnn.cli.data import IMAGES, problem
from fnn.cli.folder import (
    COMMAND,
    COORDINATES,
    CURVES,
    HEAT_MAP,
    PARTS,
    RECORD,
    TABLE,
    clear,
    refuse_interrupted,
)
from fnn.cli.ranges import Values, check_runs
from fnn.cli.run import DivergedError, Job, StoppedError, assemble, guessing
from fnn.cli.settings import LABELED, Settings, complete
from fnn.layer import Layer
from fnn.losses import Loss
from fnn.optim.optimizer import Optimizer
from fnn.train.loop._record import History
from fnn.train.sweep.points import Point, grid
from fnn.train.sweep.sweep import Sweep, sweep as sweep_runs

_WIDTH = 80
# More rows than these are told by the table on the disk alone.
_ROWS, _LINES = 30, 8
_SAMPLED = "seed"


def run_sweep(
    values: Values,
    output: Path,
    halving: Sequence[int] = (),
    members: int = 64,
    *,
    replace: bool = False,
) -> None:
    """Run every combination of settings; print means over seeds, write a table and pictures.

    What is finished is kept in the folder, and the same command goes on from there.

    Args:
        values: of every setting that is given.
        output: folder for the results.
        halving: as in `fnn.sweep`.
        members: as in `fnn.sweep`.
        replace: whether another sweep, or a run, in the folder gives way.
    Raises:    InputError for settings that do not go together, too many runs, and a folder in which
        another sweep, or a run, is; `StoppedError` where it was interrupted, and `DivergedError`
        where every run diverged.
    """
    began = time.perf_counter()
    jobs = _assembled(values)
    command = {"settings": _plain(values), "halving": list(halving)}
    folder = _opened(output, command, replace=replace)
    names = [name for name, given in values.items() if len(given) > 1]
    first = jobs[0]
    metric = next(iter(first.metrics))
    parts = _parts(jobs)
    guess = guessing(first.problem)
    print(
        f"{first.problem}\n{len(jobs)} runs of {first.settings.epochs} epochs;"
        f" the {metric} without looking at x: {guess:.4f}",
        flush=True,
    )
    histories: list[History | None] = [None] * len(jobs)
    programs = 0
    try:
        for number, part in enumerate(parts):
            found = _run_part(jobs, part, names, folder / PARTS / f"{number:04}", halving, members)
            programs += found.programs
            for i, history in zip(part, found.histories, strict=True):
                histories[i] = history
    except KeyboardInterrupt:
        raise StoppedError("interrupted; the same command goes on with it") from None
    points = [{name: getattr(job.settings, name) for name in names} for job in jobs]
    result = Sweep(points, [one for one in histories if one is not None], [], programs)
    named = "program" if programs == 1 else "programs"
    print(f"{programs} {named}, {time.perf_counter() - began:.1f} s\n")
    _print_table(result, f"validation {metric}", largest=bool(first.problem.classes))
    written = _write(result, folder, jobs, metric, guess)
    print("\n" + textwrap.fill(f"written to {folder}/: {', '.join(written)}", _WIDTH))
    if all(one.stopped and not one.stopped.startswith("it was behind") for one in result.histories):
        raise DivergedError("every run diverged; lower the learning rate")


def _run_part(
    jobs: Sequence[Job],
    part: Sequence[int],
    names: Sequence[str],
    folder: Path,
    halving: Sequence[int],
    members: int,
) -> Sweep:
    """Run the jobs that share data, batch size and estimator as one sweep."""
    first = jobs[part[0]]

    def build(number: int, **_: Unchecked) -> tuple[Layer, Loss, Optimizer]:
        job = jobs[number]
        return job.model, job.loss, job.optimizer

    points: list[Point] = []
    for i in part:
        settings = jobs[i].settings
        given = {name: getattr(settings, name) for name in names if name != _SAMPLED}
        points.append({"number": i, **given, "seed": settings.seed})
    return sweep_runs(
        build, points, first.train, epochs=first.settings.epochs or 0,
        batch_size=first.settings.batch_size or 1, gradient=first.gradient, validation=first.test,
        metrics=first.metrics, halving=tuple(halving), members=members, folder=folder,
    )  # fmt: skip


def _assembled(values: Values) -> list[Job]:
    """Return every run, made of its settings."""
    check_runs(values)
    points = grid(values)
    base = Settings(compare=False)
    cached = functools.cache(problem)
    jobs = []
    for point in points:
        settings = base._replace(**point)
        # The points of a toy, and what of a file is held out, are drawn with the seed.
        seed = 0 if settings.data in IMAGES else settings.seed
        learned = cached(settings.data, settings.data_folder, seed)
        if settings.epochs == 0 or complete(settings, learned).epochs == 0:
            raise InputError("epochs of 1 or more", "0", "train a sweep for some")
        jobs.append(assemble(learned, settings))
    return jobs


def _parts(jobs: Sequence[Job]) -> list[list[int]]:
    """Return which runs share data, targets, batch size and estimator, in their order."""
    found: dict[Unchecked, list[int]] = {}
    for i, job in enumerate(jobs):
        settings = job.settings
        targets = "labels" if settings.loss in LABELED else settings.loss
        gradient = job.gradient if isinstance(job.gradient, str) else repr(job.gradient)
        kind = id(job.problem), targets, settings.batch_size, gradient
        found.setdefault(kind, []).append(i)
    return list(found.values())


def _opened(output: Path, command: Mapping[str, Unchecked], *, replace: bool) -> Path:
    """Make the folder; where another sweep or a run is in it clear it of that, or raise."""
    folder = output_folder(output)
    for name in (COMMAND, TABLE, CURVES, COORDINATES, HEAT_MAP):
        check_file(folder / name)
    file = folder / COMMAND
    try:
        if file.exists():
            _check_same(file, command)
        elif (folder / RECORD).exists():
            remedy = "name another --output, or remove the folder"
            raise InputError("the folder of a sweep", f"{folder}, that of a run", remedy)
    except InputError:
        if not replace:
            raise
        refuse_interrupted(folder)
        clear(folder)
    if not file.exists():
        with atomic_write(file) as temporary:
            temporary.write_text(json.dumps(command, indent=1) + "\n", "utf-8")
    return folder


def _check_same(file: Path, command: Mapping[str, Unchecked]) -> None:
    """Raise where a file tells of another sweep, saying what differs first."""
    remedy = "name another --output, or remove the folder"
    try:
        known = json.loads(file.read_text("utf-8"))
        before = known["settings"] | {"halving": known["halving"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError("the folder of a sweep", f"{file} (damaged)", remedy) from error
    now = command["settings"] | {"halving": command["halving"]}
    for name in [*before, *(name for name in now if name not in before)]:
        if before.get(name) != now.get(name):
            expected = f"{name}={_text(before.get(name))}, as the sweep in {file.parent} has"
            raise InputError(expected, f"{name}={_text(now.get(name))}", remedy)


def _text(values: Unchecked) -> str:
    return "(nothing)" if not values else ",".join(map(str, values))


def _plain(values: Values) -> dict[str, Unchecked]:
    """Return values as JSON knows them."""
    return {
        name: [str(one) if isinstance(one, Path | tuple) else one for one in given]
        for name, given in values.items()
    }


def _print_table(result: Sweep, value: str, *, largest: bool) -> None:
    """Print the means over seeds, the best first, in 80 columns."""
    if value not in result.table():
        # Every run was lost before it was measured.
        value, largest = "loss", False
    rows = result.summary(value)
    found = np.array([row[value] for row in rows])
    order = np.argsort(np.where(np.isnan(found), np.inf, -found if largest else found))
    names = [name for name in rows[0] if name not in (value, "standard error", "runs", "stopped")]
    short = value.removeprefix("validation ")
    header = [*names, short, "error", "runs", "stopped"]
    cells = [[_word(rows[i][name]) for name in names]
             + [_number(rows[i][name]) for name in (value, "standard error")]
             + [str(rows[i][name]) for name in ("runs", "stopped")] for i in order]  # fmt: skip
    lines = table(header, cells[:_ROWS])
    if not names or max(map(len, lines.splitlines())) > _WIDTH:
        told = [", ".join(f"{n} {w}" for n, w in zip(names, row, strict=False)) for row in cells]
        shorter = [
            [one or "(all)", *row[len(names) :]] for one, row in zip(told, cells, strict=True)
        ]
        lines = table(["settings", *header[len(names) :]], shorter[:_ROWS], _WIDTH)
    print(lines)
    if len(cells) > _ROWS:
        print(f"the {_ROWS} best of {len(cells)}; all are in {TABLE}")


def _word(value: Unchecked) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"


def _write(
    result: Sweep, folder: Path, jobs: Sequence[Job], metric: str, guess: float
) -> list[str]:
    """Write the table of all runs and the pictures; return their names."""
    columns = result.table()
    with atomic_write(folder / TABLE) as temporary, temporary.open("w", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow([f"{v:.6g}" if isinstance(v, float) else _word(v) for v in row])
    value, largest = f"validation {metric}", bool(jobs[0].problem.classes)
    drawn: dict[str, Callable[[], Unchecked]] = {
        CURVES: lambda: _curves(result, value, metric, guess, largest)
    }
    settings = [name for name in result.points[0] if name != _SAMPLED]
    measured = value in columns
    if settings and measured:
        drawn[COORDINATES] = lambda: plot.parallel_coordinates(result, value, largest=largest)
    if len(settings) > 1 and measured:
        x, y = settings[:2]
        drawn[HEAT_MAP] = lambda: plot.heat_map(result, x, y, value, largest=largest)
    written = [TABLE]
    for name, draw in drawn.items():
        plot.save(draw(), folder / name)
        written.append(name)
    return written


def _curves(result: Sweep, value: str, metric: str, guess: float, largest: bool) -> Unchecked:
    """Draw the curves of the best settings, means over seeds."""
    rows = result.summary(value if value in result.table() else "loss")
    names = [name for name in result.points[0] if name != _SAMPLED] or list(result.points[0])
    labels = [", ".join(f"{n.replace('_', ' ')} {_word(point[n])}" for n in names) or "all"
              for point in result.points]  # fmt: skip
    found = np.array([row.get(value, row.get("loss")) for row in rows])
    order = np.argsort(np.where(np.isnan(found), np.inf, -found if largest else found))
    groups = list(dict.fromkeys(labels))
    ranked = [groups[i] for i in order] if len(groups) == len(rows) else groups
    shown = set(ranked[:_LINES])
    kept = [i for i, label in enumerate(labels) if label in shown]
    histories = [result.histories[i] for i in kept]
    return pictures.runs([labels[i] for i in kept], histories, metric, guess)
