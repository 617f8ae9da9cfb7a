"""The laboratory: gradients checked, compared, measured, traced, tuned. Training never loads it."""

from fnn._core.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__)
