"""What XLA for CPUs writes to memory once, where it would compute it again in all that reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn._core.mesh import vary_over, varying_axes


def written(function: Callable[..., Any], *arrays: Any) -> Any:
    """Return what a function computes of arrays, on CPUs written to memory before it is read.

    XLA for CPUs computes what is elementwise inside of every kernel that reads it: the 25 terms of
    a convolution over 5x5 for each comparison of a max pool, and again for its gradient. It does
    not look into the branches of a choice, and cannot tell that this one is always taken.

    Args:
        function: of arrays, to an array or a tree of them.
        arrays: those it takes.

    >>> written(jnp.sin, jnp.zeros(2))
    Array([0., 0.], dtype=float32)
    """

    def once(*arrays: Any) -> Any:
        always = jax.lax.optimization_barrier(jnp.bool_(True))
        return jax.lax.cond(always, function, never, *arrays)

    def never(*arrays: Any) -> Any:
        zeros = jax.tree.map(jnp.zeros_like, function(*arrays))
        return vary_over(zeros, varying_axes(arrays))

    return jax.lax.platform_dependent(*arrays, cpu=once, default=function)
