"""Toy functions to descend on, and the trajectories of optimizers over them."""

from fnn._core.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__)
