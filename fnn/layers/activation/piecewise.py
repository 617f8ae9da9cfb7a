"""Activations: the non-linearity of a neuron, and its slope.

All act on each number by itself. x, y, dy and dx have one shape, (...). Where the slope can be had
from y, y is what forward saves: the next layer saves it too, so it costs no memory. Every
activation raises `fnn.InputError` for an x of integers. Kinks are decided here, and tested: where
an activation has no derivative, the formula below says which number stands for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn.layer import Layer, stateless


def activation(
    forward: Callable[[Any], tuple[Any, Any]], backward: Callable[[Any, Any], Any]
) -> Layer:
    """Lift ``forward(x) -> y, residuals`` and ``backward(residuals, dy) -> dx`` to a layer."""

    def checked(params: Any, x: Any) -> tuple[Any, Any]:
        del params
        check.floating(x)
        return forward(x)

    return stateless(lambda key, x: (), checked, lambda params, r, dy: ((), backward(r, dy)))


def _from_output(function: Callable[[Any], Any], slope: Callable[[Any], Any]) -> Layer:
    """Make an activation from its function and the slope as a function of the output y."""

    def forward(x: Any) -> tuple[Any, Any]:
        y = function(x)
        return y, y

    return activation(forward, lambda y, dy: dy * slope(y))


@constructor
def identity() -> Layer:
    """Identity: ``y = x``.

    Forward ``y = x``; backward ``dx = dy``.

    >>> import jax.numpy as jnp
    >>> identity().apply((), (), jnp.array([-2.0, 3.0]))[0]
    Array([-2.,  3.], dtype=float32)
    """
    return stateless(lambda key, x: (), lambda params, x: (x, ()), lambda params, r, dy: ((), dy))


@constructor
def sign() -> Layer:
    """Sign: fire or not, the activation of the first artificial neurons.

    Forward ``y = sign(x)``, which is -1, 0 or 1; backward ``dx = 0``. The derivative is zero almost
    everywhere (and set to zero at x = 0), so nothing in front of a `sign` ever learns: use
    `straight_through_sign` to train through it. Source: Rosenblatt 1958, doi:10.1037/h0042519.

    >>> import jax.numpy as jnp
    >>> sign().apply((), (), jnp.array([-2.0, 0.0, 3.0]))[0]
    Array([-1.,  0.,  1.], dtype=float32)
    """
    return activation(lambda x: (jnp.sign(x), ()), lambda _, dy: jnp.zeros_like(dy))


@constructor
def straight_through_sign() -> Layer:
    """Straight-through estimator of sign: forwards sign, backwards a clipped identity.

    Forward ``y = sign(x)``; backward ``dx = dy where |x| <= 1, else 0``, the straight-through
    estimator. Autodiff of `apply` gives the same, since `apply` is written
    ``sign(x) + c(x) - stop_gradient(c(x))`` with ``c(x) = x where |x| <= 1``. Saved: x.

    Source: Bengio, Leonard and Courville 2013, arXiv:1308.3432, section 3.1; the clipping from
    Hubara et al. 2016, arXiv:1602.02830, eq. 4.

    >>> import jax.numpy as jnp
    >>> layer = straight_through_sign()
    >>> y, state, residuals = layer.forward((), (), jnp.array([-2.0, 0.5]))
    >>> y, layer.backward((), residuals, jnp.array([7.0, 7.0]))[1]
    (Array([-1.,  1.], dtype=float32), Array([0., 7.], dtype=float32))
    """

    def forward(x: Any) -> tuple[Any, Any]:
        clipped = jnp.where(jnp.abs(x) <= 1, x, 0)
        return jax.lax.stop_gradient(jnp.sign(x)) + (clipped - jax.lax.stop_gradient(clipped)), x

    return activation(forward, lambda x, dy: jnp.where(jnp.abs(x) <= 1, dy, 0))


@constructor
def sigmoid() -> Layer:
    """Sigmoid, ``1 / (1 + exp(-x))``: the probability of firing.

    Forward ``y = 1 / (1 + exp(-x))``; backward ``dx = dy y (1 - y)``, at most dy / 4: in a deep
    stack the gradient vanishes. Saved: y. Past x = 17 in float32 (37 in float64) y rounds to 1 and
    the slope to 0, as it does in `jax.grad`.

    >>> import jax.numpy as jnp
    >>> sigmoid().apply((), (), jnp.array([0.0]))[0]
    Array([0.5], dtype=float32)
    """
    return _from_output(jax.nn.sigmoid, lambda y: y * (1 - y))


@constructor
def tanh() -> Layer:
    """Hyperbolic tangent: x squashed to (-1, 1).

    Forward ``y = tanh(x)``; backward ``dx = dy (1 - y) (1 + y)``. Saved: y. Past x = 9 and -9 in
    float32 (19 in float64) y rounds to 1 and the slope to 0, as it does in `jax.grad`.

    >>> import jax.numpy as jnp
    >>> tanh().apply((), (), jnp.array([0.0]))[0]
    Array([0.], dtype=float32)
    """
    return _from_output(jnp.tanh, lambda y: (1 - y) * (1 + y))


@constructor
def relu() -> Layer:
    """Rectified linear unit: ``max(x, 0)``.

    Forward ``y = max(x, 0)``; backward ``dx = dy where x > 0, else 0``; at the kink the slope is 0.
    Saved: y, since ``y > 0`` just where ``x > 0``.

    >>> import jax.numpy as jnp
    >>> relu().apply((), (), jnp.array([-2.0, 3.0]))[0]
    Array([0., 3.], dtype=float32)
    """

    def forward(x: Any) -> tuple[Any, Any]:
        y = jax.nn.relu(x)
        return y, y

    return activation(forward, lambda y, dy: jnp.where(y > 0, dy, 0))


@constructor
def leaky_relu(slope: float = 0.01) -> Layer:
    """Leaky ReLU: x where positive, `slope` x elsewhere.

    Forward ``y = x where x > 0, else slope x``; backward ``dx = dy where x > 0, else slope dy``; at
    the kink the slope is `slope`. Saved: y, which has the sign of x.

    Raises `fnn.InputError` for a negative `slope`. Source: Maas, Hannun and Ng 2013, section 2.

    >>> import jax.numpy as jnp
    >>> leaky_relu(0.5).apply((), (), jnp.array([-2.0, 3.0]))[0]
    Array([-1.,  3.], dtype=float32)
    """
    _check_positive("slope", slope, zero=True)

    def bend(x: Any) -> Any:
        return jnp.where(x > 0, x, slope * x)

    return _from_output(bend, lambda y: jnp.where(y > 0, 1, slope).astype(y.dtype))


@constructor
def elu(alpha: float = 1.0) -> Layer:
    """Exponential linear unit: x where positive, and bent towards ``-alpha`` elsewhere.

    Forward ``y = x where x > 0, else alpha (exp(x) - 1)``; backward ``dx = dy where x > 0, else
    dy (y + alpha)``; at the kink the slope is `alpha`. Saved: y.

    Raises `fnn.InputError` for an `alpha` that is not positive. Source: Clevert, Unterthiner and
    Hochreiter 2015, arXiv:1511.07289, eq. 15.

    >>> import jax.numpy as jnp
    >>> elu().apply((), (), jnp.array([-100.0, 3.0]))[0]
    Array([-1.,  3.], dtype=float32)
    """
    _check_positive("alpha", alpha)
    return _from_output(lambda x: jax.nn.elu(x, alpha), lambda y: jnp.where(y > 0, 1, y + alpha))


@constructor
def selu() -> Layer:
    """Scaled ELU: deep stacks of it tend to mean zero and variance one.

    Forward ``y = l x where x > 0, else l a (exp(x) - 1)`` with l = 1.0507... and a = 1.6732...;
    backward ``dx = l dy where x > 0, else dy (y + l a)``; at the kink the slope is l a. Saved: y.

    Source: Klambauer, Unterthiner, Mayr and Hochreiter 2017, arXiv:1706.02515, eqs. 2 and 14.

    >>> import jax.numpy as jnp
    >>> selu().apply((), (), jnp.array([-100.0, 1.0]))[0]
    Array([-1.7580993,  1.050701 ], dtype=float32)
    """
    alpha, gain = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    return _from_output(
        jax.nn.selu, lambda y: jnp.where(y > 0, gain, y + gain * alpha).astype(y.dtype)
    )


@constructor
def softplus() -> Layer:
    """Softplus, ``log(1 + exp(x))``: a smooth approximation of ReLU.

    Forward ``y = log(1 + exp(x))``; backward ``dx = dy (1 - exp(-y))``, which is
    ``dy sigmoid(x)``. Saved: y. Source: Dugas et al. 2000, NIPS 13, section 3.

    >>> import jax.numpy as jnp
    >>> softplus().apply((), (), jnp.array([0.0]))[0]
    Array([0.6931472], dtype=float32)
    """
    return _from_output(jax.nn.softplus, lambda y: -jnp.expm1(-y))


def _check_positive(name: str, value: float, zero: bool = False) -> None:
    if not (value >= 0 if zero else value > 0):
        bound = "0 or more" if zero else "more than 0"
        raise InputError(f"{name} of {bound}", describe(value), "its sign tells y's branch")
