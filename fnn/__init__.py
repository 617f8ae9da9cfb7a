"""fnn: neural networks as pure functions, with every gradient derived by hand.

The alphabet of every docstring: B batch, T time, H and W height and width, C channels (last), I
inputs, O outputs, K classes, N heads; ``(...)`` any number of axes. ``dy`` is the cotangent of y:
the derivative of the objective in y. Parameters are named weight, bias, scale and shift, and state
mean and var. A `rate` is the fraction dropped.
"""

from fnn._core.lazy import attach_stub

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = attach_stub(__name__)
