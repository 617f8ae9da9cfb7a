"""Checkpoints of a run on many devices: every process writes what it holds, by Orbax."""

from __future__ import annotations

import base64
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding

from fnn._core import check
from fnn._core.atomic_write import as_path
from fnn._core.errors import InputError, describe, named
from fnn._core.extras import require
from fnn._core.keys import generator_of, is_key, words_of
from fnn._core.types import Array, Unchecked
from fnn.train.files._arrays_file import named_leaves
from fnn.train.files._closing import Closing
from fnn.train.loop._events import Event
from fnn.train.loop._processes import bytes_of_all
from fnn.train.sharding import Layout, Sharding, layout_of
from fnn.train.step import TrainState

# Errors of a method bear the name of the class.
_NAME = "train.ShardedCheckpoints"
_entry = functools.partial(named, f"fnn.{_NAME}")


class ShardedCheckpoints(Closing):
    """Checkpoints of a run on many devices, in a folder: every process writes what it holds.

    No device and no process ever holds the whole of what is sharded, and what is read goes to where
    it is to lie: any number of devices, or of processes, however many there were. Orbax writes them
    (the extra ``distributed``), while training goes on; one that was not completed does not count.
    All processes make one, of the same folder, which all can reach. As a callback it saves after
    every epoch, and in `fnn.train.callbacks.every` after so many steps too. Use it in a ``with``
    statement, which waits for the last checkpoint at the end. For what fits one device a single
    file is handier: `fnn.save_train_state`.

    Args:
        folder: made with those around it.
        keep: how many of the last checkpoints stay.
    Raises:    InputError for what is no path and no count, ImportError without Orbax.

    >>> import fnn, jax, jax.numpy as jnp, tempfile
    >>> start = fnn.init_train_state(
    ...     fnn.dense(1), fnn.optim.sgd(0.5), jnp.ones((1, 2)), key=jax.random.key(0)
    ... )
    >>> with ShardedCheckpoints(tempfile.mkdtemp()) as checkpoints:
    ...     checkpoints.save(start)
    ...     again, data_state = checkpoints.load(start)
    >>> bool((again.params["weight"] == start.params["weight"]).all())
    True
    """

    # As a callback it comes behind the others, whose counts it saves.
    saves = True

    @_entry
    def __init__(self, folder: Path | str, *, keep: int = 3):
        check.count(keep, "keep")
        self.folder = as_path(folder, "folder").resolve()
        self._orbax: Unchecked = require("orbax.checkpoint", _NAME, "distributed")
        options = self._orbax.CheckpointManagerOptions(max_to_keep=int(keep), create=True)
        self._manager = self._orbax.CheckpointManager(self.folder, options=options)

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints in the folder."""
        return sorted(self._manager.all_steps())

    @_entry
    def save(self, train_state: TrainState, *, data_state: bytes | None = None) -> None:
        """Write a checkpoint in the background; all processes call it.

        Args:
            train_state: the train state, whose buffers may be given away afterwards.
            data_state: ``event.data_state`` or ``history.data_state``, that of this process.
        Raises:    InputError for what is no train state and no data state, and where the folder
            holds checkpoints of this step or later ones.
        """
        _check_train_state(train_state, "a TrainState", "pass what fnn.fit returns first")
        _check_data_state(data_state)
        step, last = int(train_state.step), max(self.steps, default=-1)
        if step <= last:
            expected = f"a folder whose checkpoints end before step {step}"
            got, remedy = f"one of step {last}", "load it and go on, or name another folder"
            raise InputError(expected, got, remedy)
        leaves = named_leaves(train_state)
        words = {
            "arrays": {name: describe(leaf) for name, leaf in leaves.items()},
            "data_states": [_text(data) for data in bytes_of_all(data_state)],
        }
        # Orbax writes no arrays without entries.
        arrays = {name: words_of(leaf) for name, leaf in leaves.items() if leaf.size}
        saved = self._orbax.args
        self._manager.save(
            step,
            args=saved.Composite(arrays=saved.StandardSave(arrays), words=saved.JsonSave(words)),
        )

    @_entry
    def load(
        self,
        like: TrainState,
        *,
        mesh: Mesh | None = None,
        sharding: Sharding | None = None,
        step: int | None = None,
    ) -> tuple[TrainState, bytes | None]:
        """Read a train state to where it is to lie, and where the data stand.

        All processes call it. Training goes on from them, ``fnn.fit(..., start=train_state,
        data_state=data_state)``, with the same `mesh` and `sharding`.

        Args:
            like: a train state of the same model and optimizer, or `jax.eval_shape` of it.
            mesh: as in `fnn.fit`; None for one device.
            sharding: as in `fnn.fit`.
            step: of the checkpoint; None for the last.
        Raises:    InputError for a folder without such a checkpoint, for a train state of another
            model or optimizer, with the first array that differs, and for another number of
            processes than saved it where each had read data of its own.
        """
        remedy = "make it with fnn.init_train_state for the same model and optimizer"
        _check_train_state(like, "like to be a TrainState", remedy)
        steps = self.steps
        if not steps or step not in (None, *steps):
            got = f"those of {steps}" if steps else "none"
            what = "a checkpoint" if step is None else f"a checkpoint of step {step}"
            raise InputError(f"{what} in {self.folder}", got, "name another step or folder")
        at, saved = steps[-1] if step is None else step, self._orbax.args
        words = self._manager.restore(at, args=saved.Composite(words=saved.JsonRestore()))["words"]
        leaves = named_leaves(like)
        _check_same({name: describe(leaf) for name, leaf in leaves.items()}, words["arrays"])
        layout = layout_of(mesh, sharding)
        wanted = dict(zip(leaves, _wanted(like, layout), strict=True))
        found = self._manager.restore(
            at,
            args=saved.Composite(
                arrays=saved.StandardRestore({n: one for n, one in wanted.items() if one.size})
            ),
        )["arrays"]
        read = [
            _as(leaf, found[name] if name in found else jnp.zeros(one.shape, one.dtype))
            for (name, leaf), one in zip(leaves.items(), wanted.values(), strict=True)
        ]
        train_state: TrainState = jax.tree.unflatten(jax.tree.structure(like), read)
        return train_state, _mine(words["data_states"])

    def __call__(self, event: Event) -> None:
        """Save what a run has become, as a callback of it.

        Args:
            event: of the run.
        """
        if event.kind in ("step", "epoch") and event.step > max(self.steps, default=-1):
            self.save(event.train_state, data_state=event.data_state)

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk, and raise what writing it raised."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait as `wait` does, and end the threads that write."""
        self._manager.close()


def _check_train_state(value: Unchecked, expected: str, remedy: str) -> None:
    if not isinstance(value, TrainState):
        raise InputError(expected, describe(value), remedy)


def _check_data_state(value: Unchecked) -> None:
    if not isinstance(value, bytes | None):
        remedy = "pass that of the event, or of the history"
        raise InputError("data_state of bytes, or None", describe(value), remedy)


def _wanted(like: TrainState, layout: Layout | None) -> list[jax.ShapeDtypeStruct]:
    """Return shape, dtype and place of every array that is read."""
    leaves = jax.tree.leaves(like)
    places: list[Unchecked] = (
        [SingleDeviceSharding(jax.local_devices()[0])] * len(leaves)
        if layout is None
        else jax.tree.leaves(layout.of(like))
    )
    return [
        jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=place)
        for one, place in zip(
            (jax.eval_shape(words_of, leaf) for leaf in leaves), places, strict=True
        )
    ]


def _as(leaf: Unchecked, found: Array) -> Array:
    """Return what was read as the kind of array that it was."""
    return jax.random.wrap_key_data(found, impl=generator_of(leaf)) if is_key(leaf) else found


def _check_same(wanted: dict[str, str], saved: dict[str, str]) -> None:
    """Raise unless the arrays of a checkpoint are those that are wanted."""
    for name in dict.fromkeys((*wanted, *saved)):
        one, other = wanted.get(name, "nothing"), saved.get(name, "nothing")
        if one != other:
            got = f"{other} at {name}, where {one} should be"
            remedy = "build the model and the optimizer that were saved"
            raise InputError("a train state like that of the arguments", got, remedy)


def _text(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _mine(texts: list[str | None]) -> bytes | None:
    """Return the data state of this process."""
    i = jax.process_index() if len(texts) == jax.process_count() else 0
    if len(texts) != jax.process_count() and len(set(texts)) > 1:
        expected = f"{len(texts)} processes, as saved it, each with data of its own"
        got = f"{jax.process_count()}"
        raise InputError(expected, got, "start as many, or train with data of arrays")
    text = texts[i]
    return None if text is None else base64.b64decode(text)
