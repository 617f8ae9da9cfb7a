"""Weights from other libraries: `fnn.from_torch`."""
