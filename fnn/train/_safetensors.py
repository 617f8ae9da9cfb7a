"""The safetensors format, with a checksum.

Eight bytes hold the length of the header, in little-endian order; the header is JSON, with dtype,
shape and place of every array by its name; the arrays follow, without holes. The format holds no
checksum, so one is put among the words that it leaves free: the SHA-256 of the whole file, its own
digits taken as zeros. Other tools read the file as any other.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from fnn._core.check import is_count
from fnn._core.errors import InputError, describe
from fnn._core.types import Unchecked

_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(bool),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
    "BF16": np.dtype(jnp.bfloat16),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# As the format's own library: a header that is longer is damaged.
_LONGEST_HEADER = 100_000_000
_ZEROS = "0" * 64
# Two marks, so that damage to one of them is seen too.
_METADATA = {"written_by": "fnn", "sha256": _ZEROS}


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name, as bytes in row-major order.

    Args:
        file: open for writing bytes.
        arrays: of any shapes.
    Raises:    InputError for a dtype that the format lacks.
    """
    header: dict[str, Any] = {"__metadata__": _METADATA}
    place = 0
    # The largest elements first, as the format's library has it: so all are aligned.
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    for name in names:
        array = arrays[name]
        dtype = _NAMES.get(array.dtype.newbyteorder("<"))
        if dtype is None:
            raise InputError(
                f"{name} of a dtype that safetensors holds", describe(array), "convert it first"
            )
        entry = {
            "dtype": dtype,
            "shape": array.shape,
            "data_offsets": (place, place + array.nbytes),
        }
        header[name], place = entry, place + array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    checksum = hashlib.sha256(head)
    for name in names:
        checksum.update(_bytes(arrays[name]))
    file.write(head.replace(_ZEROS.encode(), checksum.hexdigest().encode(), 1))
    for name in names:
        file.write(_bytes(arrays[name]))


def read(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name, as they are stored.

    Args:
        path: a file that `write`, or another tool, wrote.
    Raises:    InputError for a file that cannot be read, or is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _damaged(path, str(error.strerror)) from error
    header, start = _header(path, content)
    metadata = header.pop("__metadata__", {})
    _check_sum(path, content[:start], memoryview(content)[start:], metadata)
    end, arrays = 0, {}
    for name, entry, begin in sorted(_entries(path, header), key=lambda entry: entry[2]):
        dtype, shape, size = _DTYPES[entry["dtype"]], entry["shape"], entry["size"]
        if begin != end:
            raise _damaged(path, f"{name!r} begins at {begin} and not at {end}")
        end = begin + size
        if end > len(content) - start:
            raise _damaged(path, f"it ends within {name!r}")
        stored = np.frombuffer(content, np.uint8, size, start + begin)
        if dtype.kind == "b" and stored.size and stored.max() > 1:
            raise _damaged(path, f"{name!r} is neither true nor false")
        arrays[name] = stored.view(dtype).reshape(shape)
    if end != len(content) - start:
        raise _damaged(path, f"{len(content) - start - end} bytes belong to no array")
    return arrays


def _header(path: Path, content: bytes) -> tuple[dict[str, Any], int]:
    """Return the header of a file, and where it ends."""
    start = 8 + int.from_bytes(content[:8], "little")
    if len(content) < 8 or start > min(len(content), _LONGEST_HEADER):
        raise _damaged(path, "its header is longer than the file" if content else "it is empty")
    try:
        header = json.loads(content[8:start].decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header lists no arrays")
    return header, start


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dictionary in which no name stands twice."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice")
    return made


def _check_sum(path: Path, head: bytes, arrays: memoryview, metadata: Unchecked) -> None:
    """Raise where a file is not that which its checksum was made of; one without any passes."""
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _damaged(path, "its metadata are not strings by name")
    if not set(metadata) & set(_METADATA):
        return
    digits = metadata.get("sha256", "").encode()
    if len(digits) != len(_ZEROS) or "written_by" not in metadata or head.count(digits) != 1:
        raise _damaged(path, "its checksum is spoiled")
    checksum = hashlib.sha256(head.replace(digits, _ZEROS.encode()))
    checksum.update(arrays)
    if checksum.hexdigest().encode() != digits:
        raise _damaged(path, "its checksum differs")


def _entries(path: Path, header: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Yield every array's name, its entry with the size in bytes, and where it begins."""
    for name, entry in header.items():
        fields = {"dtype", "shape", "data_offsets"}
        if not isinstance(entry, dict) or set(entry) != fields:
            raise _damaged(path, f"{name!r} has no dtype, shape and place")
        dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise _damaged(path, f"{name!r} is of the unknown dtype {dtype!r}"[:80])
        lists = isinstance(shape, list) and isinstance(place, list)
        if not lists or len(place) != 2 or not all(is_count(n, 0) for n in (*shape, *place)):
            raise _damaged(path, f"{name!r} has no shape or place")
        size = math.prod(shape) * _DTYPES[dtype].itemsize
        if place[1] - place[0] != size or len(shape) > 32:
            raise _damaged(path, f"{name!r} is not of the size of its shape")
        yield name, {**entry, "size": size}, place[0]


def _bytes(array: np.ndarray) -> memoryview | bytes:
    """Return the bytes of an array, copied only where they do not lie in row-major order."""
    ordered = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return ordered.reshape(-1).view(np.uint8).data if ordered.size else b""


def _damaged(path: Path, why: str) -> InputError:
    """Return what is said of a file that is not whole."""
    return InputError(
        "a whole file in the safetensors format",
        f"{path} ({why})",
        "name one that save_weights wrote",
    )
