"""Running means of gradients: the arithmetic that optimizers share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn._core.types import Array, PyTree
from fnn.optim._hyperparameters import cast_like


def wide(leaf: Any) -> Any:
    """Return the dtype to sum numbers of an array in: float32 or better."""
    return jnp.float64 if leaf.dtype == jnp.float64 else jnp.float32


def zeros(params: PyTree) -> PyTree:
    """Return zeros in the shapes of a tree, in float32 or better.

    In half precision a running mean would stand still: its small shares are rounded away.

    >>> import jax.numpy as jnp
    >>> zeros(jnp.ones(2, "bfloat16"))
    Array([0., 0.], dtype=float32)
    """
    return jax.tree.map(lambda p: jnp.zeros(p.shape, wide(p)), params)


def copies(params: PyTree) -> PyTree:
    """Return copies in float32 or better: training gives buffers away, the parameters' too."""
    return jax.tree.map(lambda p: jnp.array(p, wide(p)), params)


def running(share: Any, old: Array, new: Array) -> Array:
    """Return ``share old + (1 - share) new`` in the dtype of the old."""
    share = cast_like(share, old)
    return share * old + (1 - share) * new.astype(old.dtype)


def running_square(share: Any, old: Array, new: Array) -> Array:
    """Return ``share old + (1 - share) new^2`` in the dtype of the old."""
    return running(share, old, jnp.square(new.astype(old.dtype)))


def safe_divide(one: Any, other: Any, defined: Any) -> Any:
    """Return ``one / other`` where that is defined, and 1 elsewhere, with a derivative everywhere.

    >>> import jax.numpy as jnp
    >>> below = jnp.array([4.0, 0.0])
    >>> safe_divide(3.0, below, below > 0)
    Array([0.75, 1.  ], dtype=float32)
    """
    # With the division last all of it is one kernel for one number: XLA repeats what comes after a
    # division for every number that it scales, and makes two kernels of it.
    return jnp.where(defined, one, 1) / jnp.where(defined, other, 1)


def decayed(way: Array, rate: Any, params: Array) -> Array:
    """Return ``way + rate params`` in the dtype of the way; for a plain 0 the way as it is.

    Nothing times a parameter is not nothing to a compiler: it would still have to be read.
    """
    if isinstance(rate, int | float) and rate == 0:
        return way
    return way + cast_like(rate, way) * params.astype(way.dtype)


def grown(beta: Any, step: Array) -> Array:
    """Return ``1 - beta^step``, the sum of the weights of a running mean that started from zero.

    Exact where beta is close to 1.

    >>> float(grown(0.5, jnp.int32(3)))
    0.875
    """
    rate = math.log(beta) if isinstance(beta, float) and beta > 0 else jnp.log(beta)
    return -jnp.expm1(step.astype(jnp.result_type(float)) * cast_like(rate, jnp.zeros(())))


def unbiased(beta: Any, step: Array) -> Callable[[Array], Array]:
    """Return the function ``m -> m / (1 - beta^step)``, the mean without its start from zero."""
    # One division for all numbers, not one for each.
    factor = 1 / grown(beta, step)
    return lambda m: cast_like(factor, m) * m


def unbiased_root(beta: Any, step: Array, epsilon: Any) -> Callable[[Array], Array]:
    """Return the function ``v -> sqrt(v / (1 - beta^step)) + epsilon``."""
    square = unbiased(beta, step)
    return lambda v: jnp.sqrt(square(v)) + cast_like(epsilon, v)
