"""Norms of gradients and parameters, whose squares neither overflow nor vanish.

The square of a float32 beyond 1e19 is infinite, and that of one below 1e-19 is 0. Where the sum of
the squares says that this may have happened, they are taken again over a unit, the power of two
next to the largest number: dividing by it rounds nothing. Else one pass is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.arrays import require_arrays
from fnn._core.precision import upcast
from fnn._core.types import Array, PyTree, Scalar


class Norm(NamedTuple):
    """A norm as ``length * unit``, which may itself be beyond the range of its dtype."""

    length: Array
    unit: Array

    def value(self) -> Array:
        """Return the norm as one number."""
        return self.length * self.unit


def as_norm(value: Array) -> Norm:
    """Return a number of 0 or more as a norm, to divide by it."""
    unit = power_of_two(value)
    return Norm(value / unit, unit)


def norm_of(tree: PyTree) -> Norm:
    """Return the Euclidean norm of all values of a tree together, in float32 or wider.

    >>> norm_of(jnp.array([3e30, 4e30])).value()
    Array(5.e+30, dtype=float32)
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    dtype = jnp.float64 if any(leaf.dtype == jnp.float64 for leaf in leaves) else jnp.float32
    leaves = [leaf.astype(dtype) for leaf in leaves]
    total = sum((jnp.sum(jnp.square(leaf)) for leaf in leaves), jnp.zeros((), dtype))

    def scaled() -> Norm:
        largest = jnp.zeros((), dtype)
        for leaf in leaves:
            largest = jnp.maximum(largest, jnp.max(jnp.abs(leaf), initial=0))
        unit = power_of_two(largest)
        squares = (jnp.sum(jnp.square(leaf / unit)) for leaf in leaves)
        return Norm(jnp.sqrt(sum(squares, jnp.zeros((), dtype))), unit)

    return _in_range_or(total, scaled)


def _in_range_or(total: Array, scaled: Callable[[], Norm]) -> Norm:
    """Return the root of a sum of squares, or what `scaled` gives where squares were lost."""
    info = jnp.finfo(total.dtype)
    # Far above what any number of squares adds that are too small to be numbers.
    fine = (jnp.isfinite(total) & (total > float(info.tiny) ** 0.5)).all()
    plain = Norm(jnp.sqrt(total), jnp.ones_like(total))
    found: Norm = jax.lax.cond(fine, lambda: plain, scaled)
    return found


def norm_along(x: Array, axes: tuple[int, ...] | None) -> Norm:
    """Return the Euclidean norms of an array along axes, which stay with length 1; None means all.

    >>> norm_along(jnp.array([[3e-30], [4e-30]]), (0,)).value()
    Array([[5.e-30]], dtype=float32)
    """
    x = upcast(x)

    def scaled() -> Norm:
        unit = power_of_two(jnp.max(jnp.abs(x), axes, keepdims=True, initial=0))
        return Norm(jnp.sqrt(jnp.sum(jnp.square(x / unit), axes, keepdims=True)), unit)

    return _in_range_or(jnp.sum(jnp.square(x), axes, keepdims=True), scaled)


def global_norm(tree: PyTree) -> Array:
    """Return the Euclidean norm of all values of a tree together, in float32 or wider.

    The squares are taken over a power of two, so that they neither overflow nor vanish.

    Args:
        tree: arrays of any shapes and floating dtypes.
    Shapes:    the norm ()
    Raises:    InputError for what is no array, and for arrays of integers.

    >>> import jax.numpy as jnp
    >>> global_norm({"a": jnp.array([3e30]), "b": jnp.array([4e30])})
    Array(5.e+30, dtype=float32)

    """
    if jax.tree.leaves(tree):
        tree = require_arrays(tree, "a tree")
    for leaf in jax.tree.leaves(tree):
        check.floating(leaf, "the arrays")
    return norm_of(tree).value()


def scaled_to(x: Array, norm: Norm, wanted: Scalar) -> Array:
    """Return an array times ``wanted / norm``, in float32 or wider; 1 where the norm is 0.

    Not by that one factor, which may be beyond the range where the result is not.

    >>> x = jnp.array([3e30, 4e30])
    >>> scaled_to(x, norm_of(x), 1.0).round(3)
    Array([0.6, 0.8], dtype=float32)
    """
    x = upcast(x)
    unit, length = norm.unit.astype(x.dtype), norm.length.astype(x.dtype)
    wanted = jnp.asarray(wanted).astype(x.dtype)
    # The inverse of a power of two is exact, and a product cheaper than a quotient.
    return x * (1 / unit) * jnp.where(length > 0, wanted / jnp.where(length > 0, length, 1), unit)


def shortened(x: Array, norm: Norm, limit: Scalar) -> Array:
    """Return an array times ``min(1, limit / norm)``, in its own dtype.

    >>> x = jnp.array([3e30, 4e30])
    >>> shortened(x, norm_of(x), 1.0).round(3), shortened(x, norm_of(x), 1e31)
    (Array([0.6, 0.8], dtype=float32), Array([3.e+30, 4.e+30], dtype=float32))
    """
    limit = jnp.asarray(limit).astype(norm.length.dtype)
    long = norm.length > limit / norm.unit
    return jnp.where(long, scaled_to(x, norm, limit).astype(x.dtype), x)


def power_of_two(size: Array) -> Array:
    """Return the power of two next to a size of 0 or more, far enough from the ends of the range.

    >>> power_of_two(jnp.array([0.3, 5.0]))
    Array([0.25, 4.  ], dtype=float32)
    """
    info = jnp.finfo(size.dtype)
    # Without a mantissa what is left is the power. Its inverse must be a number too.
    power = jax.lax.reduce_precision(jax.lax.stop_gradient(size), info.nexp, 0)
    end = 2.0 ** (info.maxexp - 28)
    return jnp.clip(power, 1 / end, end)
