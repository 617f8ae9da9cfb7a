"""Constraints: descent that stays in a set, by going back to its nearest point after every step.

A constraint is a function from an array to the nearest array of the set; any function will do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp

from fnn._core.description import Described, constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import Array, Number, PyTree, Scalar
from fnn.optim._paths import by_leaf
from fnn.optim.optimizer import Optimizer

Projection: TypeAlias = Callable[[Array], Array]


@dataclass(frozen=True, eq=False, repr=False)
class Constraint(Described):
    """A function from an array to the nearest one of a set."""

    functions: ClassVar[tuple[str, ...]] = ("nearest",)
    nearest: Projection

    def __call__(self, point: Array) -> Array:
        """Return the nearest point of the set."""
        return self.nearest(point)


@constructor
def project(onto: Projection | Mapping[str, Projection]) -> Optimizer:
    """Projected gradient descent: parameters brought back to a set after every step.

    ``P(p + u) - p`` in place of the update u, P the nearest point of the set, one leaf at a time.
    Stands last, ``chain(sgd(0.1), project(constraint.non_negative()))``; or by patterns over paths,
    the first match counts: ``project({"*/weight": constraint.max_norm(3.0)})``. Numbers that the
    set leaves alone keep their update to the bit. The others arrive within one rounding of
    ``p + (P - p)``; at 0 they are exact.

    Raises `fnn.InputError` for what is no function, for a pattern that matches nothing, and where a
    projection changes shape. Source: Bertsekas 1976, doi:10.1109/TAC.1976.1101194, eq. 2.

    >>> import fnn, jax.numpy as jnp
    >>> optimizer = fnn.optim.chain(fnn.optim.sgd(0.1), project(non_negative()))
    >>> params = jnp.array([0.5, 0.25])
    >>> optimizer.update(jnp.array([1.0, 4.0]), optimizer.init(params), params)[0]
    Array([-0.1 , -0.25], dtype=float32)
    """
    for projection in onto.values() if isinstance(onto, Mapping) else (onto,):
        if not callable(projection):
            raise InputError(
                "a projection, array -> array",
                describe(projection),
                "pass one, as in fnn.optim.constraint.box(-1.0, 1.0)",
            )

    def init(params: PyTree, /) -> tuple[()]:
        if isinstance(onto, Mapping):
            by_leaf(onto, params)
        return ()

    def update(updates: PyTree, state: tuple[()], params: PyTree, /) -> tuple[PyTree, tuple[()]]:
        leaves, structure = jax.tree.flatten(updates)
        chosen = by_leaf(onto, params) if isinstance(onto, Mapping) else [onto] * len(leaves)
        kept = [
            u if projection is None else _kept(projection, p, u)
            for projection, p, u in zip(chosen, jax.tree.leaves(params), leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, kept), state

    return Optimizer(init, update)


def _kept(projection: Projection, p: Array, u: Array) -> Array:
    moved = p + u
    nearest = projection(moved)
    if nearest.shape != moved.shape:
        raise InputError(
            f"a projection that keeps the shape {moved.shape}",
            f"{nearest.shape}",
            "return the nearest point of the set",
        )
    return jnp.where(nearest == moved, u, nearest.astype(u.dtype) - p.astype(u.dtype))


@constructor
def box(low: float, high: float) -> Constraint:
    """Box: every entry between two bounds, ``min(max(p, low), high)``.

    Raises `fnn.InputError` unless low is below high.

    >>> box(-1.0, 1.0)(jnp.array([-3.0, 0.5]))
    Array([-1. ,  0.5], dtype=float32)
    """
    if not low < high:
        raise InputError("low below high", f"{low} and {high}", "swap or widen them")
    return Constraint(lambda p: jnp.clip(p, low, high))


@constructor
def non_negative() -> Constraint:
    """Non-negative orthant: ``max(p, 0)``.

    >>> non_negative()(jnp.array([-3.0, 0.5]))
    Array([0. , 0.5], dtype=float32)
    """
    return Constraint(lambda p: jnp.maximum(p, 0))


@constructor
def ball(radius: Number) -> Constraint:
    """Ball: the norm of the array at most the radius, ``p min(1, radius / |p|)``.

    Raises `fnn.InputError` for a radius that is not positive.

    >>> ball(1.0)(jnp.array([0.0, 5.0]))
    Array([0., 1.], dtype=float32)
    """
    _check_radius(radius)
    return Constraint(lambda p: _shortened(p, radius, tuple(range(p.ndim))))


@constructor
def max_norm(limit: Number) -> Constraint:
    """Max-norm: the norm of the weights that feed each unit at most a limit.

    Units lie along the last axis: columns of a dense weight (I, O), filters of a convolution
    (H, W, I, O). ``w_o min(1, limit / |w_o|)``. For a bias (O,) it bounds each number.

    Raises `fnn.InputError` for a limit that is not positive. Source: Srebro and Shraibman 2005;
    Srivastava et al. 2014, JMLR 15, sec. 5.1, with limits of 3 to 4.

    >>> max_norm(1.0)(jnp.array([[0.0, 0.25], [5.0, 0.25]]))
    Array([[0.  , 0.25],
           [1.  , 0.25]], dtype=float32)
    """
    _check_radius(limit, "a limit")
    return Constraint(lambda p: _shortened(p, limit, tuple(range(p.ndim - 1))))


@constructor
def sphere(radius: Number = 1.0) -> Constraint:
    """Sphere: the norm of the array equal to the radius, ``radius p / |p|``.

    All points of the sphere are equally near to zero; it goes to the one of equal numbers.

    Raises `fnn.InputError` for a radius that is not positive.

    >>> sphere(2.0)(jnp.array([3.0, 4.0]))
    Array([1.2, 1.6], dtype=float32)
    """
    _check_radius(radius)

    def nearest(p: Array) -> Array:
        norm = _norm(p, tuple(range(p.ndim)))
        scaled = p * (radius / jnp.where(norm > 0, norm, 1)).astype(p.dtype)
        return jnp.where(norm > 0, scaled, jnp.full_like(p, radius / p.size**0.5))

    return Constraint(nearest)


@constructor
def simplex(total: Number = 1.0) -> Constraint:
    """Simplex: entries along the last axis non-negative, of a given sum.

    ``max(p - c, 0)`` with the c that gives the sum, found from the numbers in order.

    Raises `fnn.InputError` for a total that is not positive. Source: Duchi et al. 2008, ICML,
    figure 1.

    >>> simplex()(jnp.array([0.5, 0.75, -3.0]))
    Array([0.375, 0.625, 0.   ], dtype=float32)
    """
    _check_radius(total, "a total")

    def nearest(p: Array) -> Array:
        largest_first = -jnp.sort(-p, axis=-1)
        rank = jax.lax.broadcasted_iota(p.dtype, p.shape, p.ndim - 1) + 1
        shift = (jnp.cumsum(largest_first, axis=-1) - total) / rank
        used = (largest_first > shift).sum(-1, keepdims=True)
        return jnp.maximum(p - jnp.take_along_axis(shift, used - 1, -1), 0)

    return Constraint(nearest)


def _norm(p: Array, axes: tuple[int, ...]) -> Array:
    wide = jnp.float64 if p.dtype == jnp.float64 else jnp.float32
    return jnp.sqrt(jnp.sum(jnp.square(p.astype(wide)), axes, keepdims=True))


def _shortened(p: Array, limit: Scalar, axes: tuple[int, ...]) -> Array:
    norm = _norm(p, axes)
    scale = jnp.where(norm > limit, limit / jnp.where(norm > 0, norm, 1), 1)
    return jnp.where(norm > limit, p * scale.astype(p.dtype), p)


def _check_radius(value: Any, what: str = "a radius") -> None:
    if isinstance(value, int | float) and not value > 0:
        raise InputError(f"{what} above 0", describe(value), "pass a larger one")
