"""What there is to learn: images, toy points and files, by name."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from fnn import datasets
from fnn._core.errors import InputError
from fnn._core.types import Unchecked
from fnn.datasets import Dataset

T = TypeVar("T")
TOYS = ("spirals", "xor", "clouds", "sine")
IMAGES = ("digits", "fashion_mnist")
_ENDINGS = (".npz", ".csv")
# The share of a file that is held out where it has no part to test on.
_HELD_OUT = 0.2
# More kinds than this share of the examples are no classes.
_MOST_CLASSES = 0.5


class Scaling(NamedTuple):
    """How the inputs of a file or data set became those of a network: (x - mean) / std.

    Args:
        mean: of each column of the examples to learn from, or one for all of an image.
        std: their standard deviation; 255 for bytes, of which 0 is the mean.
    """

    mean: np.ndarray = np.zeros(())
    std: np.ndarray = np.ones(())

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """Return inputs as the network takes them.

        Args:
            x: as the file has them.

        >>> Scaling(np.array([1.0, 0.0]), np.array([2.0, 1.0])).scaled(np.array([[5, 3]]))
        array([[2., 3.]], dtype=float32)
        """
        scaled: np.ndarray = ((x.astype(np.float64) - self.mean) / self.std).astype(np.float32)
        return scaled


_OF_BYTES = Scaling(std=np.array(255.0))


class Problem(NamedTuple):
    """Something to learn: inputs and targets, and what the targets are.

    Args:
        name: what the user called it.
        train: x (n, H, W) or (n, D), float32, and labels (n,) int32 or values (n, O) float32.
        test: the same for examples held out.
        classes: their names; none where the targets are values.
        scaling: how x came from the inputs as they were.
        columns: the names of the columns of x; none where the file has none.
        sha256: of the file; ``""`` where there is none.
    """

    name: str
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    classes: tuple[str, ...]
    scaling: Scaling = Scaling()
    columns: tuple[str, ...] = ()
    sha256: str = ""

    @property
    def has_images(self) -> bool:
        """Whether x is images, and not points."""
        return self.train[0].ndim == 3

    @property
    def example(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.train[0].shape[1:]

    @property
    def outputs(self) -> int:
        """How many outputs a network has: a score for each class, or the values."""
        return len(self.classes) or int(self.train[1].shape[-1])

    def __str__(self) -> str:
        what = "images" if self.has_images else "points"
        size = "x".join(map(str, self.example))
        if not self.has_images:
            size += " number each" if size == "1" else " numbers each"
        values = f"{self.outputs} value{'' if self.outputs == 1 else 's'}"
        aim = f"{len(self.classes)} classes" if self.classes else f"{values} to find"
        counts = f"{len(self.train[0]):,} {what} to learn from, {len(self.test[0]):,} held out"
        return f"{self.name}: {counts}; {size}, {aim}"


def described(problem: Problem) -> dict[str, Unchecked]:
    """Return what has to be known of a problem to use what was learned, as JSON knows it.

    Args:
        problem: what is learned.
    """
    return {
        "example": list(problem.example),
        "outputs": problem.outputs,
        "mean": problem.scaling.mean.tolist(),
        "std": problem.scaling.std.tolist(),
        "columns": list(problem.columns),
        "classes": list(problem.classes),
        "examples": [len(problem.train[0]), len(problem.test[0])],
        "sha256": problem.sha256,
    }


def problem(data: str, folder: Path | None, seed: int) -> Problem:
    """Return what to learn, by its name.

    Args:
        data: digits, fashion_mnist, a toy, or a file that ends in .npz or .csv.
        folder: where the files of fashion_mnist are.
        seed: of the points of a toy, and of the part of a file that is held out.
    Raises:    InputError for an unknown name, a folder beside other data, and a file that cannot be
        read.

    >>> print(problem("xor", None, 0))
    xor: 400 points to learn from, 400 held out; 2 numbers each, 2 classes
    """
    if folder is not None and data != "fashion_mnist":
        raise InputError(
            f"no data_folder for {data}",
            str(folder),
            "pass --data fashion_mnist, or leave it out",
        )
    if data in TOYS:
        made = getattr(datasets, data)(key=jax.random.key(seed))
        return _problem(data, made)
    if data in IMAGES:
        return _problem(data, datasets.digits() if data == "digits" else fashion(folder))
    if not data.endswith(_ENDINGS):
        known = ", ".join((*IMAGES, *TOYS))
        raise InputError(f"data of {known}, FILE.npz or FILE.csv", repr(data), "pass one of them")
    file = Path(data)
    sha256 = read(file, lambda file: hashlib.sha256(file.read_bytes()).hexdigest())
    parts = read(file, _read_npz if file.suffix == ".npz" else _read_csv)
    return _of_file(file, parts, seed, sha256)


def read(file: Path, reader: Callable[[Path], T]) -> T:
    """Return what a function reads of a file, or raise with what is wrong with it.

    Args:
        file: where the data are.
        reader: the function.
    Raises:    InputError, whatever the function raises.

    >>> read(Path("nowhere.csv"), read_rows)
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn: expected data in nowhere.csv, got a file that cannot be read \
    (No such file or directory); mend it
    """
    try:
        return reader(file)
    except InputError:
        raise
    # What is wrong with a zip archive, an array or a text has a score of types of exceptions.
    except Exception as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(
            f"data in {file}", f"a file that cannot be read ({why})", "mend it"
        ) from None


def read_rows(file: Path) -> list[list[str]]:
    """Return the words of every row of a CSV file that is not empty.

    Args:
        file: the file.
    """
    with file.open(newline="", encoding="utf-8-sig") as text:
        return [row for row in csv.reader(text) if row]


def fashion(folder: Path | None) -> Dataset:
    """Return Fashion-MNIST.

    Args:
        folder: where its four files are; None for the places where they usually are.
    """
    return datasets.fashion_mnist(folder)


def of_dataset(data: Dataset, name: str = "data") -> Problem:
    """Return a data set of `fnn.datasets` as a problem.

    Args:
        data: the data set.
        name: what it is called.
    """
    return _problem(name, data)


def _problem(name: str, data: Dataset) -> Problem:
    """Return a data set as a problem; images of bytes become shares of full ink."""
    (x, target), (test_x, test_target) = data
    scaling = Scaling()
    if x.dtype == np.uint8:
        (x, test_x), scaling = _shares(x, test_x), _OF_BYTES
    if np.issubdtype(target.dtype, np.floating):
        return Problem(name, (x, target), (test_x, test_target), (), scaling)
    classes = int(max(target.max(), test_target.max())) + 1
    names = tuple(map(str, range(classes)))
    return Problem(name, (x, target), (test_x, test_target), names, scaling)


class _Parts(NamedTuple):
    """What a file holds: x and y, those of the part to test on if there is one, and names."""

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray | None = None
    test_y: np.ndarray | None = None
    columns: tuple[str, ...] = ()


_ARRAYS = _Parts._fields[:-1]


def _read_npz(file: Path) -> _Parts:
    """Read the arrays x and y, and test_x and test_y if they are there."""
    with file.open("rb") as opened, np.load(opened) as arrays:
        found = {name: arrays[name] for name in _ARRAYS if name in arrays}
    if not {"x", "y"} <= set(found) or ("test_x" in found) != ("test_y" in found):
        got = f"{', '.join(found) or 'none'} of them"
        raise InputError("arrays x and y, with test_x and test_y or without", got, f"mend {file}")
    return _Parts(**found)


def _read_csv(file: Path) -> _Parts:
    """Read rows of numbers whose last column is the target; a first row may hold names."""
    rows = read_rows(file)
    columns: tuple[str, ...] = ()
    if rows and not all(map(is_number, rows[0][:-1])):
        columns, rows = tuple(name.strip() for name in rows[0][:-1]), rows[1:]
    width = len(rows[0]) if rows else 0
    for number, row in enumerate(rows, 1):
        wrong = [word for word in row[:-1] if not is_number(word)]
        if len(row) != width or width < 2 or wrong:
            got = repr(wrong[0]) if wrong else f"{len(row)} columns"
            raise InputError(
                f"rows of {max(width, 2)} columns, numbers but for the last",
                f"{got} in row {number} below the names",
                f"mend {file}",
            )
    x = np.array([[float(word) for word in row[:-1]] for row in rows])
    words = [row[-1].strip() for row in rows]
    decimals = all(map(is_number, words)) and not all(map(_is_integer, words))
    target = np.array(words, np.float32) if decimals else np.array(words)
    return _Parts(x, target, columns=columns)


def is_number(word: str) -> bool:
    """Say whether a word is a number.

    Args:
        word: what stands between two commas.

    >>> is_number(" 1e3"), is_number("tall")
    (True, False)
    """
    try:
        float(word)
    except ValueError:
        return False
    return True


def _is_integer(word: str) -> bool:
    return word.lstrip("+-").isdigit()


def _of_file(file: Path, parts: _Parts, seed: int, sha256: str) -> Problem:
    """Return what a file holds as a problem: checked, split, classes counted, columns scaled."""
    x, y, test_x, test_y, columns = parts
    if test_x is None or test_y is None:
        if len(x) != len(y) or len(x) < 2:
            got = f"{len(x)} of x and {len(y)} of y"
            raise InputError("as many targets as examples, 2 or more", got, f"mend {file}")
        order = np.random.default_rng(seed).permutation(len(x))
        cut = max(1, round(len(x) * _HELD_OUT))
        x, y, test_x, test_y = x[order[cut:]], y[order[cut:]], x[order[:cut]], y[order[:cut]]
    for name, part, target in (("x", x, y), ("test_x", test_x, test_y)):
        if part.ndim not in (2, 3) or len(part) != len(target) or not len(part):
            got = f"{name} {part.shape} and targets {target.shape}"
            raise InputError("points (n, D) or images (n, H, W), each with a target", got,
                             f"mend {file}")  # fmt: skip
        # What is beyond float32 is none: its square would be infinite.
        if part.dtype.kind not in "uif" or not (abs(part) <= np.finfo(np.float32).max).all():
            raise InputError("finite numbers", f"others in {name}", f"mend {file}")
    x, test_x, scaling = _scaled(x, test_x)
    if y.dtype.kind == "f":
        values, test_values = (one.reshape(len(one), -1).astype(np.float32) for one in (y, test_y))
        if not (np.isfinite(values).all() and np.isfinite(test_values).all()):
            raise InputError("finite targets", "others", f"mend {file}")
        return Problem(file.name, (x, values), (test_x, test_values), (), scaling, columns, sha256)
    names = np.unique(np.concatenate([y.ravel(), test_y.ravel()]))
    if y.ndim != 1 or len(names) > max(2, _MOST_CLASSES * len(y)):
        got = f"{len(names)} of them in {len(y)} examples"
        raise InputError("a few classes", got, "write values as decimals, as in 3.0")
    labels, test_labels = (np.searchsorted(names, one).astype(np.int32) for one in (y, test_y))
    classes = tuple(map(str, names))
    if all(map(_is_integer, classes)):
        classes = tuple(sorted(classes, key=int))
        rank = {name: i for i, name in enumerate(classes)}
        ranks = np.array([rank[str(name)] for name in names], np.int32)
        labels, test_labels = ranks[labels], ranks[test_labels]
    parted = (x, labels), (test_x, test_labels)
    return Problem(file.name, *parted, classes, scaling, columns, sha256)


def _scaled(x: np.ndarray, test_x: np.ndarray) -> tuple[np.ndarray, np.ndarray, Scaling]:
    """Return bytes as shares of 255, and columns of numbers with mean 0 and deviation 1."""
    if x.dtype == np.uint8:
        x, test_x = _shares(x, test_x)
        return x, test_x, _OF_BYTES
    wide = x.astype(np.float64)
    axis = None if x.ndim == 3 else 0
    # Of a constant column the deviation need not be 0: the mean is rounded.
    std = np.where(wide.min(axis) < wide.max(axis), wide.std(axis), 1.0)
    scaling = Scaling(np.asarray(wide.mean(axis)), std)
    return scaling.scaled(x), scaling.scaled(test_x), scaling


def _shares(x: np.ndarray, test_x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return bytes as shares of 255; `Scaling` gives the same, and takes more memory."""
    return x.astype(np.float32) / 255, test_x.astype(np.float32) / 255
