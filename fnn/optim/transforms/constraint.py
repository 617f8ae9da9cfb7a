"""Constraints: descent that stays in a set, by going back to its nearest point after every step.

A constraint is a function from an array to the nearest array of the set; any function will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.arrays import largest, rectified
from fnn._core.description import Described, constructor
from fnn._core.errors import InputError
from fnn._core.precision import upcast
from fnn._core.types import Array, Number, Params, Updates
from fnn.optim._hyperparameters import cast_like
from fnn.optim._norms import norm_along, scaled_to, shortened
from fnn.optim._paths import by_leaf
from fnn.optim.optimizer import Optimizer

Projection: TypeAlias = Callable[[Array], Array]


@dataclass(frozen=True, eq=False, repr=False)
class Constraint(Described):
    """Constraint: a function from an array to the nearest one of a set.

    Args:
        nearest: the function; it keeps shape and dtype.
        call: the call of the `constructor` that made it.
    Raises:    InputError for what is no function.

    >>> Constraint(jnp.abs)(jnp.array([-1.0, 2.0]))
    Array([1., 2.], dtype=float32)

    """

    functions: ClassVar[tuple[str, ...]] = ("nearest",)
    nearest: Projection

    def __post_init__(self) -> None:
        check.function(self.nearest, "nearest", takes="point")

    def __call__(self, point: Array) -> Array:
        """Return the nearest point of the set.

        Args:
            point: an array.

        """
        return self.nearest(point)


@constructor
def project(onto: Projection | Mapping[str, Projection]) -> Optimizer:
    """Projected gradient descent: parameters brought back to a set after every step.

    Stands last, ``chain(sgd(0.1), project(constraint.non_negative()))``. Entries that the set
    leaves alone keep their update to the bit. The others arrive within one rounding of
    ``p + (P - p)``; at 0 they are exact. NaN is in no set, and stays NaN.

    Update:    P(p + u) - p in place of u, P the nearest point of the set, one leaf at a time

    Args:
        onto: a projection, array -> array, such as those of `fnn.optim.constraint`; or several by
            patterns over paths, of which the path of a leaf counts first, then the first match:
            ``project({"*/weight": constraint.max_norm(3.0)})``.
    Raises:    InputError for what is no function, where a projection changes shape, and from
        `init` for a pattern that matches no parameter.
    Source:    Bertsekas 1976, doi:10.1109/TAC.1976.1101194, eq. 2.

    >>> import fnn, jax.numpy as jnp
    >>> optimizer = fnn.optim.chain(fnn.optim.sgd(0.1), project(non_negative()))
    >>> params = jnp.array([0.5, 0.25])
    >>> optimizer.update(jnp.array([1.0, 4.0]), optimizer.init(params), params)[0]
    Array([-0.1 , -0.25], dtype=float32)

    """
    for projection in onto.values() if isinstance(onto, Mapping) else (onto,):
        remedy = "pass one from array to array, as fnn.optim.constraint.box(-1.0, 1.0)"
        check.function(projection, "a projection", remedy, takes="point")

    def init(params: Params, /) -> tuple[()]:
        if isinstance(onto, Mapping):
            by_leaf(onto, params)
        return ()

    def update(updates: Updates, state: tuple[()], params: Params, /) -> tuple[Updates, tuple[()]]:
        leaves, structure = jax.tree.flatten(updates)
        chosen = by_leaf(onto, params) if isinstance(onto, Mapping) else [onto] * len(leaves)
        kept = [
            u if projection is None else _kept(projection, p, u)
            for projection, p, u in zip(chosen, jax.tree.leaves(params), leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, kept), state

    return Optimizer(init, update)


def _kept(projection: Projection, p: Array, u: Array) -> Array:
    """Return the update that ends at the nearest point."""
    moved = p + u
    nearest = jnp.asarray(projection(moved))
    if nearest.shape != moved.shape:
        raise InputError(
            f"a projection that keeps the shape {moved.shape}",
            f"{nearest.shape}",
            "return the nearest point of the set",
        )
    return jnp.where(nearest == moved, u, nearest.astype(u.dtype) - p.astype(u.dtype))


@constructor
def box(low: float, high: float) -> Constraint:
    """Box: every entry between two bounds.

    Forward:   q = min(max(p, low), high)

    Args:
        low: the least value; ``-math.inf`` for no bound.
        high: the largest value, above `low`; ``math.inf`` for no bound.
    Raises:    InputError unless low is below high.

    >>> box(-1.0, 1.0)(jnp.array([-3.0, 0.5]))
    Array([-1. ,  0.5], dtype=float32)

    """
    for name, bound in (("low", low), ("high", high)):
        if not (isinstance(bound, float) and math.isinf(bound)):
            check.number(bound, name, remedy="pass one number, or -math.inf or math.inf for none")
    traced = any(isinstance(bound, jax.core.Tracer) for bound in (low, high))
    if not traced and not low < high:
        raise InputError("low below high", f"{low} and {high}", "swap or widen them")
    return Constraint(lambda p: jnp.clip(p, cast_like(low, p), cast_like(high, p)))


@constructor
def non_negative() -> Constraint:
    """Non-negative orthant.

    Forward:   q = max(p, 0)

    >>> non_negative()(jnp.array([-3.0, 0.5]))
    Array([0. , 0.5], dtype=float32)
    """
    return Constraint(rectified)


@constructor
def ball(radius: Number) -> Constraint:
    """Ball: the norm of the array at most the radius.

    The norm is computed in float32 or wider, and its squares neither overflow nor vanish.

    Forward:   q = p min(1, radius / |p|)

    Args:
        radius: of the ball, > 0.
    Raises:    InputError for radius <= 0.

    >>> ball(1.0)(jnp.array([0.0, 5.0]))
    Array([0., 1.], dtype=float32)

    """
    check.number(radius, "radius", above=0)
    return Constraint(lambda p: shortened(p, norm_along(p, None), radius))


@constructor
def max_norm(limit: Number) -> Constraint:
    """Max-norm: the norm of the weights that feed each unit at most a limit.

    Units lie along the last axis: columns of a dense weight (I, O), filters of a convolution
    (H, W, I, O). For a bias (O,) it bounds each entry. The norms are computed in float32 or wider,
    and their squares neither overflow nor vanish.

    Forward:   q_o = w_o min(1, limit / |w_o|)

    Args:
        limit: largest norm, > 0.
    Raises:    InputError for limit <= 0.
    Source:    Srebro and Shraibman 2005; Srivastava et al. 2014, JMLR 15, sec. 5.1, with limits of
        3 to 4.

    >>> max_norm(1.0)(jnp.array([[0.0, 0.25], [5.0, 0.25]]))
    Array([[0.  , 0.25],
           [1.  , 0.25]], dtype=float32)

    """
    check.number(limit, "limit", above=0)
    return Constraint(lambda p: shortened(p, norm_along(p, tuple(range(p.ndim - 1))), limit))


@constructor
def sphere(radius: Number = 1.0) -> Constraint:
    """Sphere: the norm of the array equal to the radius.

    All points of the sphere are equally near to zero; it goes to the one of equal entries. The norm
    is computed in float32 or wider, and its squares neither overflow nor vanish.

    Forward:   q = radius p / |p|

    Args:
        radius: of the sphere, > 0.
    Raises:    InputError for radius <= 0.

    >>> sphere(2.0)(jnp.array([3.0, 4.0]))
    Array([1.2, 1.6], dtype=float32)

    """
    check.number(radius, "radius", above=0)

    def nearest(p: Array) -> Array:
        norm = norm_along(p, None)
        equal = jnp.asarray(radius).astype(norm.length.dtype) / max(p.size, 1) ** 0.5
        return jnp.where(norm.length == 0, equal, scaled_to(p, norm, radius)).astype(p.dtype)

    return Constraint(nearest)


@constructor
def simplex(total: Number = 1.0) -> Constraint:
    """Simplex: entries along the last axis non-negative, of a given sum.

    Computed in float32 or wider, from the differences to the largest entry: the result is as exact
    for large entries as for small ones.

    Forward:   q = max(p - c, 0) with the c that gives the sum, found from the entries in order

    Args:
        total: the sum, > 0.
    Raises:    InputError for total <= 0, and from the projection for an array without an entry
        along its last axis.
    Source:    Duchi et al. 2008, ICML, figure 1.

    >>> simplex()(jnp.array([0.5, 0.75, -3.0]))
    Array([0.375, 0.625, 0.   ], dtype=float32)

    """
    check.number(total, "total", above=0)

    def nearest(p: Array) -> Array:
        if not p.ndim or not p.shape[-1]:
            raise InputError(
                "an array of one entry or more along the last axis",
                str(p.shape),
                "give the parameter an axis, or leave it out by a pattern",
            )
        below = upcast(p)
        below = below - largest(below, -1)
        largest_first = -jnp.sort(-below, axis=-1)
        rank = jax.lax.broadcasted_iota(below.dtype, p.shape, p.ndim - 1) + 1
        shift = (jnp.cumsum(largest_first, axis=-1) - cast_like(total, below)) / rank
        used = (largest_first > shift).sum(-1, keepdims=True)
        # None is above its shift where the entries are NaN: that is what is shown.
        shift = jnp.take_along_axis(shift, jnp.maximum(used - 1, 0), -1)
        return rectified(below - shift).astype(p.dtype)

    return Constraint(nearest)
