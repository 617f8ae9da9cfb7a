"""A plain function as a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.tree import inexact_leaves
from fnn._core.types import Key, PyTree
from fnn.layer import Layer, autodiff, stateless


@constructor
def from_function(
    f: Callable[[Any], Any], backward: Callable[[Any, Any], Any] | None = None
) -> Layer:
    """Layer of a pure function of x: no parameters, no state, no randomness.

    Forward ``y = f(x)``; backward ``dx = backward(x, dy)``, the derivative by hand. Saved: x.
    Without `backward` the gradient is that of autodiff: `jax.vjp` runs in forward, what it saves
    are the residuals, and reports mark the layer ``auto``, as with `fnn.autodiff`. x and y are
    arrays, or trees of them. Layers of one function are equal if it is the same object: a lambda
    written twice makes two layers.

    Raises `fnn.InputError` for what is no function, and for a dx in another shape than x.

    >>> import jax.numpy as jnp
    >>> square = from_function(lambda x: x**2, lambda x, dy: 2 * x * dy)
    >>> y, state, residuals = square.forward((), (), jnp.array([3.0]))
    >>> y, square.backward((), residuals, jnp.array([1.0]))[1]
    (Array([9.], dtype=float32), Array([6.], dtype=float32))
    >>> from_function(jnp.sin).derivation, square.derivation
    ('auto', 'manual')
    """
    for value in (f,) if backward is None else (f, backward):
        if not callable(value) or isinstance(value, Layer):
            raise InputError("a function", describe(value), "pass it uncalled, as in jnp.sin")
    if backward is None:

        def apply(
            params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
        ) -> tuple[Any, PyTree]:
            del params, key, train
            return f(x), state

        return autodiff(lambda key, x: ((), ()), apply)

    by_hand = backward

    def pull_back(params: PyTree, x: PyTree, dy: Any) -> tuple[PyTree, Any]:
        del params
        dx = by_hand(x, dy)
        check.same_shape(inexact_leaves(x), dx)
        return (), dx

    return stateless(lambda key, x: (), lambda params, x: (f(x), x), pull_back)
