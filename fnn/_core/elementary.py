"""Elementary functions by formulas of which XLA makes vector instructions on CPUs too."""

from __future__ import annotations

import math

import jax.numpy as jnp

from fnn._core.types import Array


def softplus(x: Array) -> Array:
    """Return ``log(1 + exp(x))``, without overflow.

    >>> softplus(jnp.array([-200.0, 0.0, 200.0]))
    Array([  0.       ,   0.6931472, 200.       ], dtype=float32)
    """
    positive = x >= 0
    # Not |x|, whose own slope at 0 would be that of neither branch.
    rest = log1p_decay(jnp.where(positive, x, -x))
    # The choice comes last: before a sum XLA for CPUs would take an addition into the sum, and
    # write both of its terms.
    return jnp.where(positive, x + rest, rest)


def log1p_decay(distance: Array) -> Array:
    """Return ``log(1 + exp(-distance))`` for a distance of 0 or more.

    With e = exp(-distance) and s = e / (2 + e) it is 2 artanh(s), a series of odd powers of s. As s
    is at most 1/3 each term is less than a ninth of the one before, and none cancels: in float32
    a quarter of the time of `jnp.log1p`, in its last bits.

    >>> log1p_decay(jnp.array([0.0, 3.0]))
    Array([0.6931472 , 0.04858735], dtype=float32)
    """
    decay = jnp.exp(-distance)
    s = decay / (2 + decay)
    square = s * s
    terms = math.ceil((jnp.finfo(s.dtype).nmant + 1) / math.log2(9))
    total = jnp.full_like(s, 1 / (2 * terms - 1))
    for k in reversed(range(terms - 1)):
        total = total * square + 1 / (2 * k + 1)
    return 2 * s * total
