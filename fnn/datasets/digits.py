"""The digits that come with fnn: 5,000 images of MNIST."""

from __future__ import annotations

import hashlib
import io
from importlib import resources

import numpy as np

from fnn._core.errors import InputError, entry
from fnn.datasets._dataset import Dataset

_FILE = "digits.npz"
_SHA256 = "f814240cf7e0d3cbaacc1a898905819a40ab46fb317a600d2a4b91a5c184c810"


@entry
def digits() -> Dataset:
    """Return 4,000 handwritten digits to learn from and 1,000 to test on, 28x28, ten classes.

    Real MNIST images, shipped with fnn (credit and license: ``fnn/datasets/MNIST.md``); the split
    is fixed, with 400 and 100 of each digit, in an order that mixes them. Images are uint8, 0 for
    paper and 255 for ink; labels int32.

    Raises:    InputError where the file that came with fnn is missing or changed.

    >>> (x, y), (test_x, test_y) = digits()
    >>> x.shape, x.dtype.name, y[:5], test_x.shape
    ((4000, 28, 28), 'uint8', array([1, 2, 0, 9, 2], dtype=int32), (1000, 28, 28))
    """
    try:
        content = (resources.files("fnn.datasets") / _FILE).read_bytes()
    except OSError as error:
        raise _broken(str(error.strerror)) from error
    return _split(content)


def _split(content: bytes) -> Dataset:
    """Return the data set in the bytes of the file, once they are known to be those shipped."""
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise _broken("whose checksum differs")
    arrays = np.load(io.BytesIO(content))
    x, y = arrays["x"], arrays["y"].astype(np.int32)
    random = np.random.Generator(np.random.PCG64(2026))
    by_digit = [random.permutation(np.flatnonzero(y == digit)) for digit in range(10)]
    train = random.permutation(np.concatenate([images[:400] for images in by_digit]))
    test = random.permutation(np.concatenate([images[400:] for images in by_digit]))
    return Dataset((x[train], y[train]), (x[test], y[test]))


def _broken(why: str) -> InputError:
    """Return what is said of a file that is not the one shipped."""
    return InputError(f"the {_FILE} that came with fnn", f"a file {why}", "install fnn again")
