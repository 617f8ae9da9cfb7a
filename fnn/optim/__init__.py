"""Optimizers, written by hand: descent in many ways, what goes before and around it, and noise."""

from fnn._core.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__)
