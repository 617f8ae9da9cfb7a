"""What a run remembers beside its train state, so that it goes on as if nothing had been."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.errors import InputError, describe
from fnn._core.keys import words_of
from fnn._core.types import PyTree, Scalar, Unchecked
from fnn.train.files._arrays_file import content_of, matched, named_leaves

# No JSON begins so: data in batches tell by JSON alone where they stand.
_MARK = b"fnn run\n"
_REMEDY = "pass history.data_state, or what was saved"


class Memory(NamedTuple):
    """What a run remembers beside its train state.

    Args:
        place: where the data stand, of data whose place the step does not tell; else None.
        callbacks: the names of all callbacks.
        states: what those of them know that have `get_state`, by their places among all.
        seen: the steps of the last ``"epoch"`` and the last ``"validation"``.
        stepped: that of the last ``"step"`` of every callback.
        losses: those of the last steps, as far back as an event to come shows them.
        metrics: of the last validation.
        settled: whether all was called that is due after the last step, within its epoch.
        ends_epoch: whether the last step ends its epoch, and that is still to be told.
        begun: marks of the hyper-parameters that the run began with, where a callback has given
            others since.
    """

    place: bytes | None = None
    callbacks: tuple[str, ...] = ()
    states: Mapping[int, bytes] = {}
    seen: Mapping[str, int] = {}
    stepped: tuple[int, ...] = ()
    losses: np.ndarray = np.zeros(0, np.float32)
    metrics: Mapping[str, float] = {}
    settled: bool = True
    ends_epoch: bool = False
    begun: Mapping[str, str] = {}


def pack(memory: Memory) -> bytes | None:
    """Return a memory as bytes: the place alone where there is nothing else in it.

    Args:
        memory: of a run.

    >>> pack(Memory(b"{}")), unpack(pack(Memory(metrics={"loss": 0.5}))).metrics
    (b'{}', {'loss': 0.5})
    """
    plain = memory.settled and not (memory.ends_epoch or memory.begun or memory.states)
    if plain and not len(memory.losses) and not any(v == v for v in memory.metrics.values()):
        return memory.place
    blobs = [memory.losses.tobytes(), *memory.states.values()]
    words = memory._asdict() | {
        "place": None if memory.place is None else memory.place.decode(),
        "states": list(memory.states),
        "losses": str(memory.losses.dtype),
        "sizes": [len(blob) for blob in blobs],
    }
    return _joined(words, blobs)


def unpack(data: Unchecked) -> Memory:
    """Return the memory of some bytes.

    Args:
        data: what `pack` gave, or None.
    Raises:    InputError for others.
    """
    if data is None or not (isinstance(data, bytes) and data.startswith(_MARK)):
        return Memory(data)
    try:
        words, rest = _parted(data)
        ends = np.cumsum([0, *words.pop("sizes")]).tolist()
        blobs = [rest[begin:end] for begin, end in itertools.pairwise(ends)]
        words["losses"] = np.frombuffer(blobs[0], words["losses"])
        words["states"] = dict(zip(words["states"], blobs[1:], strict=True))
        words["place"] = None if words["place"] is None else words["place"].encode()
        found = Memory(**words)
        return found._replace(callbacks=tuple(found.callbacks), stepped=tuple(found.stepped))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        expected = "a data_state of an earlier run"
        raise InputError(expected, describe(data), _REMEDY) from error


def marks_of(numbers: Mapping[str, Scalar]) -> dict[str, str]:
    """Return a mark of every number, by which it is known again.

    Args:
        numbers: hyper-parameters by their paths.

    >>> first, again, other = (marks_of({"rate": value}) for value in (0.5, 0.5, 0.25))
    >>> first == again, first == other
    (True, False)
    """
    return {path: hashlib.sha256(_bytes_of(value)).hexdigest() for path, value in numbers.items()}


def numbers_to_go_on(
    given: dict[str, Scalar], known: Mapping[str, Scalar], begun: Mapping[str, str]
) -> dict[str, Scalar]:
    """Return the numbers of a run that goes on: those given, where they are others than before.

    Args:
        given: those of the arguments.
        known: those of the train state, as callbacks left them.
        begun: marks of those that the run before was given.
    """
    marks = marks_of(given) if begun else {}
    return {path: known[path] if marks.get(path) == begun.get(path, "") else value
            for path, value in given.items()}  # fmt: skip


def _bytes_of(value: Scalar) -> bytes:
    return np.asarray(words_of(value)).tobytes()


def pack_counts(counts: Mapping[str, float], tree: PyTree) -> bytes:
    """Return some numbers and a tree of arrays as bytes.

    Args:
        counts: by name; JSON holds all of them, infinity too.
        tree: of arrays and keys.
    """
    arrays = content_of(tree, "", {})
    shapes = {name: [str(a.dtype), a.shape] for name, a in arrays.arrays.items()}
    words = {"counts": dict(counts), "arrays": shapes, "keys": arrays.keys}
    return _joined(words, [np.ascontiguousarray(a).tobytes() for a in arrays.arrays.values()])


def unpack_counts(data: bytes, like: PyTree) -> tuple[dict[str, float], PyTree]:
    """Return the numbers and the tree that `pack_counts` made bytes of; None for a tree of none.

    Args:
        data: the bytes.
        like: what the tree is like.
    Raises:    InputError for bytes of another tree.
    """
    words, rest = _parted(data)
    arrays, begin = {}, 0
    for name, (dtype, shape) in words["arrays"].items():
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(rest, jnp.dtype(dtype), count, begin).reshape(shape)
        begin += arrays[name].nbytes
    if not arrays:
        return words["counts"], None
    expected = "a data_state of a run of this model and optimizer"
    leaves = matched(arrays, words["keys"], named_leaves(like), expected, _REMEDY)
    return words["counts"], jax.tree.unflatten(jax.tree.structure(like), list(leaves.values()))


def check_same_callbacks(memory: Memory, names: Sequence[str], remembering: Sequence[int]) -> None:
    """Raise unless the callbacks that know something are those of the run before.

    Args:
        memory: of the run before.
        names: those of all callbacks.
        remembering: the places of those that know something.
    """
    before = [memory.callbacks[i] for i in memory.states]
    now = [names[i] for i in remembering]
    if memory.callbacks and before != now:
        raise InputError(
            f"the callbacks of the run before, {', '.join(before) or 'none that counts'}",
            ", ".join(now) or "none of them",
            "pass the same, in their order; with arrays you may leave out data_state, and they"
            " begin anew",
        )


def _joined(words: Mapping[str, Unchecked], blobs: Sequence[bytes]) -> bytes:
    head = json.dumps(words).encode()
    return b"".join([_MARK, len(head).to_bytes(8, "little"), head, *blobs])


def _parted(data: bytes) -> tuple[dict[str, Unchecked], bytes]:
    start = len(_MARK) + 8
    end = start + int.from_bytes(data[len(_MARK) : start], "little")
    words: dict[str, Unchecked] = json.loads(data[start:end])
    return words, data[end:]
