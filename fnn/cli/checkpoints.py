"""What a run keeps while it goes on, to be gone on with: train state and history, every epoch."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from fnn._core.errors import InputError
from fnn._core.types import Unchecked
from fnn.layer import Layer
from fnn.losses import Loss
from fnn.optim.optimizer import Optimizer
from fnn.train.files.checkpoint_folder import Checkpoints, latest_checkpoint
from fnn.train.fit import History
from fnn.train.loop._events import Callback, Event

FOLDER = "checkpoints"
# Not more often: a short epoch takes less time than to bring a file to the disk.
SECONDS = 1.0


class Past(NamedTuple):
    """The epochs of a run before it was interrupted.

    Args:
        loss: of all their steps.
        validation: the values after each of them, by name.
    """

    loss: np.ndarray = np.zeros(0)
    validation: Mapping[str, np.ndarray] = MappingProxyType({})

    @property
    def epochs(self) -> int:
        """How many there were."""
        return len(next(iter(self.validation.values()), ()))

    def then(self, loss: np.ndarray, metrics: dict[str, float]) -> Past:
        """Return the same with one more epoch.

        Args:
            loss: of its steps.
            metrics: of the validation after it.
        """
        before = self.validation or {name: np.zeros(0) for name in metrics}
        validation = {name: np.append(before[name], value) for name, value in metrics.items()}
        return Past(np.append(self.loss, loss), validation)

    def joined(self, history: History, sizes: np.ndarray) -> History:
        """Return the history of the whole run.

        Args:
            history: of what came after.
            sizes: how many examples every step of an epoch has.
        """
        if not self.epochs:
            return history
        loss = self.loss.astype(history.loss.dtype)
        means = [part @ sizes / sizes.sum() for part in loss.reshape(self.epochs, len(sizes))]
        after = history.validation
        return history._replace(
            loss=np.append(loss, history.loss),
            epoch_loss=np.append(means, history.epoch_loss),
            validation={n: np.append(one, after.get(n, ())) for n, one in self.validation.items()},
        )


def to_plain(past: Past) -> dict[str, Unchecked]:
    """Return the past as a checkpoint holds it, beside the train state.

    Args:
        past: of the run.
    """
    parts = {name: values.tobytes() for name, values in past.validation.items()}
    return {"loss": past.loss.tobytes(), "validation": parts}


def from_plain(plain: dict[str, Unchecked]) -> Past:
    """Return what `to_plain` wrote down.

    Args:
        plain: by name.

    >>> past = Past(np.array([0.5]), {"accuracy": np.array([0.25])})
    >>> from_plain(to_plain(past))
    Past(loss=array([0.5]), validation={'accuracy': array([0.25])})
    """
    parts = {name: np.frombuffer(values) for name, values in plain["validation"].items()}
    return Past(np.frombuffer(plain["loss"]), parts)


def refuse_interrupted(folder: Path) -> None:
    """Raise where a run was interrupted: a new one would take the place of its checkpoints.

    Args:
        folder: for the results of the new one.
    """
    if (folder / FOLDER).is_dir() and latest_checkpoint(folder / FOLDER) is not None:
        raise InputError(
            "a folder without an interrupted run",
            str(folder),
            f"go on with it by python -m fnn resume {folder}, name another --output, or remove"
            f" {folder / FOLDER}",
        )


@contextmanager
def kept(
    folder: Path, model: Layer, loss: Loss, optimizer: Optimizer, past: Past, epochs: int
) -> Iterator[Callback]:
    """Keep checkpoints of a run, after epochs: yield the callback that writes them.

    They are a second apart, and after the last epoch there is one.

    Args:
        folder: for the results; no other run may write into it meanwhile.
        model: described in every checkpoint.
        loss: likewise.
        optimizer: likewise.
        past: what was before.
        epochs: of the whole run.
    Raises:    InputError for a folder that cannot be written to.
    """
    place = folder / FOLDER
    now, written = past, time.monotonic()
    with Checkpoints(place, keep=1, model=model, loss=loss, optimizer=optimizer) as checkpoints:

        def callback(event: Event) -> None:
            nonlocal now, written
            if event.kind == "start":
                checkpoints.ready(event.train_state)
            elif event.kind == "epoch":
                now = now.then(event.losses, dict(event.metrics))
                if now.epochs < epochs and time.monotonic() < written + SECONDS:
                    return
                written = time.monotonic()
                checkpoints.save(event.train_state, data_state=to_plain(now))

        yield callback
    if latest_checkpoint(place) is None:
        remove(folder)


def remove(folder: Path) -> None:
    """Remove the checkpoints of a run whose results are written.

    Args:
        folder: with the results.
    """
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
