"""The data sets: what their docstrings say, and the idx format."""

from __future__ import annotations

import gzip
import importlib
from importlib import resources

import jax
import numpy as np
import pytest

import fnn
from fnn.datasets.digits import _split

# The module, whose name is that of the data set.
idx = importlib.import_module("fnn.datasets.fashion_mnist")


def write_idx(file, array, zipped=False):
    """The idx format by its description: magic, axes, shape, bytes."""
    head = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    content = head + array.tobytes()
    file.write_bytes(gzip.compress(content) if zipped else content)


def images(seed, n):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (n, 4, 3), np.uint8), random.integers(0, 10, n, np.uint8)


def write_fashion(folder, zipped):
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": images(0, 7), "t10k": images(1, 5)}
    for part, (x, y) in parts.items():
        for kind, array in (("images-idx3", x), ("labels-idx1", y)):
            write_idx(folder / f"{part}-{kind}-ubyte{'.gz' * zipped}", array, zipped)
    return parts["train"], parts["t10k"]


def test_the_digits_are_what_their_docstring_says():
    data = fnn.datasets.digits()
    for (x, y), each in zip(data, (400, 100), strict=True):
        assert (x.shape, x.dtype) == ((10 * each, 28, 28), np.uint8)
        assert (y.shape, y.dtype) == ((10 * each,), np.int32)
        assert np.bincount(y).tolist() == [each] * 10
        assert (x.min(), x.max()) == (0, 255)
        # Mixed: no digit fills a tenth of the order by itself.
        assert all(len(set(part)) == 10 for part in y.reshape(10, each))


def test_no_digit_is_in_both_parts_or_twice_in_one():
    (x, _), (test_x, _) = fnn.datasets.digits()
    assert len({image.tobytes() for image in (*x, *test_x)}) == 5000


def test_the_digits_are_the_same_every_time_and_the_callers_own():
    first, second = fnn.datasets.digits(), fnn.datasets.digits()
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, other)
        assert not np.shares_memory(one, other)


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("shape", [(5,), (5, 4, 3), (0, 4), (1, 2, 3, 2)], ids=str)
def test_idx_files_come_back(tmp_path, shape, zipped):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    write_idx(tmp_path / "file", array, zipped)
    read = fnn.datasets.read_idx(str(tmp_path / "file"))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)


def assert_fashion(data, expected):
    for (x, y), (expected_x, expected_y) in zip(data, expected, strict=True):
        assert (x.dtype, y.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(x, expected_x)
        np.testing.assert_array_equal(y, expected_y)


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
def test_fashion_mnist_reads_a_folder_that_is_named(tmp_path, zipped):
    expected = write_fashion(tmp_path / "here", zipped)
    assert_fashion(fnn.datasets.fashion_mnist(str(tmp_path / "here")), expected)


@pytest.mark.parametrize(
    ("variable", "place"),
    [
        ("FNN_DATA", "fashion-mnist"),
        ("FNN_DATA", "."),
        ("XDG_CACHE_HOME", "fnn/fashion-mnist"),
        ("HOME", ".cache/fnn/fashion-mnist"),
    ],
)
def test_fashion_mnist_finds_files_in_its_folders(tmp_path, monkeypatch, variable, place):
    for name in ("FNN_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv(variable, str(tmp_path))
    if variable != "FNN_DATA":
        # Without the first folder, the system's, which may hold the real files.
        folders = idx._folders
        monkeypatch.setattr(idx, "_folders", lambda name: folders(name)[1:])
    expected = write_fashion(tmp_path / place, zipped=True)
    assert_fashion(fnn.datasets.fashion_mnist(), expected)


def test_fashion_mnist_looks_in_the_documented_order(monkeypatch):
    monkeypatch.delenv("FNN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert list(map(str, idx._folders("fashion-mnist"))) == [
        "/usr/share/datasets/fashion-mnist",
        "/cache/fnn/fashion-mnist",
    ]


def test_fashion_mnist_looks_nowhere_else_where_a_variable_names_the_place(monkeypatch):
    monkeypatch.setenv("FNN_DATA", "/data")
    assert list(map(str, idx._folders("fashion-mnist"))) == ["/data/fashion-mnist", "/data"]


# Damage and wrong arguments.


def refused(function, *args, match=""):
    with pytest.raises(fnn.InputError, match=match):
        function(*args)


@pytest.mark.parametrize("place", [0, 100, -1])
def test_digits_that_were_changed_are_refused(place):
    content = bytearray((resources.files("fnn.datasets") / "digits.npz").read_bytes())
    assert len(_split(bytes(content)).train[0]) == 4000
    content[place] ^= 1
    refused(_split, bytes(content), match="whose checksum differs")


@pytest.mark.parametrize("axes", [33, 64, 65, 255])
def test_an_idx_file_of_more_axes_than_arrays_have_is_refused(tmp_path, axes):
    file = tmp_path / "file"
    file.write_bytes(bytes((0, 0, 8, axes)) + b"\0\0\0\1" * axes + b"x")
    refused(fnn.datasets.read_idx, file, match="the header 00 00 08 and a number of axes")


def test_an_empty_idx_file_of_huge_axes_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes((0, 0, 8, 4)) + bytes(4) + b"\xff" * 12)
    refused(fnn.datasets.read_idx, file, match="a shape that numpy holds")


def test_what_an_idx_file_gave_is_the_callers_own(tmp_path):
    write_idx(tmp_path / "file", np.arange(3, dtype=np.uint8))
    read = fnn.datasets.read_idx(tmp_path / "file")
    read[0] = 7
    assert read.tolist() == [7, 1, 2]


@pytest.mark.parametrize("path", ["", "a\0b", 3, None, b"file"])
def test_what_is_no_path_is_refused(path):
    refused(fnn.datasets.read_idx, path, match="path to be a path")
    if path is not None:
        refused(fnn.datasets.fashion_mnist, path, match="folder to be a path")
        refused(fnn.datasets.text, path, match="file to be a path")


@pytest.mark.parametrize(
    ("name", "array", "match"),
    [
        ("train-labels-idx1", np.full(7, 10, np.uint8), "labels below 10, got 10"),
        ("t10k-labels-idx1", np.zeros(4, np.uint8), "as many labels"),
        ("t10k-images-idx3", np.zeros((5, 4, 2), np.uint8), r"test images of shape \(n, 4, 3\)"),
        ("train-images-idx3", np.zeros((7, 0, 3), np.uint8), "images"),
    ],
    ids=["label", "fewer", "another-size", "no-pixels"],
)
def test_fashion_mnist_of_parts_that_do_not_fit_is_refused(tmp_path, name, array, match):
    write_fashion(tmp_path, zipped=False)
    assert fnn.datasets.fashion_mnist(tmp_path).train[0].shape == (7, 4, 3)
    write_idx(tmp_path / f"{name}-ubyte", array)
    refused(fnn.datasets.fashion_mnist, tmp_path, match=match)
