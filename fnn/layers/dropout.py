"""Dropout: noise that switches neurons off while training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn.errors import InputError, describe
from fnn.layer import Array, Key, Layer, PyTree, check_floating, from_forward
from fnn.origin import constructor


@constructor
def dropout(rate: float) -> Layer:
    """Set a random fraction `rate` of the numbers to zero in training; do nothing otherwise.

    Forward ``y = m x / (1 - rate)`` with m = 0 with probability `rate`, else 1, drawn from `key`
    for every number: the mean of y is x. Backward ``dx = m dy / (1 - rate)``. Out of training
    ``y = x`` and ``dx = dy``. x, y, m (...). Saved in training: m, one byte a number; it is the
    same for float32 and float64.

    Raises `fnn.InputError` for a rate outside [0, 1), and for a missing key in training. Source:
    Srivastava et al. 2014, JMLR 15, section 4, scaled in training instead of afterwards.

    >>> import jax, jax.numpy as jnp
    >>> layer = dropout(0.5)
    >>> layer.apply((), (), jnp.ones(4), key=jax.random.key(2), train=True)[0]
    Array([0., 0., 2., 0.], dtype=float32)
    >>> layer.apply((), (), jnp.ones(4))[0]
    Array([1., 1., 1., 1.], dtype=float32)
    """
    if not 0 <= rate < 1:
        raise InputError(
            "dropout", "a rate in [0, 1)", describe(rate), "pass the fraction to drop, such as 0.2"
        )

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        del params
        check_floating("dropout", x)
        if not train or rate == 0:
            return x, state, ()
        if key is None:
            raise InputError(
                "dropout",
                "a key in training",
                "None",
                "call model.apply(params, state, x, key=jax.random.key(0), train=True)",
            )
        # float32, lest a float64 run draw another mask from the same key.
        kept = jax.random.bernoulli(key, jnp.float32(1 - rate), x.shape)
        return scale(kept, x), state, (kept,)

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        del params
        return (), scale(residuals[0], dy) if residuals else dy

    def scale(kept: Array, x: Any) -> Any:
        return jnp.where(kept, x / (1 - rate), 0)

    return from_forward(lambda key, x: ((), ()), forward, backward)
