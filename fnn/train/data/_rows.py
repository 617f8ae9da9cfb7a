"""Rows of arrays, of memory-mapped ones without the memory of what lies around them."""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Callable
from itertools import repeat

import numpy as np

from fnn._core.errors import InputError
from fnn._core.types import Unchecked

# A system may map this much of a file for one row that is touched, and all of it counts as memory.
_AROUND, _MAPPED_BYTES = 2**20, 2**26
# Rows are read in parts of so many bytes.
_READ_BYTES = 2**17

ReadRows = Callable[[np.ndarray], np.ndarray]


def row_reader(array: Unchecked) -> ReadRows:
    """Return a function that gives rows of an array by their numbers.

    Args:
        array: in memory, on the device or memory-mapped.

    >>> row_reader(np.array([3, 4, 5]))(np.array([2, 0, 2]))
    array([5, 3, 5])
    """
    if not isinstance(array, np.memmap):
        # What is on the device comes back once, and not for every portion.
        held = np.asarray(array)
        return lambda rows: held[rows]
    return _file_of(array) or (lambda rows: _through_map(array, rows))


class _File:
    """Reads rows from the file of a memory-mapped array: less time than by its map, and no memory.

    Args:
        array: the array, whose shape and dtype the rows have.
        descriptor: of the file, which is closed with this.
        start: where its first row stands.
    """

    def __init__(self, array: np.memmap, descriptor: int, start: int):
        self.array, self.descriptor, self.start = array, descriptor, start
        self.stride, self.bytes = array.strides[0], _row_bytes(array)
        weakref.finalize(self, os.close, descriptor)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        gathered = np.empty((len(rows), *self.array.shape[1:]), self.array.dtype)
        room = gathered.reshape(-1).view(np.uint8)
        places = (rows.astype(np.int64) * self.stride + self.start).tolist()
        count, at = max(1, _READ_BYTES // self.bytes), 0
        # What some rows are joined in is free for the next, and still in the processor's cache.
        for first in range(0, len(places), count):
            part = places[first : first + count]
            found = b"".join(map(os.pread, repeat(self.descriptor), repeat(self.bytes), part))
            if len(found) != len(part) * self.bytes:
                expected = f"{self.array.filename} as long as when it was mapped"
                raise InputError(expected, "a shorter file", "leave it as it is during a run")
            room[at : at + len(found)] = np.frombuffer(found, np.uint8)
            at += len(found)
        return gathered


def _file_of(array: np.memmap) -> _File | None:
    """Return a reader of the file of an array.

    None where rows are no runs of bytes in a file that can be read: the map itself serves then.
    """
    base = _map_of(array)
    # What was written to a copy-on-write map is in no file.
    if base is None or array.mode not in ("r", "r+") or array.filename is None:
        return None
    if not (hasattr(os, "pread") and array[:1].flags.c_contiguous and len(array)):
        return None
    start: int = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    start += _address(array) - _address(np.frombuffer(base, np.uint8))
    try:
        descriptor = os.open(str(array.filename), os.O_RDONLY)
    except OSError:
        return None
    read, ends = _File(array, descriptor, start), np.array([0, len(array) - 1])
    # Another file may have taken the name since.
    same = read(ends).tobytes() == np.asarray(array)[ends].tobytes()
    return read if same else None


def _through_map(array: np.memmap, rows: np.ndarray) -> np.ndarray:
    """Return rows read through the map, of which little stays mapped at a time."""
    plain, base = np.asarray(array), _map_of(array)
    gathered = np.empty((len(rows), *array.shape[1:]), array.dtype)
    count = max(1, _MAPPED_BYTES // (_row_bytes(array) + _AROUND))
    for start in range(0, len(rows), count):
        part = slice(start, start + count)
        np.take(plain, rows[part], axis=0, out=gathered[part], mode="clip")
        # Pages of a copy-on-write map hold what was written to them, and nothing else does.
        if base is not None and array.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)
    return gathered


def _map_of(array: np.memmap) -> mmap.mmap | None:
    """Return the map that an array is a view of, or None."""
    base: Unchecked = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    return base


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _row_bytes(array: np.ndarray) -> int:
    return array.dtype.itemsize * math.prod(array.shape[1:])
