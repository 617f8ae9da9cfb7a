"""What the laboratory is asked about, checked at its door."""

from __future__ import annotations

from fnn._core.arrays import require_arrays
from fnn._core.types import Data
from fnn.gradient.objective import Batch, as_batch


def read_batch(batch: Data) -> Batch:
    """Return a batch whose x and target are arrays, as users pass it."""
    x, target, weights = as_batch(batch)
    target = require_arrays(target, "target")
    weights = None if weights is None else require_arrays(weights, "weights")
    return Batch(require_arrays(x), target, weights)
