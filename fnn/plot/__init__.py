"""Pictures of a training run, of gradients and of predictions; needs the extra ``run``.

Every picture is a `matplotlib.figure.Figure`, made without pyplot: nothing global, no window.
`show` gives it knobs to turn; `graph_page` and `slider_page` write pages to step through.
"""

from fnn._core.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__)
