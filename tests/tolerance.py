"""The bounds of all comparisons in the suite: those that fnn's own checker uses, and no others."""

from fnn.lab.tolerance import difference, rounding

__all__ = ["difference", "rounding"]
