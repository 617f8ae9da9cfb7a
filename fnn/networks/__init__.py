"""Networks of the field, built of fnn's layers: `resnet`, `vit`; `fnn.from_torch` fills them."""

from fnn._core.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__)
