"""What the programs of this folder share: the same batches for both sides, and their comparison."""

import numpy as np

import fnn


def batches():
    """Return 1,024 digits in 16 batches of 64, in one order: (x (64, 28, 28), y (64,)) each."""
    (x, y), _ = fnn.datasets.digits()
    x = x[:1024].astype("float32") / 255
    return [(x[i : i + 64], y[i : i + 64]) for i in range(0, 1024, 64)]


def compare(name, theirs, ours):
    """Print both loss curves at some steps, and how far they are apart at most."""
    theirs, ours = np.asarray(theirs), np.asarray(ours)
    print(f"{'step':>4} {name:>10} {'fnn':>10}")
    for step in (0, 1, 4, 15, len(ours) - 1):
        print(f"{step:4} {theirs[step]:10.6f} {ours[step]:10.6f}")
    apart = np.abs(theirs - ours).max() / theirs.max()
    print(f"{len(ours)} steps, at most {apart:.0e} of the largest loss apart")
