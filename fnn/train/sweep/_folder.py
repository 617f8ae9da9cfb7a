"""The folder of a sweep: what is finished of it, and what it is a sweep of."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from fnn._core.atomic_write import FolderLock, atomic_write, check_file, output_folder
from fnn._core.errors import InputError
from fnn._core.keys import is_key, words_of
from fnn._core.types import Array, PyTree, Unchecked
from fnn.layer import Layer
from fnn.losses import Loss
from fnn.optim.optimizer import Optimizer
from fnn.train.files import _safetensors
from fnn.train.files._arrays_file import content_of, matched, named_leaves, write_content
from fnn.train.files.checkpoint import package_versions
from fnn.train.step import TrainState, TrainStep
from fnn.train.sweep.points import Point

ABOUT, _KIND = "sweep.json", "sweep"
_REMEDY = "call it as before, or name another folder"


@dataclass
class Member:
    """A run: what it is made of, and what there is of it so far."""

    number: int
    model: Layer
    loss: Loss
    optimizer: Optimizer
    fold: int | None
    step: TrainStep
    train_state: TrainState
    losses: list[np.ndarray] = field(default_factory=list)
    measured: list[dict[str, float]] = field(default_factory=list)
    epoch_losses: list[float] = field(default_factory=list)
    stopped: str = ""

    def written(self) -> tuple[dict[str, PyTree], dict[str, Unchecked]]:
        """Return what there is of it as a tree of arrays, and as words."""
        names = self.measured[0] if self.measured else {}
        columns = {name: np.array([one[name] for one in self.measured]) for name in names}
        losses = np.concatenate(self.losses) if self.losses else np.zeros(0)
        arrays = {"train_state": self.train_state, "losses": losses, "measured": columns}
        arrays["epoch_losses"] = np.array(self.epoch_losses)
        return arrays, {"stopped": self.stopped, "measured": list(names)}

    def take(self, arrays: Mapping[str, Unchecked], words: Mapping[str, Unchecked]) -> None:
        """Take over what was read.

        Args:
            arrays: by the paths that `written` gives them.
            words: those of `written`.
        """
        leaves = [arrays[f"train_state/{name}"] for name in named_leaves(self.train_state)]
        structure = jax.tree.structure(self.train_state)
        self.train_state = jax.tree.unflatten(structure, leaves)
        self.losses = [arrays["losses"]] if len(arrays["losses"]) else []
        self.epoch_losses = arrays["epoch_losses"].tolist()
        columns = {name: arrays[f"measured/{name}"].tolist() for name in words["measured"]}
        rows = zip(*columns.values(), strict=True)
        self.measured = [dict(zip(columns, row, strict=True)) for row in rows]
        self.stopped = words["stopped"]


class Folder:
    """Folder of a sweep.

    Args:
        place: made with those around it.
        about: what the sweep is one of, by name.
    Raises:    InputError for a folder that cannot be written to, that another process writes to, or
        in which another sweep is: with the first difference.
    """

    def __init__(self, place: Path | str, about: Mapping[str, Unchecked]):
        self.place = output_folder(place)
        self.lock = FolderLock(self.place)
        try:
            self._check(json.loads(json.dumps(about)))
        except BaseException:
            self.lock.close()
            raise

    def _check(self, about: dict[str, Unchecked]) -> None:
        file = self.place / ABOUT
        check_file(file)
        if not file.exists():
            with atomic_write(file) as temporary:
                temporary.write_text(json.dumps(about, indent=1) + "\n", "utf-8")
            return
        try:
            known = json.loads(file.read_text("utf-8"))
            if not isinstance(known, dict):
                raise ValueError("no object")
        except (OSError, ValueError) as error:
            got = f"{file} (damaged: {' '.join(str(error).split())})"
            raise InputError("the folder of a sweep", got, "name another folder") from error
        difference = _first_difference(known, about)
        if difference:
            expected, got = difference
            raise InputError(f"{expected}, as the sweep in {self.place} has", got, _REMEDY)

    def restore(self, epoch: int, chunk: int, members: Sequence[Member]) -> bool:
        """Take over what members are after an epoch, and say whether it was there.

        Args:
            epoch: after which they were written.
            chunk: which of those that are trained together.
            members: these.
        """
        file = self._file(epoch, chunk)
        if not file.exists():
            return False
        found = _safetensors.read(file, _KIND)
        words = json.loads(found.words["runs"]) if found.kind == _KIND else {}
        real = [one for one in members if one.number >= 0]
        if [str(one.number) for one in real] != list(words):
            got = f"{file} (of others)"
            raise InputError("the runs of this sweep", got, "remove the file")
        for one in real:
            start = f"{one.number}/"
            own = {name.removeprefix(start): array for name, array in found.arrays.items()
                   if name.startswith(start)}  # fmt: skip
            keys = {name.removeprefix(start): key for name, key in found.keys.items()
                    if name.startswith(start)}  # fmt: skip
            like = named_leaves({"train_state": one.train_state})
            state = {name: own.pop(name) for name in like}
            loaded = matched(state, keys, like, "the runs of this sweep", "remove the file")
            one.take(own | {name: on_host(leaf) for name, leaf in loaded.items()},
                     words[str(one.number)])  # fmt: skip
        return True

    def save(self, epoch: int, chunk: int, members: Sequence[Member]) -> None:
        """Write what members are after an epoch, whole or not at all.

        Args:
            epoch: after which it is.
            chunk: which of those that are trained together.
            members: these.
        """
        parts = {one.number: one.written() for one in members if one.number >= 0}
        trees = {str(number): tree for number, (tree, _) in parts.items()}
        words = {"runs": json.dumps({number: words for number, (_, words) in parts.items()})}
        write_content(self._file(epoch, chunk), content_of(trees, _KIND, words))

    def _file(self, epoch: int, chunk: int) -> Path:
        return self.place / f"epoch-{epoch:06}-part-{chunk:06}.safetensors"


@contextmanager
def opened(place: Path | str | None, about: Mapping[str, Unchecked]) -> Iterator[Folder | None]:
    """Open the folder of a sweep, and let others have it afterwards; None for none.

    Args:
        place: of the folder.
        about: what the sweep is one of.
    """
    if place is None:
        yield None
        return
    folder = Folder(place, about)
    try:
        yield folder
    finally:
        folder.lock.close()


def about_runs(points: Sequence[Point], members: Sequence[Member]) -> list[dict[str, str]]:
    """Return what every run is made of, in words and marks, to be compared with another sweep's.

    Args:
        points: of the runs.
        members: as they begin.
    """
    marks: dict[int, str] = {}
    found = []
    for point, one in zip(points, members, strict=True):
        # Runs of one model and seed share the state that they begin with.
        if id(one.train_state) not in marks:
            marks[id(one.train_state)] = digest(one.train_state)
        made = {"model": one.model, "loss": one.loss, "optimizer": one.optimizer}
        settings = {name: repr(value) for name, value in point.items()}
        words = {name: in_words(value) for name, value in made.items()}
        found.append(settings | words | {"train state at the start": marks[id(one.train_state)]})
    return found


def versions() -> dict[str, str]:
    """Return what the bits of a run depend on beside its arguments."""
    devices = f"{jax.device_count()} of {jax.devices()[0].device_kind}"
    return package_versions() | {"devices": devices}


def digest(tree: PyTree) -> str:
    """Return a mark of a tree of arrays, by which it is known again; "" of None.

    Args:
        tree: of arrays and keys.

    >>> import jax.numpy as jnp
    >>> digest((jnp.ones(2), None)) == digest((np.ones(2, "float32"), None))
    True
    """
    if tree is None:
        return ""
    found = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.asarray(words_of(leaf))
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def on_host(leaf: Array) -> Unchecked:
    """Return an array as NumPy's; a key stays what it is.

    Args:
        leaf: of a train state.
    """
    return leaf if is_key(leaf) else np.asarray(leaf)


class _Difference(NamedTuple):
    expected: str
    got: str


def _first_difference(known: Unchecked, given: Unchecked, path: str = "") -> _Difference | None:
    """Return in words where two descriptions differ first, or None."""
    if isinstance(known, dict) and isinstance(given, dict):
        for name in [*known, *(name for name in given if name not in known)]:
            inside = f"{name} of {path}" if path else name
            if name not in known or name not in given:
                return (
                    _Difference(inside, "none")
                    if name in known
                    else _Difference(f"no {inside}", "one")
                )
            found = _first_difference(known[name], given[name], inside)
            if found:
                return found
        return None
    if isinstance(known, list) and isinstance(given, list) and path == "runs":
        for i, (one, other) in enumerate(zip(known, given, strict=False)):
            found = _first_difference(one, other, f"run {i}")
            if found:
                return found
        if len(known) == len(given):
            return None
        return _Difference(f"{len(known)} runs", f"{len(given)}")
    return None if known == given else _Difference(f"{path} {known}", f"{given}")


def in_words(value: Unchecked) -> str:
    """Return a value as it prints, or the name of a function: the same in another process.

    Args:
        value: any.

    >>> in_words(len), in_words({"size": len}), in_words(0.5)
    ('builtins.len', "{'size': builtins.len}", '0.5')
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name!r}: {in_words(one)}" for name, one in value.items()) + "}"
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    # An object without a print-out of its own prints its place in memory.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
