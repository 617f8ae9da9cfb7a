"""Files in the safetensors format, with a checksum.

The package of that name reads and writes the format; it holds no checksum. So one is put among the
words that the header leaves free: the SHA-256 of the whole file, its own digits taken as zeros.
Other tools read the file as any other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from fnn._core.errors import InputError, describe
from fnn._core.extras import require

# Those of the package for NumPy end before bfloat16.
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
_ZEROS = "0" * 64
# Two marks, so that damage to one of them is seen too.
_METADATA = {"written_by": "fnn", "sha256": _ZEROS}


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name.

    Args:
        file: open for writing bytes.
        arrays: of any shapes.
    Raises:    InputError for a dtype that the format lacks.
    """
    save = require("safetensors.numpy", "save_weights").save
    for name, array in arrays.items():
        if array.dtype.newbyteorder("<") not in _NAMES:
            expected = f"{name} of a dtype that safetensors holds"
            raise InputError(expected, describe(array), "convert it first")
    content = memoryview(save({n: np.asarray(a, order="C") for n, a in arrays.items()}, _METADATA))
    start = _end_of_header(content)
    head, checksum = content[:start].tobytes(), hashlib.sha256(content).hexdigest()
    # The metadata stand first, in front of all names.
    file.write(head.replace(_ZEROS.encode(), checksum.encode(), 1))
    file.write(content[start:])


def read(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name, as they are stored.

    Args:
        path: a file that `write`, or another tool, wrote.
    Raises:    InputError for a file that cannot be read, or is damaged.
    """
    library = require("safetensors", "load_weights")
    try:
        content = path.read_bytes()
        entries = library.deserialize(content)
        start = _end_of_header(content)
        header = json.loads(content[8:start], object_pairs_hook=_once)
    except (OSError, ValueError, library.SafetensorError) as error:
        raise _damaged(path, str(error)[:160]) from error
    _check_sum(path, content[:start], memoryview(content)[start:], header.pop("__metadata__", {}))
    if any(set(entry) != {"dtype", "shape", "data_offsets"} for entry in header.values()):
        raise _damaged(path, "an array has more than dtype, shape and place")
    return {name: _array(path, name, **entry) for name, entry in entries}


def _array(path: Path, name: str, dtype: str, shape: list[int], data: bytes) -> np.ndarray:
    if dtype not in _DTYPES or len(shape) > 32:
        raise _damaged(path, f"{name!r} is {dtype} of {len(shape)} axes, which NumPy does not hold")
    stored = np.frombuffer(data, np.uint8)
    if dtype == "BOOL" and stored.size and stored.max() > 1:
        raise _damaged(path, f"{name!r} is neither true nor false")
    return stored.view(_DTYPES[dtype]).reshape(shape)


def _end_of_header(content: bytes | memoryview) -> int:
    return 8 + int.from_bytes(content[:8], "little")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dictionary in which no name stands twice."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice")
    return made


def _check_sum(path: Path, head: bytes, arrays: memoryview, metadata: dict[str, str]) -> None:
    """Raise where a file is not that which its checksum was made of; one without any passes."""
    if not set(metadata) & set(_METADATA):
        return
    digits = metadata.get("sha256", "").encode()
    if len(digits) != len(_ZEROS) or "written_by" not in metadata or head.count(digits) != 1:
        raise _damaged(path, "its checksum is spoiled")
    checksum = hashlib.sha256(head.replace(digits, _ZEROS.encode()))
    checksum.update(arrays)
    if checksum.hexdigest().encode() != digits:
        raise _damaged(path, "its checksum differs")


def _damaged(path: Path, why: str) -> InputError:
    """Return what is said of a file that is not whole."""
    return InputError(
        "a whole file in the safetensors format",
        f"{path} ({why})",
        "name one that save_weights wrote",
    )
