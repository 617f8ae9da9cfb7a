"""What a run has so far: the losses of its steps, its validations, and the history made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from fnn._core.types import Array
from fnn.train.loop._program import no_losses

# Losses of so many stretches stay on the device before they are copied.
_ON_DEVICE = 64


class History(NamedTuple):
    """What happened in training, as plain numpy arrays.

    Args:
        loss: (steps,), the loss of every batch before its update.
        epoch_loss: (epochs,), its mean over an epoch, batches counting by their examples.
        validation: arrays by name, ``loss`` and the metrics, one value for every validation.
        compile_seconds: how long compilation took.
        run_seconds: how long the steps and the validation took.
        stopped: why the run ended before its time, or ``""``.
        data_state: what is to be known beside the train state to go on: where data in batches
            stand, and what callbacks know that count; None where there is nothing.

    A run that was stopped has the steps that it took, and the epochs that it began.
    """

    loss: np.ndarray
    epoch_loss: np.ndarray
    validation: dict[str, np.ndarray]
    compile_seconds: float
    run_seconds: float
    stopped: str = ""
    data_state: bytes | None = None


@dataclass(frozen=True)
class Piece:
    """The losses of steps in one stretch: ``losses[begin:end]``, from step `step` on.

    Args:
        epoch: which they belong to.
        size: how many examples each has.
        step: the number of the first.
        losses: of all steps of the stretch, taken or not.
        begin: the first that was taken.
        end: the one behind the last.
    """

    epoch: int
    size: int
    step: int
    losses: Array | np.ndarray
    begin: int
    end: int

    def values(self, since: int, until: int) -> np.ndarray:
        """Return the losses of the steps since..until-1 that are among these."""
        begin = max(self.begin, self.begin + since - self.step)
        return np.asarray(self.losses)[begin : min(self.end, self.begin + until - self.step)]


class Record:
    """The losses of a run, and its validations.

    Args:
        first: the step it began at.
        before: the losses of the steps just before, as far as they are known.
    """

    def __init__(self, first: int, before: np.ndarray | None = None):
        self.first, self.before = first, no_losses(0) if before is None else before
        self.pieces: list[Piece] = []
        self.measured: list[dict[str, float]] = []
        self._copied = 0

    def begin(self, piece: Piece) -> None:
        """Note a stretch before its first step."""
        self.pieces.append(piece)
        if len(self.pieces) - self._copied > _ON_DEVICE:
            # The last may be on their way still: to copy those would be to wait.
            for i in range(self._copied, len(self.pieces) - 3):
                held = self.pieces[i]
                taken = np.array(held.losses[held.begin : held.end])
                self.pieces[i] = replace(held, losses=taken, begin=0, end=len(taken))
            self._copied = len(self.pieces) - 3

    def extend(self, losses: Array, end: int) -> None:
        """Note the losses of the last stretch, of which more steps were taken."""
        self.pieces[-1] = replace(self.pieces[-1], losses=losses, end=end)

    def cut(self, step: int) -> None:
        """Forget a step and all behind it."""
        kept = []
        for piece in self.pieces:
            end = min(piece.end, piece.begin + step - piece.step)
            if end > piece.begin:
                kept.append(replace(piece, end=end))
        self.pieces, self._copied = kept, min(self._copied, len(kept))

    def losses(self, since: int, until: int) -> np.ndarray:
        """Return the losses of the steps since..until-1."""
        found = []
        for piece in reversed(self.pieces):
            if piece.step + piece.end - piece.begin <= since:
                break
            found.append(piece.values(since, until))
        begin = self.first - len(self.before)
        known = self.before[max(since - begin, 0) : max(until - begin, 0)]
        return np.concatenate([no_losses(0), known, *reversed(found)])

    def history(self, stopped: str, data_state: bytes | None) -> History:
        """Return the history; its times are still open."""
        means = []
        epochs: dict[int, list[Piece]] = {}
        for piece in self.pieces:
            if piece.end > piece.begin:
                epochs.setdefault(piece.epoch, []).append(piece)
        for pieces in epochs.values():
            loss = np.concatenate([one.values(one.step, one.step + one.end) for one in pieces])
            size = np.concatenate([np.full(one.end - one.begin, one.size) for one in pieces])
            means.append(loss @ size / size.sum())
        validation = {
            name: np.array([values[name] for values in self.measured])
            for name in (self.measured[0] if self.measured else {})
        }
        until = max((one.step + one.end - one.begin for one in self.pieces), default=self.first)
        loss = self.losses(self.first, until)
        epoch_loss = np.array(means, np.float64)
        return History(loss, epoch_loss, validation, 0.0, 0.0, stopped, data_state)
