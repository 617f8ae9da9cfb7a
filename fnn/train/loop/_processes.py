"""Several processes that take the same steps: what each decides by itself, they decide together.

A compiled program with devices of several processes runs when all have sent it, in one order. How
long a dispatch is, a clock says, and who is interrupted, a signal: that is agreed upon before.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from fnn._core.errors import InputError
from fnn._core.keys import on_words
from fnn._core.types import Array, PyTree


def agreed(steps: int, interrupted: bool) -> tuple[int, bool]:
    """Return the least number of steps of all processes, and whether one is interrupted.

    Args:
        steps: how many this process would take.
        interrupted: whether it is.

    >>> agreed(3, False)
    (3, False)
    """
    found = _of_all((steps, int(interrupted)))
    return int(found[:, 0].min()), bool(found[:, 1].any())


def check_same(numbers: Sequence[int], what: str, remedy: str) -> None:
    """Raise in every process unless all have the same numbers.

    Args:
        numbers: of this process.
        what: what they are, in the words of an error.
        remedy: what to do.

    >>> check_same((1, 2), "steps of one length", "give every process as many batches")
    """
    found = _of_all(numbers)
    for i, other in enumerate(found):
        if not np.array_equal(other, found[0]):
            got = f"{found[0].tolist()} in process 0 and {other.tolist()} in process {i}"
            raise InputError(f"{what} in all processes", got, remedy)


def copied(tree: PyTree) -> PyTree:
    """Return a copy of arrays that lie in several processes: of the parts that lie in this one.

    Args:
        tree: arrays on a mesh.
    """
    return jax.tree.map(lambda leaf: on_words(_copied, leaf), tree)


def _copied(leaf: Array) -> Array:
    parts = [jax.numpy.copy(shard.data) for shard in leaf.addressable_shards]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, parts)


def bytes_of_all(data: bytes | None) -> list[bytes | None]:
    """Return what every process has.

    Args:
        data: of this process.

    >>> bytes_of_all(b"here"), bytes_of_all(None)
    ([b'here'], [None])
    """
    sizes = _of_all((-1 if data is None else len(data),)).ravel().tolist()
    room = np.zeros(max(*sizes, 1), np.uint8)
    room[: len(data or b"")] = np.frombuffer(data or b"", np.uint8)
    # As words: what JAX gathers is of 32 bits at least.
    found = _of_all(room.astype(np.int32)).astype(np.uint8)
    rows = zip(found, sizes, strict=True)
    return [None if size < 0 else row[:size].tobytes() for row, size in rows]


def _of_all(numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the numbers of every process, a row each."""
    mine = np.asarray(numbers, np.int32)
    if jax.process_count() == 1:
        return mine[None]
    return np.asarray(multihost_utils.process_allgather(mine))
