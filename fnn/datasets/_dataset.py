"""What a data set is here: inputs and targets, in a part to learn from and a part to test on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """Data set: inputs and targets, to train on and to test on.

    It unpacks as ``(x, y), (test_x, test_y)``.

    Args:
        train: images (n, H, W) uint8 or points (n, D) float32; labels (n,) int32 or values (n, O)
            float32.
        test: the same for examples held out.
    """

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
