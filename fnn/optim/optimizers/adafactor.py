"""Adafactor: second moments in factors."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.precision import upcast
from fnn._core.types import Array, Grads, Number, Params, PyTree, Scalar, Updates
from fnn.optim._hyperparameters import Hyperparameter, cast_like, check_epsilon, resolve
from fnn.optim._moving_average import root_sum_square, running_root, square_root, wide
from fnn.optim._norms import global_norm, norm_along
from fnn.optim.optimizer import Optimizer, tree_map_like


class Factors(NamedTuple):
    """Root mean squares of a gradient, over its largest axis and over the second largest."""

    rows: Array
    columns: Array


class AdafactorState(NamedTuple):
    """The step count, and root mean squares of the gradient: `Factors`, or an array where small."""

    step: Array
    root: PyTree


@constructor
def adafactor(
    learning_rate: Hyperparameter = 0.01,
    decay: Number = 0.8,
    limit: Number = 1.0,
    least: int = 128,
    *,
    epsilon1: Number = 1e-30,
    epsilon2: Number = 1e-3,
) -> Optimizer:
    """Adafactor: second moments of which only row and column means are kept.

    The learning rate is relative to the size of the parameters. All means are kept in float32 or
    wider, as their roots.

    Update:    with b_t = 1 - t^-decay, t from 1, R_t = b_t R_{t-1} + (1 - b_t) mean_j(g_t^2 +
        epsilon1), C_t the same with mean_i, V = R C / mean_i(R), u = g / sqrt(V), cut to
        u / max(1, rms(u) / limit), the update is -learning_rate max(epsilon2, rms(p)) u

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        decay: power by which the weight of the newest gradient falls, above 0.
        limit: largest root mean square of u for one array, above 0.
        least: an array is factored over its two largest axes when both are so long or longer; of
            all others the whole V is kept, as in `rmsprop`.
        epsilon1: what is added to the squares, above 0.
        epsilon2: least size of a parameter array, above 0.
    Raises:    InputError for a value out of range.
    Source:    Shazeer and Stern 2018, arXiv:1804.04235, algorithms 4 to 6, where the learning rate
        is min(0.01, 1 / sqrt(t)).

    >>> import jax.numpy as jnp
    >>> optimizer = adafactor(0.5, least=2)
    >>> params = jnp.ones((2, 3))
    >>> state = optimizer.init(params)
    >>> state.root.rows.shape, state.root.columns.shape
    ((2,), (3,))
    >>> optimizer.update(2 * params, state, params)[0][0].round(4)
    Array([-0.5, -0.5, -0.5], dtype=float32)

    """
    check.hyperparameter(learning_rate, "learning_rate", least=0)
    check.number(decay, "decay", above=0)
    check.number(limit, "limit", above=0)
    check.count(least, "least")
    check_epsilon(epsilon1, "epsilon1")
    check_epsilon(epsilon2, "epsilon2")

    def init(params: Params, /) -> AdafactorState:
        return AdafactorState(jnp.int32(0), jax.tree.map(lambda p: _start(p, least), params))

    def update(
        grads: Grads, state: AdafactorState, params: Params, /
    ) -> tuple[Updates, AdafactorState]:
        rate, step = resolve(learning_rate, state.step), state.step + 1
        age = step.astype(jnp.result_type(float))
        share = 1 - age ** -cast_like(decay, age)
        root = jax.tree.map(
            lambda g, old: _renewed(old, upcast(g), share, epsilon1), grads, state.root
        )
        updates = tree_map_like(
            lambda g, r, p: -_step(upcast(g), r, upcast(p), rate, limit, epsilon2),
            grads,
            root,
            params,
        )
        return updates, AdafactorState(step, root)

    return Optimizer(init, update)


def _start(p: Array, least: int) -> Array | Factors:
    """Return zeros in the form that is kept for one array."""
    if len(p.shape) < 2 or p.shape[_largest(p.shape)[1]] < least:
        return jnp.zeros(p.shape, wide(p))
    return Factors(*(jnp.zeros(_without(p.shape, axis), wide(p)) for axis in _largest(p.shape)))


def _renewed(old: Array | Factors, g: Array, share: Array, epsilon: Number) -> Array | Factors:
    """Return the root mean squares with one gradient more."""
    small = square_root(epsilon)
    if not isinstance(old, Factors):
        return running_root(share, old, root_sum_square(jnp.abs(g), small))
    rows, columns = (
        root_sum_square(norm_along(g, (axis,)).value().squeeze(axis) / math.sqrt(n), small)
        for axis, n in ((axis, max(g.shape[axis], 1)) for axis in _largest(g.shape))
    )
    return Factors(running_root(share, old.rows, rows), running_root(share, old.columns, columns))


def _step(
    g: Array, root: Array | Factors, p: Array, rate: Scalar, limit: Number, epsilon: Number
) -> Array:
    """Return the step of one array, without its sign."""
    u = _over_root(g, root)
    u = u / jnp.maximum(1, _rms(u) / cast_like(limit, u))
    return cast_like(rate, u) * jnp.maximum(_rms(p), cast_like(epsilon, p)).astype(u.dtype) * u


def _largest(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the largest and the second largest axis."""
    second, first = sorted(range(len(shape)), key=lambda axis: shape[axis])[-2:]
    return first, second


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Return a shape without one axis."""
    return shape[:axis] + shape[axis + 1 :]


def _over_root(g: Array, root: Array | Factors) -> Array:
    """Return ``g / sqrt(V)``, of factors by ``sqrt(V) = r c / rms(r)``."""
    if not isinstance(root, Factors):
        return g / root
    first, second = _largest(g.shape)
    rows, columns = jnp.expand_dims(root.rows, first), jnp.expand_dims(root.columns, second)
    size = norm_along(rows, (second,)).value() / math.sqrt(max(rows.shape[second], 1))
    return g * (size / rows) * (1 / columns)


def _rms(a: Array) -> Array:
    """Return the root mean square of all values."""
    return global_norm(a) / math.sqrt(max(a.size, 1))
