"""The digits that come with fnn: 5,000 images of MNIST."""

from __future__ import annotations

from importlib import resources

import numpy as np

from fnn.datasets.dataset import Dataset


def digits() -> Dataset:
    """Return 4,000 handwritten digits to learn from and 1,000 to test on, 28x28, ten classes.

    Real MNIST images, shipped with fnn (credit and licence: ``fnn/datasets/MNIST.md``); the split
    is fixed, with 400 and 100 of each digit, in an order that mixes them. Images are uint8, 0 for
    paper and 255 for ink; labels int32.

    >>> (x, y), (test_x, test_y) = digits()
    >>> x.shape, x.dtype.name, y[:5], test_x.shape
    ((4000, 28, 28), 'uint8', array([4, 8, 4, 5, 3], dtype=int32), (1000, 28, 28))
    """
    with (resources.files("fnn.datasets") / "digits.npz").open("rb") as file:
        arrays = np.load(file)
        x, y = arrays["x"], arrays["y"].astype(np.int32)
    order = np.random.Generator(np.random.PCG64(2026)).permutation(len(y))
    # How many of its own digit stand before each image in the order: the last 100 are for testing.
    rank = np.empty(len(y), int)
    for digit in range(10):
        rank[order[y[order] == digit]] = np.arange(500)
    train, test = order[rank[order] < 400], order[rank[order] >= 400]
    return Dataset((x[train], y[train]), (x[test], y[test]))
