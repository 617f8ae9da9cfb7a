"""A plain function as a layer."""

from __future__ import annotations

from collections.abc import Callable

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.tree import inexact_leaves
from fnn._core.types import Cotangent, Input, Key, Output, Params, Residuals, State, Unchecked
from fnn.layer import Layer, autodiff, stateless


@constructor
def from_function(
    f: Callable[[Input], Output],
    backward: Callable[[Input, Cotangent], Cotangent] | None = None,
) -> Layer:
    """Layer of a pure function of x: no parameters, no state, no randomness.

    Layers of one function are equal if it is the same object: a lambda written twice makes two
    layers.

    Forward:   y = f(x)
    Backward:  dx = backward(x, dy)

    Args:
        f: the function.
        backward: its vector-Jacobian product by hand. Without it the gradient is that of autodiff:
            `jax.vjp` runs in forward, what it saves are the residuals, and reports mark the layer
            ``auto``, as with `fnn.autodiff`.
    Shapes:    x and y are arrays, or trees of them
    Saves:     x
    Raises:    InputError for what is no function, and for a dx in another shape than x.

    >>> import jax.numpy as jnp
    >>> square = from_function(lambda x: x**2, lambda x, dy: 2 * x * dy)
    >>> y, state, residuals = square.forward((), (), jnp.array([3.0]))
    >>> y, square.backward((), residuals, jnp.array([1.0]))[1]
    (Array([9.], dtype=float32), Array([6.], dtype=float32))
    >>> from_function(jnp.sin).derivation, square.derivation
    ('auto', 'manual')
    """
    _check_function(f, "f", "x")
    if backward is None:

        def apply(
            params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
        ) -> tuple[Output, State]:
            del params, key, train
            return f(x), state

        return autodiff(lambda key, x: ((), ()), apply)

    _check_function(backward, "backward", "x, dy")

    def pull_back(params: Params, x: Residuals, dy: Cotangent) -> tuple[Params, Cotangent]:
        del params
        dx = backward(x, dy)
        check.same_shape(inexact_leaves(x), dx)
        return (), dx

    return stateless(lambda key, x: (), lambda params, x: (f(x), x), pull_back)


def _check_function(value: Unchecked, name: str, takes: str) -> None:
    """Raise unless a value is a function, and no layer, which can be called too."""
    check.function(value, name, takes=takes)
    if isinstance(value, Layer):
        raise InputError(f"{name} to be a function", describe(value), "put the layer in itself")
