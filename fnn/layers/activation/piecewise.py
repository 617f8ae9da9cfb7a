"""Activations: the non-linearity of a neuron, and its slope.

All act elementwise: x, y, dy and dx have one shape, (...). Where the slope can be had from y, y is
what forward saves: the next layer saves it too, so it costs no memory. All between x and y, and
between dy and dx, is computed in float32 for bfloat16 and float16. Kinks are decided here, and
tested: where an activation has no derivative, the formula says which number stands for it.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fnn._core import check, elementary
from fnn._core.arrays import rectified
from fnn._core.description import constructor
from fnn._core.precision import downcast, upcast
from fnn._core.types import Array, Cotangent, Input, Output, Params, Residuals
from fnn.layer import Layer, stateless

_SIGN = "pass one number in that range: the branch is told by the sign of y"


def activation(
    forward: Callable[[Input], tuple[Output, Residuals]],
    backward: Callable[[Residuals, Cotangent], Cotangent],
    positionwise: bool = True,
) -> Layer:
    """Lift ``forward(x) -> y, residuals`` and ``backward(residuals, dy) -> dx`` to a layer.

    Args:
        forward: takes x, of floating numbers, and returns y and what to save.
        backward: takes what was saved and dy, and returns dx.
        positionwise: False for one that looks along another axis than the last.
    """

    def checked(params: Params, x: Input) -> tuple[Output, Residuals]:
        del params
        check.floating(x)
        return forward(x)

    return stateless(
        lambda key, x: (),
        checked,
        lambda params, r, dy: ((), backward(r, dy)),
        positionwise=positionwise,
    )


def _from_output(function: Callable[[Array], Array], slope: Callable[[Array], Array]) -> Layer:
    """Make an activation from its function and the slope as a function of the output y."""

    def forward(x: Input) -> tuple[Output, Residuals]:
        y = downcast(function(upcast(x)), x)
        return y, y

    return activation(forward, lambda y, dy: downcast(upcast(dy) * slope(upcast(y)), dy))


@constructor
def identity() -> Layer:
    """Identity, for a place that needs a layer.

    Forward:   y = x
    Backward:  dx = dy

    Shapes:    x, y (...), or any tree
    Saves:     nothing

    >>> import jax.numpy as jnp
    >>> identity().apply((), (), jnp.array([-2.0, 3.0]))[0]
    Array([-2.,  3.], dtype=float32)
    """
    return stateless(
        lambda key, x: (),
        lambda params, x: (x, ()),
        lambda params, r, dy: ((), dy),
        positionwise=True,
    )


@constructor
def sign() -> Layer:
    """Sign: fire or not, the activation of the first artificial neurons.

    The derivative is zero almost everywhere (and set to zero at x = 0), so nothing in front of a
    `sign` ever learns: use `straight_through_sign` to train through it.

    Forward:   y = sign(x), which is -1, 0 or 1
    Backward:  dx = 0

    Shapes:    x, y (...)
    Saves:     nothing
    Raises:    InputError for x of integers.
    Source:    Rosenblatt 1958, doi:10.1037/h0042519.

    >>> import jax.numpy as jnp
    >>> sign().apply((), (), jnp.array([-2.0, 0.0, 3.0]))[0]
    Array([-1.,  0.,  1.], dtype=float32)
    """
    return activation(lambda x: (jnp.sign(x), ()), lambda _, dy: jnp.zeros_like(dy))


@constructor
def straight_through_sign() -> Layer:
    """Straight-through estimator of sign: forwards sign, backwards a clipped identity.

    Autodiff of `apply` gives the same gradient, since `apply` is written
    ``sign(x) + c(x) - stop_gradient(c(x))`` with ``c(x) = x where |x| <= 1``.

    Forward:   y = sign(x)
    Backward:  dx = dy where |x| <= 1, else 0: the straight-through estimator

    Shapes:    x, y (...)
    Saves:     x
    Raises:    InputError for x of integers.
    Source:    Bengio, Leonard and Courville 2013, arXiv:1308.3432, section 3.1; the clipping from
        Hubara et al. 2016, arXiv:1602.02830, eq. 4.

    >>> import jax.numpy as jnp
    >>> layer = straight_through_sign()
    >>> y, state, residuals = layer.forward((), (), jnp.array([-2.0, 0.5]))
    >>> y, layer.backward((), residuals, jnp.array([7.0, 7.0]))[1]
    (Array([-1.,  1.], dtype=float32), Array([0., 7.], dtype=float32))
    """

    def forward(x: Input) -> tuple[Output, Residuals]:
        clipped = jnp.where(jnp.abs(x) <= 1, x, 0)
        return jax.lax.stop_gradient(jnp.sign(x)) + (clipped - jax.lax.stop_gradient(clipped)), x

    return activation(forward, lambda x, dy: jnp.where(jnp.abs(x) <= 1, dy, 0))


@constructor
def sigmoid() -> Layer:
    """Sigmoid (logistic function): the probability of firing.

    The slope is at most 1/4: in a deep stack the gradient vanishes. Past x = 17 in float32 (37 in
    float64, 9 in float16, 6 in bfloat16) y rounds to 1 and the slope to 0, as in `jax.grad`.

    Forward:   y = 1 / (1 + exp(-x))
    Backward:  dx = dy y (1 - y)

    Shapes:    x, y (...)
    Saves:     y
    Raises:    InputError for x of integers.

    >>> import jax.numpy as jnp
    >>> sigmoid().apply((), (), jnp.array([0.0]))[0]
    Array([0.5], dtype=float32)
    """
    return _from_output(elementary.sigmoid, lambda y: y * (1 - y))


@constructor
def tanh() -> Layer:
    """Hyperbolic tangent: x squashed to (-1, 1).

    Past x = 9 and -9 in float32 (19 in float64, 4.5 in float16, 3.2 in bfloat16) y rounds to 1 and
    the slope to 0, as it does in `jax.grad`.

    Forward:   y = tanh(x)
    Backward:  dx = dy (1 - y) (1 + y)

    Shapes:    x, y (...)
    Saves:     y
    Raises:    InputError for x of integers.

    >>> import jax.numpy as jnp
    >>> tanh().apply((), (), jnp.array([0.0]))[0]
    Array([0.], dtype=float32)
    """
    return _from_output(jnp.tanh, lambda y: (1 - y) * (1 + y))


@constructor
def relu() -> Layer:
    """Rectified linear unit (ReLU).

    Forward:   y = max(x, 0)
    Backward:  dx = dy where x > 0, else 0; at the kink the slope is 0

    Shapes:    x, y (...)
    Saves:     y, since y > 0 just where x > 0
    Raises:    InputError for x of integers.

    >>> import jax.numpy as jnp
    >>> relu().apply((), (), jnp.array([-2.0, 3.0]))[0]
    Array([0., 3.], dtype=float32)
    """

    def forward(x: Input) -> tuple[Output, Residuals]:
        y = rectified(x)
        return y, y

    return activation(forward, lambda y, dy: jnp.where(y > 0, dy, 0))


@constructor
def leaky_relu(slope: float = 0.01) -> Layer:
    """Leaky ReLU: x where positive, a little of it elsewhere.

    Forward:   y = x where x > 0, else slope x
    Backward:  dx = dy where x > 0, else slope dy; at the kink the slope is `slope`

    Args:
        slope: the slope for x <= 0, 0 or more: the sign of y then tells that of x.
    Shapes:    x, y (...)
    Saves:     y, which has the sign of x
    Raises:    InputError for a negative slope, and for x of integers.
    Source:    Maas, Hannun and Ng 2013, section 2.

    >>> import jax.numpy as jnp
    >>> leaky_relu(0.5).apply((), (), jnp.array([-2.0, 3.0]))[0]
    Array([-1.,  3.], dtype=float32)
    """
    check.number(slope, "slope", least=0, remedy=_SIGN)

    def bend(x: Array) -> Array:
        return jnp.where(x > 0, x, jnp.asarray(slope, x.dtype) * x)

    return _from_output(bend, lambda y: jnp.where(y > 0, 1, jnp.asarray(slope, y.dtype)))


@constructor
def elu(alpha: float = 1.0) -> Layer:
    """Exponential linear unit (ELU): x where positive, and bent towards ``-alpha`` elsewhere.

    Forward:   y = x where x > 0, else alpha (exp(x) - 1)
    Backward:  dx = dy where x > 0, else dy (y + alpha); at the kink the slope is alpha

    Args:
        alpha: how far below 0 y falls, > 0; 1 makes the slope continuous.
    Shapes:    x, y (...)
    Saves:     y
    Raises:    InputError for alpha <= 0, and for x of integers.
    Source:    Clevert, Unterthiner and Hochreiter 2015, arXiv:1511.07289, eq. 15.

    >>> import jax.numpy as jnp
    >>> elu().apply((), (), jnp.array([-100.0, 3.0]))[0]
    Array([-1.,  3.], dtype=float32)
    """
    check.number(alpha, "alpha", above=0, remedy=_SIGN)
    return _from_output(
        lambda x: _bent(x, jnp.asarray(alpha, x.dtype)),
        lambda y: jnp.where(y > 0, 1, y + jnp.asarray(alpha, y.dtype)),
    )


def _bent(x: Array, alpha: Array | float) -> Array:
    """Return x where positive, else ``alpha (exp(x) - 1)``."""
    # Where x is chosen, an exponential that overflows would make its slope NaN.
    return jnp.where(x > 0, x, alpha * elementary.expm1(jnp.where(x > 0, 0, x)))


@constructor
def selu() -> Layer:
    """Scaled ELU (SELU): deep stacks of it tend to mean zero and variance one.

    Forward:   y = l x where x > 0, else l a (exp(x) - 1), with l = 1.0507... and a = 1.6732...
    Backward:  dx = l dy where x > 0, else dy (y + l a); at the kink the slope is l a

    Shapes:    x, y (...)
    Saves:     y
    Raises:    InputError for x of integers.
    Source:    Klambauer, Unterthiner, Mayr and Hochreiter 2017, arXiv:1706.02515, eqs. 2 and 14.

    >>> import jax.numpy as jnp
    >>> selu().apply((), (), jnp.array([-100.0, 1.0]))[0]
    Array([-1.7580993,  1.050701 ], dtype=float32)
    """
    alpha, gain = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    return _from_output(
        lambda x: gain * _bent(x, alpha),
        lambda y: jnp.where(y > 0, gain, y + gain * alpha).astype(y.dtype),
    )


@constructor
def softplus() -> Layer:
    """Softplus: a smooth approximation of ReLU.

    Forward:   y = log(1 + exp(x))
    Backward:  dx = dy (1 - exp(-y)), which is dy sigmoid(x)

    Shapes:    x, y (...)
    Saves:     y
    Raises:    InputError for x of integers.
    Source:    Dugas et al. 2000, NIPS 13, section 3.

    >>> import jax.numpy as jnp
    >>> softplus().apply((), (), jnp.array([0.0]))[0]
    Array([0.6931472], dtype=float32)
    """
    return _from_output(elementary.softplus, lambda y: -elementary.expm1(-y))
