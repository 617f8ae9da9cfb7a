"""Several runs at once: every combination of the values given, in one table and one picture."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fnn import plot
from fnn._core.atomic_write import atomic_write, check_file, output_folder
from fnn._core.errors import InputError
from fnn._core.types import Unchecked
from fnn.cli import pictures
from fnn.cli.data import Problem
from fnn.cli.run import (
    DivergedError,
    Job,
    NotWrittenError,
    Outcome,
    guessing,
    open_folder,
    prepare,
    save,
    start,
    train,
)
from fnn.cli.settings import Settings
from fnn.train.sweep.points import grid

TABLE, PICTURE = "runs.csv", "runs.png"
_MOST = 24


def combinations(settings: Settings, values: Mapping[str, Sequence[Unchecked]]) -> list[Settings]:
    """Return the settings of every run.

    Args:
        settings: what all have in common.
        values: those of each setting that differs, by its name.
    Raises:    InputError for too many runs, and for a value that is given twice.

    >>> made = combinations(Settings(), {"seed": (0, 1), "momentum": (0.5, 0.9)})
    >>> [(one.seed, one.momentum) for one in made]
    [(0, 0.5), (0, 0.9), (1, 0.5), (1, 0.9)]
    """
    points = grid(values)
    if len(points) > _MOST:
        raise InputError(f"{_MOST} runs at most", str(len(points)), "give fewer values")
    return [settings._replace(**point) for point in points]


def several_runs(
    learned: Callable[[int], Problem],
    settings: Settings,
    values: Mapping[str, Sequence[Unchecked]],
) -> None:
    """Run every combination, print a row for each as it ends, and draw all in one picture.

    Each run has a folder of its own beside the table and the picture. Numbers are inputs of the
    compiled program: runs that differ by them alone share one.

    Args:
        learned: takes a seed to what is learned: the points of a toy are drawn with it.
        settings: what all runs have in common.
        values: those of each setting that differs, by its name.
    Raises:    InputError for settings that do not go together; `DivergedError` where every run
        diverged, and `NotWrittenError` where something was not written.
    """
    began = time.perf_counter()
    names = list(values)
    jobs = [
        prepare(
            learned(one.seed),
            one._replace(compare=False, output=settings.output / _folder(one, names)),
        )
        for one in combinations(settings, values)
    ]
    folder = output_folder(settings.output)
    for name in (TABLE, PICTURE):
        check_file(folder / name)
    folders = [open_folder(job) for job in jobs]
    metric = next(iter(jobs[0].metrics))
    guess = guessing(jobs[0].problem)
    print(f"{jobs[0].problem}\n{len(jobs)} runs; the {metric} without looking at x: {guess:.4f}\n")
    columns = [max(len(n), *(len(_word(job, n)) for job in jobs)) for n in names]
    print("  ".join([*map(str.ljust, names, columns), "    loss", metric]), flush=True)
    failed: dict[str, str] = {}
    outcomes: list[Outcome] = []
    for job, inside in zip(jobs, folders, strict=True):
        train_state, outcome = train(job, start(job), progress=False)
        for name, why in save(job, inside, train_state, outcome).items():
            failed[f"{inside.name}/{name}"] = why
        outcomes.append(outcome)
        words = [_word(job, name).ljust(width) for name, width in zip(names, columns, strict=True)]
        print("  ".join([*words, *_results(outcome)]), flush=True)
    failed |= _save_all(folder, names, jobs, outcomes, guess)
    print(
        f"\nall together {time.perf_counter() - began:.1f} s\n"
        f"written to {folder}/: {TABLE}, {PICTURE} and a folder for each run"
    )
    if failed:
        raise NotWrittenError("; ".join(f"{n} was not written ({e})" for n, e in failed.items()))
    if all(outcome.diverged for outcome in outcomes):
        raise DivergedError(f"every run diverged; the last: {outcomes[-1].diverged}")


def _word(job: Job, name: str) -> str:
    """Return a setting of a run as it was given."""
    value = getattr(job.settings, name)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _folder(settings: Settings, names: Sequence[str]) -> str:
    """Return the name of the folder of a run."""
    values = [getattr(settings, name) for name in names]
    shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    return ",".join(f"{n}={word}" for n, word in zip(names, shown, strict=True))


def _results(outcome: Outcome) -> list[str]:
    """Return the loss and the metric of a run in words."""
    losses = outcome.history.epoch_loss
    loss = f"{losses[-1]:8.4f}" if len(losses) else "       -"
    return [loss, "diverged" if outcome.diverged else f"{outcome.score:.4f}"]


def _save_all(
    folder: Path,
    names: Sequence[str],
    jobs: Sequence[Job],
    outcomes: Sequence[Outcome],
    guess: float,
) -> dict[str, str]:
    """Write the table and the picture of all runs; return what could not be, with the reason."""
    metric = next(iter(jobs[0].metrics))

    def table() -> None:
        with atomic_write(folder / TABLE) as temporary, temporary.open("w", newline="") as text:
            writer = csv.writer(text)
            writer.writerow([*names, "training_loss", f"held_out_{metric}", "diverged"])
            for job, outcome in zip(jobs, outcomes, strict=True):
                last = outcome.history.epoch_loss[-1:]
                row = [_word(job, name) for name in names]
                numbers = [f"{value:.6g}" for value in (*last, outcome.score)]
                writer.writerow([*row, *numbers, bool(outcome.diverged)])

    def picture() -> None:
        # Seeds are samples of one setting, unless nothing else differs.
        told = [name for name in names if name != "seed"] or names
        labels = [
            ", ".join(f"{name.replace('_', ' ')} {_word(job, name)}" for name in told)
            for job in jobs
        ]
        histories = [outcome.history for outcome in outcomes]
        plot.save(pictures.runs(labels, histories, metric, guess), folder / PICTURE)

    failed: dict[str, str] = {}
    for name, write in ((TABLE, table), (PICTURE, picture)):
        try:
            write()
        except Exception as error:
            # Whatever it is, the runs are not to be lost by it.
            failed[name] = f"{type(error).__name__}: {error}"
    return failed
