"""Files in the safetensors format, with a checksum of every array and of the whole.

The package of that name reads and writes the format; it holds no checksum. So some stand among the
words that the header leaves free: the SHA-256 of the bytes of every array, by its name, and that of
the header with these words, its own digits taken as zeros. The arrays fill the rest of the file
without a gap, so the two together cover all of it, and damage to an array is known by its name.
Other tools read the file as any other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

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
VERSION = "1"
_ZEROS = "0" * 64
# Inside of a value the quotes would be escaped: this stands once.
_CHECKSUM = '"sha256":"{}"'
# Several marks, so that damage to one of them is seen too.
_MARKS = ("written_by", "version", "kind", "arrays", "keys", "sha256")

# What users call for files of a kind; a sweep has its own name.
_SAVE = {"weights": "save_weights", "train_state": "save_train_state"}
_LOAD = {"weights": "load_weights", "train_state": "load_train_state"}


class File(NamedTuple):
    """What stands in a file: its arrays by name, in the order that they were given, and words.

    `keys` holds the generators of those that are the words of a key of `jax.random`. `kind` is
    ``""`` of a file that another tool wrote.
    """

    arrays: dict[str, np.ndarray]
    keys: dict[str, str]
    kind: str
    words: dict[str, str]


def write(
    file: BinaryIO,
    arrays: Mapping[str, np.ndarray],
    keys: Mapping[str, str],
    kind: str,
    words: Mapping[str, str],
) -> None:
    """Write arrays by name.

    Args:
        file: open for writing bytes.
        arrays: of any shapes.
        keys: the generators of those that are the words of a key, by name.
        kind: what the file holds, such as ``"weights"``.
        words: what else is to stand in it, by other names than those of the format.
    Raises:    InputError for a dtype that the format lacks.
    """
    save = require("safetensors.numpy", _SAVE.get(kind, kind)).save
    for name, array in arrays.items():
        if array.dtype.newbyteorder("<") not in _NAMES:
            expected = f"{name} of a dtype that safetensors holds"
            raise InputError(expected, describe(array), "convert it first")
    stored = {
        name: np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        for name, array in arrays.items()
    }
    checksums = {name: _checksum(array) for name, array in stored.items()}
    marks = ("fnn", VERSION, kind, json.dumps(checksums), json.dumps(dict(keys)), _ZEROS)
    metadata = {**words, **dict(zip(_MARKS, marks, strict=True))}
    content = memoryview(save(stored, metadata))
    start = _end_of_header(content)
    head = content[:start].tobytes()
    digits = hashlib.sha256(head).hexdigest()
    file.write(head.replace(_CHECKSUM.format(_ZEROS).encode(), _CHECKSUM.format(digits).encode()))
    file.write(content[start:])


def read(path: Path, kind: str = "weights") -> File:
    """Return what stands in a file, as it is stored.

    Args:
        path: a file that `write`, or another tool, wrote.
        kind: what is looked for; what is in it may be another.
    Raises:    InputError for a file that cannot be read, or is damaged: with the name of the array,
        where the damage is in one.
    """
    library = require("safetensors", _LOAD.get(kind, kind))
    try:
        content = path.read_bytes()
        header = _header(content)
        metadata = _metadata(header)
        if _is_marked(metadata):
            _check_header(path, content, header, metadata)
        entries = dict(library.deserialize(content))
        start = _end_of_header(content)
        header = header or json.loads(content[8:start], object_pairs_hook=_once)
    except InputError:
        raise
    except (OSError, ValueError, library.SafetensorError) as error:
        raise _damaged(path, str(error)[:160]) from error
    header.pop("__metadata__", None)
    if any(set(entry) != {"dtype", "shape", "data_offsets"} for entry in header.values()):
        raise _damaged(path, "an array has more than dtype, shape and place")
    if not _is_marked(metadata):
        return File({name: _array(path, name, **one) for name, one in entries.items()}, {}, "", {})
    checksums = json.loads(metadata["arrays"])
    arrays = {name: _array(path, name, **entries[name]) for name in checksums}
    for name, digits in checksums.items():
        if _checksum(arrays[name]) != digits:
            raise _damaged(path, f"{name} is damaged: its checksum differs")
    words = {name: value for name, value in metadata.items() if name not in _MARKS}
    return File(arrays, json.loads(metadata["keys"]), metadata["kind"], words)


def read_words(path: Path) -> tuple[str, dict[str, str]]:
    """Return the kind of a file and its words; the arrays are not read.

    Args:
        path: a file that `write` wrote.
    Raises:    InputError for a file that cannot be read, that another tool wrote, or whose header
        is damaged.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
            head += file.read(min(int.from_bytes(head, "little"), path.stat().st_size))
            header = _header(head)
            metadata = _metadata(header)
            if not _is_marked(metadata):
                raise ValueError("without the marks of fnn")
            _check_header(path, head, header, metadata, path.stat().st_size)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)[:160]) from error
    return metadata["kind"], {n: value for n, value in metadata.items() if n not in _MARKS}


def read_one(path: Path, name: str) -> np.ndarray:
    """Return one array of a file whose header was looked at by `read_words`.

    Args:
        path: a file that `write` wrote.
        name: of the array.
    Raises:    InputError for a file that cannot be read, and an array that is missing or damaged.
    """
    try:
        with path.open("rb") as file:
            size = file.read(8)
            header = _header(size + file.read(int.from_bytes(size, "little")))
            digits = json.loads(_metadata(header)["arrays"])[name]
            begin, end = header[name]["data_offsets"]
            file.seek(begin, 1)
            data = file.read(end - begin)
        array = _array(path, name, header[name]["dtype"], header[name]["shape"], data)
    except InputError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(path, str(error)[:160]) from error
    if _checksum(array) != digits:
        raise _damaged(path, f"{name} is damaged: its checksum differs")
    return array


def _array(path: Path, name: str, dtype: str, shape: list[int], data: bytes) -> np.ndarray:
    if dtype not in _DTYPES or len(shape) > 32:
        raise _damaged(path, f"{name!r} is {dtype} of {len(shape)} axes, which NumPy does not hold")
    stored = np.frombuffer(data, np.uint8)
    if dtype == "BOOL" and stored.size and stored.max() > 1:
        raise _damaged(path, f"{name!r} is neither true nor false")
    return stored.view(_DTYPES[dtype]).reshape(shape)


def _checksum(array: np.ndarray) -> str:
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()


def _end_of_header(content: bytes | memoryview) -> int:
    return 8 + int.from_bytes(content[:8], "little")


def _header(content: bytes) -> dict[str, Any]:
    """Return the header, or nothing where it is none: the package says what is wrong with it."""
    try:
        found = json.loads(content[8 : _end_of_header(content)], object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        if str(error) == _TWICE:
            raise
        return {}
    return found if isinstance(found, dict) else {}


_TWICE = "a name stands twice"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dictionary in which no name stands twice."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError(_TWICE)
    return made


def _metadata(header: dict[str, Any]) -> dict[str, Any]:
    found = header.get("__metadata__", {})
    return found if isinstance(found, dict) else {}


def _is_marked(metadata: dict[str, Any]) -> bool:
    """Say whether a file is one of fnn's, whole or not."""
    return bool(set(metadata) & set(_MARKS))


def _check_header(
    path: Path,
    content: bytes,
    header: dict[str, Any],
    metadata: dict[str, Any],
    size: int | None = None,
) -> None:
    """Raise unless the header is that which its checksum was made of, and the file as long.

    Args:
        path: of the file.
        content: at least its header.
        header: the same, parsed.
        metadata: the words in it.
        size: of the file, where `content` is not all of it.
    """
    size = len(content) if size is None else size
    start = _end_of_header(content)
    version = metadata.get("version")
    if isinstance(version, str) and version != VERSION:
        raise InputError(
            f"a file of version {VERSION} of the format",
            f"{path} (version {version[:20]!r})",
            "write it again with this release of fnn, or read it with that which wrote it",
        )
    digits = metadata.get("sha256")
    own = _CHECKSUM.format(digits).encode()
    head = content[:start]
    if (
        not set(_MARKS) <= set(metadata)
        or not isinstance(digits, str)
        or len(digits) != len(_ZEROS)
        or head.count(own) != 1
    ):
        raise _damaged(path, "the checksum of its header is spoiled")
    whole = hashlib.sha256(head.replace(own, _CHECKSUM.format(_ZEROS).encode())).hexdigest()
    if whole != digits:
        raise _damaged(path, "its header is damaged: the checksum differs")
    places = {name: one["data_offsets"] for name, one in header.items() if name != "__metadata__"}
    end = max((stop for _, stop in places.values()), default=0)
    if size - start > end:
        raise _damaged(path, f"{size - start - end} bytes stand behind the last array")
    if size - start < end:
        cut = min((stop, name) for name, (_, stop) in places.items() if stop > size - start)[1]
        raise _damaged(path, f"it ends within {cut}")


def _damaged(path: Path, why: str) -> InputError:
    """Return what is said of a file that is not whole."""
    return InputError(
        "a whole file in the safetensors format",
        f"{path} ({why})",
        "name one that fnn wrote whole",
    )
