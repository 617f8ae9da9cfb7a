"""Training: the step, the loop, evaluation, generation and files."""

from fnn._core.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__)
