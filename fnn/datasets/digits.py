"""The digits that come with fnn: 5,000 images of MNIST."""

from __future__ import annotations

from importlib import resources

import numpy as np

from fnn.datasets._dataset import Dataset


def digits() -> Dataset:
    """Return 4,000 handwritten digits to learn from and 1,000 to test on, 28x28, ten classes.

    Real MNIST images, shipped with fnn (credit and licence: ``fnn/datasets/MNIST.md``); the split
    is fixed, with 400 and 100 of each digit, in an order that mixes them. Images are uint8, 0 for
    paper and 255 for ink; labels int32.

    >>> (x, y), (test_x, test_y) = digits()
    >>> x.shape, x.dtype.name, y[:5], test_x.shape
    ((4000, 28, 28), 'uint8', array([1, 2, 0, 9, 2], dtype=int32), (1000, 28, 28))
    """
    with (resources.files("fnn.datasets") / "digits.npz").open("rb") as file:
        arrays = np.load(file)
        x, y = arrays["x"], arrays["y"].astype(np.int32)
    random = np.random.Generator(np.random.PCG64(2026))
    by_digit = [random.permutation(np.flatnonzero(y == digit)) for digit in range(10)]
    train = random.permutation(np.concatenate([images[:400] for images in by_digit]))
    test = random.permutation(np.concatenate([images[400:] for images in by_digit]))
    return Dataset((x[train], y[train]), (x[test], y[test]))
