"""The idx format of MNIST and its successors, and where to find the files."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np

from fnn._core import check
from fnn._core.atomic_write import as_path
from fnn._core.errors import InputError, entry
from fnn.datasets._dataset import Dataset

_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_UBYTE = 0x08
# As many as any numpy holds.
_MOST_AXES = 32
_CLASSES = 10
_FETCH = "fetch the files again"


@entry
def fashion_mnist(folder: Path | str | None = None) -> Dataset:
    """Read Fashion-MNIST: 60,000 and 10,000 images of clothes, 28x28 uint8, ten classes.

    Args:
        folder: holds the four idx files, plain or gzipped. Without it, looks in
            ``$FNN_DATA/fashion-mnist`` and ``$FNN_DATA`` and nowhere else where that variable is
            set; else in ``/usr/share/datasets/fashion-mnist`` (Debian's package
            dataset-fashion-mnist), then in the user's cache folder, ``~/.cache/fnn/fashion-mnist``.
    Raises:    InputError when files are missing or broken, or hold no images of ten classes.
    Source:    Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747.

    >>> try:
    ...     fashion_mnist("/nowhere")
    ... except ValueError as error:
    ...     print(str(error).partition(",")[2].strip()[:28])
    got no such file in /nowhere
    """
    folders = _folders("fashion-mnist") if folder is None else [as_path(folder, "folder")]
    found = _find(folders)
    x, y, test_x, test_y = (read_idx(_file(found, name)) for name in _FILES)
    for images, labels in ((x, y), (test_x, test_y)):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not images.size:
            raise InputError(
                "images (n, H, W) and as many labels (n,)",
                f"{images.shape} and {labels.shape} in {found}",
                _FETCH,
            )
        check.values(labels, lambda y: y >= _CLASSES, f"labels below {_CLASSES}", _FETCH, "labels")
    check.shape(test_x, "n H W", "test images", _FETCH, H=x.shape[1], W=x.shape[2])
    return Dataset((x, y.astype(np.int32)), (test_x, test_y.astype(np.int32)))


@entry
def read_idx(path: Path | str) -> np.ndarray:
    """Read an idx file of unsigned bytes, plain or gzipped.

    Two zero bytes, the type (8 for unsigned bytes), the number of axes, each axis as a big-endian
    32-bit integer, then the bytes in row-major order. A plain file has no checksum: what is seen is
    whether it is as long as its header says.

    Args:
        path: the file.
    Raises:    InputError when the file is anything else.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "labels")
    >>> _ = file.write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1)))
    >>> read_idx(file)
    array([7, 2, 1], dtype=uint8)
    """
    path = as_path(path, "path")
    remedy = "fetch the file again, or name another folder"
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError("a readable idx file", f"{path} ({error})", remedy) from error
    axes = content[3] if len(content) >= 4 else 0
    known = content[:3] == bytes((0, 0, _UBYTE)) and 0 < axes <= _MOST_AXES
    if len(content) < 4 + 4 * axes or not known:
        raise InputError(
            "the header 00 00 08 and a number of axes",
            f"{content[:4].hex(' ') or 'an empty file'} in {path}",
            remedy,
        )
    shape = tuple(np.frombuffer(content, ">u4", axes, 4).tolist())
    values = np.frombuffer(memoryview(content)[4 + 4 * axes :], np.uint8)
    if values.size != math.prod(shape):
        raise InputError(
            f"{math.prod(shape)} bytes for the shape {shape}",
            f"{values.size} in {path}",
            remedy,
        )
    try:
        return values.reshape(shape).copy()
    except ValueError as error:
        # An empty array whose other axes are too long for numpy.
        raise InputError("a shape that numpy holds", f"{shape} in {path}", remedy) from error


def _folders(name: str) -> list[Path]:
    """Return the folders where a data set of this name may be."""
    data = os.environ.get("FNN_DATA")
    if data:
        return [Path(data, name), Path(data)]
    return [
        Path("/usr/share/datasets", name),
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "fnn", name),
    ]


def _find(folders: list[Path]) -> Path:
    """Return the first folder that holds the first file."""
    for folder in folders:
        if _file(folder, _FILES[0]).exists():
            return folder
    raise InputError(
        f"{_FILES[0]}[.gz] and its three companions",
        "no such file in " + ", ".join(map(str, folders)),
        "install Debian's package dataset-fashion-mnist, or put the files into $FNN_DATA",
    )


def _file(folder: Path, name: str) -> Path:
    """Return a file of a data set, the gzipped one where there is one."""
    gzipped = folder / f"{name}.gz"
    return gzipped if gzipped.exists() else folder / name
