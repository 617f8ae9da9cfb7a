"""What the laboratory is asked about, checked at its door."""

from __future__ import annotations

from fnn._core.arrays import require_arrays
from fnn._core.types import Data, Unchecked
from fnn.gradient.objective import Batch, as_batch


def check_arrays(x: Unchecked, name: str = "x") -> None:
    """Raise unless a value is an array, or a tree of some, or of their shapes."""
    require_arrays(x, name, shapes=True)


def read_batch(batch: Data) -> Batch:
    """Return a batch whose x and target are arrays, as users pass it."""
    x, target, weights = as_batch(batch)
    target = require_arrays(target, "target")
    weights = None if weights is None else require_arrays(weights, "weights")
    return Batch(require_arrays(x), target, weights)
