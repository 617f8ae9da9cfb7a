"""Data to learn from: digits that come with fnn, Fashion-MNIST, text, and toys."""

from fnn._core.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__)
