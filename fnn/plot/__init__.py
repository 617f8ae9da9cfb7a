"""Pictures of a training run, of gradients and of predictions; needs the extra ``run``.

Every function returns a `matplotlib.figure.Figure`, made without pyplot: nothing global, no window.
"""

from fnn._core.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__)
