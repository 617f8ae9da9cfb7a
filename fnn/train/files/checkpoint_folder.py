"""Checkpoints of a run in a folder: the last ones and the best, written while training goes on."""

from __future__ import annotations

import functools
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeAlias

from fnn._core import check
from fnn._core.atomic_write import FolderLock, as_path, output_folder
from fnn._core.errors import InputError, describe, entry, named
from fnn._core.types import Unchecked
from fnn.layer import Layer
from fnn.losses import Loss
from fnn.optim.optimizer import Optimizer
from fnn.train.files._arrays_file import Content, content_size, write_content
from fnn.train.files._closing import Closing
from fnn.train.files.checkpoint import DataState, checkpoint_info, pack_train_state
from fnn.train.step import TrainState

Best: TypeAlias = Literal["lowest", "highest"]
# Errors of a method bear the name of the class.
_entry = functools.partial(named, "fnn.train.Checkpoints")
_NAME = re.compile(r"step-(\d{12,})\.safetensors")


class Checkpoints(Closing):
    """Folder of checkpoints: the last ones and the best, written while training goes on.

    `save` copies the train state to the host and returns; a thread writes it meanwhile. An error of
    the thread is raised by the next call. As long as it is open no other run can write into the
    folder. Use it in a ``with`` statement, which waits for the last file at the end.

    Args:
        folder: made with those around it.
        keep: how many of the last checkpoints stay.
        best: which score is the best, ``"lowest"`` or ``"highest"``: the checkpoint that has it
            stays too. None where `save` is given none.
        model: the model, whose description is written beside the arrays.
        loss: the loss, likewise.
        optimizer: the optimizer, likewise.
    Raises:    InputError for a folder that cannot be written to, or into which another run writes.

    >>> import fnn, jax, jax.numpy as jnp, tempfile
    >>> start = fnn.init_train_state(
    ...     fnn.dense(1), fnn.optim.sgd(0.5), jnp.ones((1, 2)), key=jax.random.key(0)
    ... )
    >>> with Checkpoints(tempfile.mkdtemp(), keep=2, best="lowest") as checkpoints:
    ...     for step, score in enumerate([0.3, 0.1, 0.2, 0.4]):
    ...         checkpoints.save(start._replace(step=jnp.int32(step)), score=score)
    >>> [checkpoint_info(file).step for file in checkpoint_files(checkpoints.folder)]
    [1, 2, 3]
    >>> checkpoint_info(best_checkpoint(checkpoints.folder)).step
    1
    """

    @_entry
    def __init__(
        self,
        folder: Path | str,
        *,
        keep: int = 3,
        best: Best | None = None,
        model: Layer | None = None,
        loss: Loss | None = None,
        optimizer: Optimizer | None = None,
    ):
        check.count(keep, "keep")
        if best is not None:
            check.one_of(best, "best", ("lowest", "highest"), "pass one of them, or None")
        self.folder = output_folder(folder)
        self._keep, self._best, self._described = int(keep), best, (model, loss, optimizer)
        self._lock = FolderLock(self.folder)
        self._thread = ThreadPoolExecutor(1, "fnn-checkpoints")
        self._pending: Future[None] | None = None
        # Read once: the headers of a long run are not read again after every write.
        self._scores = {_step_of(file): _score_of(file) for file in checkpoint_files(self.folder)}
        self._own: set[int] = set()

    @_entry
    def ready(self, train_state: TrainState) -> None:
        """Raise unless a run can go on from a train state here: call it before training.

        Args:
            train_state: where the run begins.
        Raises:    InputError where the folder holds checkpoints of later steps, and where the disk
            has no room for those of this run.
        """
        self.wait()
        content = self._pack(train_state, None, None)
        self._refuse_later(int(content.words["step"]))
        files = 1 + self._keep + (self._best is not None) - len(self._scores)
        needed, free = max(files, 1) * content_size(content), shutil.disk_usage(self.folder).free
        if free < needed:
            raise InputError(
                f"room for {max(files, 1)} checkpoints of {content_size(content):,} bytes",
                f"{free:,} bytes on the disk of {self.folder}",
                "free some, keep fewer, or name another folder",
            )

    @_entry
    def save(
        self,
        train_state: TrainState,
        *,
        score: float | None = None,
        data_state: DataState = None,
    ) -> None:
        """Write a checkpoint in the background.

        It waits for the write before, so that one copy at most is held. A run that went back to an
        earlier step writes that: what it wrote of later steps is removed then.

        Args:
            train_state: the train state, whose buffers may be given away afterwards.
            score: what the checkpoint is judged by, where `best` was given.
            data_state: the position of the reader of data, as in `fnn.save_train_state`.
        Raises:    InputError for a score without `best` or the other way round, and where the
            folder holds checkpoints of later steps; and what the write before raised.
        """
        self.wait()
        if (score is None) != (self._best is None):
            raise InputError(
                "a score with best=, and none without",
                f"score {describe(score)} with best {describe(self._best)}",
                "pass score= to save and best= to Checkpoints, or neither",
            )
        content = self._pack(train_state, data_state, score)
        step = int(content.words["step"])
        self._refuse_later(step)
        self._pending = self._thread.submit(self._write, step, content, score)

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk, and raise what writing it raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait as `wait` does, and let other runs write into the folder."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._lock.close()

    def _pack(self, train_state: TrainState, data_state: DataState, score: float | None) -> Content:
        if self._lock.closed:
            remedy = "make another one"
            raise InputError("Checkpoints that are open", f"closed ones of {self.folder}", remedy)
        return pack_train_state(train_state, *self._described, data_state, score, copy=True)

    def _refuse_later(self, step: int) -> None:
        """Raise where later checkpoints are: those of this run would count as older ones."""
        # Those of this run are of a branch that it has left.
        last = max(set(self._scores) - self._own, default=-1)
        if step < last:
            raise InputError(
                f"a folder whose checkpoints end at step {step}",
                f"one of step {last} in {self.folder}",
                "go on from the last with fnn.load_train_state, or name another folder",
            )

    def _write(self, step: int, content: Content, score: float | None) -> None:
        """Write a checkpoint, and remove those that are no longer kept."""
        write_content(_file_of(self.folder, step), content)
        self._scores[step] = score
        self._own.add(step)
        for later in [one for one in self._scores if one > step]:
            _file_of(self.folder, later).unlink(missing_ok=True)
            del self._scores[later]
        kept = set(sorted(self._scores)[-self._keep :])
        scored = {one: value for one, value in self._scores.items() if value is not None}
        if self._best is not None and scored:
            kept.add(_best_of(scored, self._best))
        for old in set(self._scores) - kept:
            _file_of(self.folder, old).unlink(missing_ok=True)
            del self._scores[old]


@entry
def latest_checkpoint(folder: Path | str) -> Path | None:
    """Return the checkpoint of the last step in a folder, None where there is none.

    So a script that starts and goes on is one: ``file = latest_checkpoint(folder)``, and where it
    is there, ``start=fnn.load_train_state(file, like)`` in place of ``key=key``.

    Args:
        folder: as `Checkpoints` writes it; it need not exist.
    Raises:    InputError for what is no folder.

    >>> latest_checkpoint("of-a-run-to-come") is None
    True
    """
    return max(checkpoint_files(folder), key=_step_of, default=None)


@entry
def best_checkpoint(folder: Path | str, best: Best = "lowest") -> Path | None:
    """Return the checkpoint of the best score in a folder, None where none has one.

    Args:
        folder: as `Checkpoints` writes it; it need not exist.
        best: which score is the best, ``"lowest"`` or ``"highest"``; of equal ones the first.
    Raises:    InputError for what is no folder, and for a damaged file in it.

    >>> best_checkpoint("of-a-run-to-come") is None
    True
    """
    check.one_of(best, "best", ("lowest", "highest"))
    files = {_step_of(file): file for file in checkpoint_files(folder)}
    scores = {step: checkpoint_info(file).score for step, file in files.items()}
    scored = {step: score for step, score in scores.items() if score is not None}
    return files[_best_of(scored, best)] if scored else None


def checkpoint_files(folder: Path | str) -> list[Path]:
    """Return the checkpoints in a folder, in the order of their steps.

    Args:
        folder: as `Checkpoints` writes it.
    """
    place = as_path(folder, "folder")
    try:
        found = [file for file in place.iterdir() if _NAME.fullmatch(file.name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(
            "a folder of checkpoints", f"{place} ({error.strerror})", "name another folder"
        ) from error
    return sorted(found, key=_step_of)


def _file_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:012}.safetensors"


def _step_of(file: Path) -> int:
    return int(file.name.removeprefix("step-").removesuffix(".safetensors"))


def _score_of(file: Path) -> float | None:
    """Return the score of a checkpoint; one that cannot be read has none, and is never the best."""
    try:
        return checkpoint_info(file).score
    except InputError:
        return None


def _best_of(scores: dict[int, float], best: Best) -> int:
    """Return the first step of the best score; one that is no number is the worst."""
    sign = 1 if best == "lowest" else -1

    def rank(step: int) -> tuple[Unchecked, ...]:
        score = scores[step]
        return (score != score, sign * score if score == score else 0, step)

    return min(scores, key=rank)
