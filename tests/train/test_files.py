"""Files: written whole or not at all, read back bit for bit; and the data sets."""

from __future__ import annotations

import gzip
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn._core.atomic_write import atomic_write, output_folder

KEY = jax.random.key(3)
# The module, whose name is that of the data set.
idx = importlib.import_module("fnn.datasets.fashion_mnist")


def names(folder):
    return sorted(file.name for file in folder.iterdir())


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


# Writing.


@pytest.mark.parametrize("old", [None, "old"])
def test_replacing_shows_the_file_when_it_is_whole(tmp_path, old):
    file = tmp_path / "note.txt"
    if old:
        file.write_text(old)
    with atomic_write(str(file)) as temporary:
        temporary.write_text("half")
        assert (file.read_text() if file.exists() else None) == old
        assert temporary.parent == tmp_path
        temporary.write_text("whole")
    assert (names(tmp_path), file.read_text()) == (["note.txt"], "whole")


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_while_replacing_leaves_what_was_there(tmp_path, old, written, error):
    file = tmp_path / "note.txt"
    if old:
        file.write_text(old)
    with pytest.raises(error), atomic_write(file) as temporary:  # noqa: PT012
        if written:
            temporary.write_text("half")
        raise error
    assert names(tmp_path) == (["note.txt"] if old else [])
    assert not old or file.read_text() == old


def test_an_output_folder_is_made_with_its_parents_and_left_empty(tmp_path):
    for _ in range(2):
        folder = output_folder(str(tmp_path / "a" / "b"))
        assert folder == tmp_path / "a" / "b"
        assert names(folder) == []


# Weights.

MODELS = {
    "plain": lambda: fnn.dense(3),
    "positional": lambda: fnn.serial(fnn.dense(4), fnn.batch_norm(0.7), fnn.tanh(), fnn.dense(2)),
    "named": lambda: fnn.serial(
        hidden=fnn.serial(fnn.dense(4), fnn.batch_norm(0.7)), out=fnn.dense(2, bias=False)
    ),
    "branches": lambda: fnn.serial(
        fnn.parallel(a=fnn.dense(4), b=fnn.residual(fnn.dense(5))), fnn.concatenate()
    ),
    "repeated": lambda: fnn.repeat(fnn.serial(fnn.dense(5), fnn.batch_norm()), 3),
    "nothing": fnn.relu,
}


@pytest.mark.parametrize("shapes_only", [False, True], ids=["arrays", "shapes"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_weights_come_back_bit_for_bit(tmp_path, name, dtype, shapes_only):
    with jax.enable_x64(dtype == "float64"):
        model, x = MODELS[name](), jax.ShapeDtypeStruct((2, 5), dtype)
        saved, file = model.init(KEY, x), tmp_path / "model.safetensors"
        fnn.save_weights(file, *saved)

        def init():
            return model.init(jax.random.key(4), x)

        loaded = fnn.load_weights(file, like=jax.eval_shape(init) if shapes_only else init())
        assert jax.tree.structure(loaded) == jax.tree.structure(saved)
        for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(saved), strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert names(tmp_path) == ["model.safetensors"]


ARRAYS = {
    "transposed": np.arange(6, dtype="float32").reshape(2, 3).T,
    "strided": np.arange(12, dtype="float32")[::2],
    "scalar": np.float32(1.5).reshape(()),
    "empty": np.zeros((0, 3), "float32"),
    "special": np.array([np.nan, -0.0, np.inf, 1e-45], "float32"),
    "int32": np.arange(3, dtype="int32"),
    "bool": np.array([True, False]),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_any_array_comes_back_bit_for_bit(tmp_path, array):
    file = tmp_path / "one.safetensors"
    fnn.save_weights(file, {"a": array})
    loaded = fnn.load_weights(file, like=({"a": array}, ()))[0]["a"]
    assert (loaded.dtype, loaded.shape) == (array.dtype, array.shape)
    assert np.asarray(loaded).tobytes() == array.tobytes()


def test_the_names_in_the_file_are_the_paths_of_the_layers(tmp_path):
    from safetensors.numpy import load_file

    fnn.save_weights(tmp_path / "m", *MODELS["named"]().init(KEY, jnp.ones((2, 5))))
    assert sorted(load_file(tmp_path / "m")) == [
        "params/hidden/0/bias",
        "params/hidden/0/weight",
        "params/hidden/1/scale",
        "params/hidden/1/shift",
        "params/out/weight",
        "state/hidden/1/mean",
        "state/hidden/1/var",
    ]


def test_saving_again_replaces_the_file(tmp_path):
    file = tmp_path / "model.safetensors"
    for value in (1.0, 2.0):
        fnn.save_weights(file, {"a": jnp.full(3, value)})
    loaded, _ = fnn.load_weights(file, like=({"a": jnp.zeros(3)}, ()))
    assert loaded["a"].tolist() == [2.0, 2.0, 2.0]
    assert names(tmp_path) == ["model.safetensors"]


def test_a_failure_while_saving_leaves_the_old_weights(tmp_path, monkeypatch):
    import safetensors.numpy

    file = tmp_path / "model.safetensors"
    fnn.save_weights(file, {"a": jnp.ones(3)})
    before = file.read_bytes()

    def fail(arrays, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        fnn.save_weights(file, {"a": jnp.zeros(3)})
    assert (names(tmp_path), file.read_bytes()) == (["model.safetensors"], before)


# Data sets.


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
