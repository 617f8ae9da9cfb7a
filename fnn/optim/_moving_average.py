"""Running means of gradients: the arithmetic that optimizers share."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.precision import wide_dtype
from fnn._core.types import Array, Number, Params, PyTree, Scalar, Unchecked
from fnn.optim._hyperparameters import cast_like


def wide(leaf: Array) -> Unchecked:
    """Return the dtype to sum the values of an array in: float32 or wider."""
    return wide_dtype(leaf.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.float32


def zeros(params: Params) -> PyTree:
    """Return zeros in the shapes of a tree, in float32 or wider.

    In half precision a running mean would stand still: its small shares are rounded away.

    >>> zeros(jnp.ones(2, "bfloat16"))
    Array([0., 0.], dtype=float32)
    """
    return jax.tree.map(lambda p: jnp.zeros(p.shape, wide(p)), params)


def copies(params: Params) -> PyTree:
    """Return copies in float32 or wider: training gives buffers away, the parameters' too."""
    return jax.tree.map(lambda p: jnp.array(p, wide(p)), params)


def running(share: Scalar, old: Array, new: Array) -> Array:
    """Return ``share old + (1 - share) new`` in the dtype of the old."""
    share = cast_like(share, old)
    return share * old + (1 - share) * new.astype(old.dtype)


def running_root(share: Scalar, old: Array, new: Array) -> Array:
    """Return ``sqrt(share old^2 + (1 - share) new^2)`` in the dtype of the old.

    What is kept of a running mean square is its root: of a gradient of 1e20 the square is infinite,
    and of one of 1e-25 it is 0.

    >>> running_root(0.75, jnp.zeros(2), jnp.array([2e30, 2e-30]))
    Array([1.e+30, 1.e-30], dtype=float32)
    """
    share, new = cast_like(share, old), new.astype(old.dtype)
    into, back = _into_range(jnp.maximum(old, jnp.abs(new)))
    return jnp.sqrt(share * jnp.square(into * old) + (1 - share) * jnp.square(into * new)) * back


def square_root(value: Number) -> Scalar:
    """Return the root of a hyper-parameter, a plain number for a plain one.

    >>> square_root(4.0)
    2.0
    """
    return math.sqrt(value) if isinstance(value, int | float) else jnp.sqrt(value)


def root_sum_square(x: Array, y: Array) -> Array:
    """Return ``sqrt(x^2 + y^2)``, for x of 0 or more, in the dtype of x.

    >>> root_sum_square(jnp.array([3e30, 3e-30]), jnp.array([4e30, 4e-30]))
    Array([5.e+30, 5.e-30], dtype=float32)
    """
    y = jnp.asarray(y).astype(x.dtype)
    into, back = _into_range(jnp.maximum(x, jnp.abs(y)))
    return jnp.sqrt(jnp.square(into * x) + jnp.square(into * y)) * back


def _into_range(size: Array) -> tuple[Array, Array]:
    """Return a power of two that takes a size to where squares are finite and not 0, and back."""
    exponent = jnp.finfo(size.dtype).maxexp
    edge, far = 2.0 ** (exponent // 2 - 4), 2.0 ** (exponent * 5 // 8)
    large, small = size > edge, size < 1 / edge
    # Selected, not computed: a division for every value would cost as much as the square root.
    return (
        jnp.where(large, 1 / far, jnp.where(small, far, 1)).astype(size.dtype),
        jnp.where(large, far, jnp.where(small, 1 / far, 1)).astype(size.dtype),
    )


def safe_divide(one: Scalar, other: Scalar, defined: Array) -> Array:
    """Return ``one / other`` where that is defined, and 1 elsewhere, with a derivative everywhere.

    >>> below = jnp.array([4.0, 0.0])
    >>> safe_divide(3.0, below, below > 0)
    Array([0.75, 1.  ], dtype=float32)
    """
    # With the division last all of it is one kernel for one number: XLA repeats what comes after a
    # division for every number that it scales, and makes two kernels of it.
    return jnp.where(defined, one, 1) / jnp.where(defined, other, 1)


def decayed(direction: Array, rate: Scalar, params: Array) -> Array:
    """Return ``direction + rate params`` in the dtype of the direction; for a plain 0 that alone.

    0 times a parameter is not nothing to a compiler: it would still have to be read.
    """
    if check.is_zero(rate):
        return direction
    return direction + cast_like(rate, direction) * params.astype(direction.dtype)


def grown(beta: Number, step: Array) -> Array:
    """Return ``1 - beta^step``, the sum of the weights of a running mean that started from zero.

    Exact where beta is close to 1.

    >>> float(grown(0.5, jnp.int32(3)))
    0.875
    """
    rate = math.log(beta) if isinstance(beta, float) and beta > 0 else jnp.log(beta)
    return -jnp.expm1(step.astype(jnp.result_type(float)) * cast_like(rate, jnp.zeros(())))


def unbiased(beta: Number, step: Array) -> Callable[[Array], Array]:
    """Return the function ``m -> m / (1 - beta^step)``, the mean without its start from zero."""
    # One division for all numbers, not one for each.
    factor = 1 / grown(beta, step)
    return lambda m: cast_like(factor, m) * m


def unbiased_root(beta: Number, step: Array, epsilon: Number) -> Callable[[Array], Array]:
    """Return the function ``r -> r / sqrt(1 - beta^step) + epsilon``, of a root mean square r."""
    factor = 1 / jnp.sqrt(grown(beta, step))
    return lambda r: cast_like(factor, r) * r + cast_like(epsilon, r)
