"""Adafactor."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn._core.description import constructor
from fnn._core.types import Array, Number, PyTree
from fnn.optim._hyperparameters import (
    Hyperparameter,
    cast_like,
    check_count,
    check_number,
    check_positive,
    resolve,
)
from fnn.optim._moving_average import running, wide
from fnn.optim.optimizer import Optimizer, tree_map_like


class Factors(NamedTuple):
    """The mean square of a gradient, as means over its largest axis and over the second largest."""

    rows: Array
    columns: Array


class AdafactorState(NamedTuple):
    """The step count, and the mean squares of the gradient: `Factors`, or an array where small."""

    step: Array
    square: PyTree


@constructor
def adafactor(
    learning_rate: Hyperparameter = 0.01,
    decay: Number = 0.8,
    limit: Number = 1.0,
    epsilon1: Number = 1e-30,
    epsilon2: Number = 1e-3,
    least: int = 128,
) -> Optimizer:
    """Adafactor: second moments of which only row and column means are kept.

    With ``b_t = 1 - t^-decay``, t from 1, ``R_t = b_t R_{t-1} + (1 - b_t) mean_j(g_t^2 +
    epsilon1)``, ``C_t`` the same with mean_i, ``V = R C / mean_i(R)``, ``u = g / sqrt(V)``, cut to
    ``u / max(1, rms(u) / limit)``, the update is ``-learning_rate max(epsilon2, rms(p)) u``: a
    learning rate relative to the size of the parameters. An array is factored over its two largest
    axes when both are `least` or longer; of all others the whole V is kept, as in `rmsprop`. All
    means are kept in float32 or better.

    Raises `fnn.InputError` for a negative learning rate, a decay or limit or epsilon that is not
    positive, and a `least` below 1. Source: Shazeer and Stern 2018, arXiv:1804.04235, algorithms 4
    to 6, where the learning rate is ``min(0.01, 1 / sqrt(t))``.

    >>> import jax.numpy as jnp
    >>> optimizer = adafactor(0.5, least=2)
    >>> params = jnp.ones((2, 3))
    >>> state = optimizer.init(params)
    >>> state.square.rows.shape, state.square.columns.shape
    ((2,), (3,))
    >>> optimizer.update(2 * params, state, params)[0][0]
    Array([-0.5, -0.5, -0.5], dtype=float32)
    """
    check_number("learning_rate", learning_rate)
    check_positive(decay=decay, limit=limit, epsilon1=epsilon1, epsilon2=epsilon2)
    check_count("least", least)

    def init(params: PyTree, /) -> AdafactorState:
        def start(p: Array) -> Any:
            axes = _factored(p.shape, least)
            if axes is None:
                return jnp.zeros(p.shape, wide(p))
            return Factors(*(jnp.zeros(_without(p.shape, axis), wide(p)) for axis in axes))

        return AdafactorState(jnp.int32(0), jax.tree.map(start, params))

    def update(
        grads: PyTree, state: AdafactorState, params: PyTree, /
    ) -> tuple[PyTree, AdafactorState]:
        rate, step = resolve(learning_rate, state.step), state.step + 1
        share = 1 - step.astype(jnp.result_type(float)) ** -decay

        def mean(g: Array, old: Any) -> Any:
            square = jnp.square(g.astype(wide(g))) + cast_like(epsilon1, g)
            axes = _factored(g.shape, least)
            if axes is None:
                return running(share, old, square)
            means = (square.mean(axis) for axis in axes)
            return Factors(*(running(share, a, b) for a, b in zip(old, means, strict=True)))

        def way(g: Array, square: Any, p: Array) -> Array:
            u = g.astype(wide(g)) * _inverse_root(square, _factored(g.shape, least))
            u = u / jnp.maximum(1, _rms(u) / limit)
            size = jnp.maximum(_rms(p.astype(wide(p))), epsilon2)
            return -cast_like(rate, u) * size * u

        square = jax.tree.map(mean, grads, state.square)
        return tree_map_like(way, grads, square, params), AdafactorState(step, square)

    return Optimizer(init, update)


def _factored(shape: tuple[int, ...], least: int) -> tuple[int, int] | None:
    """Return the largest and the second largest axis, None when there is nothing to be saved."""
    if len(shape) < 2:
        return None
    second, first = sorted(range(len(shape)), key=lambda axis: shape[axis])[-2:]
    return (first, second) if shape[second] >= least else None


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _inverse_root(square: Any, axes: tuple[int, int] | None) -> Array:
    if axes is None:
        return jax.lax.rsqrt(square)
    first, second = axes
    rows, columns = jnp.expand_dims(square.rows, first), jnp.expand_dims(square.columns, second)
    return jax.lax.rsqrt(rows / rows.mean(second, keepdims=True)) * jax.lax.rsqrt(columns)


def _rms(a: Array) -> Array:
    return jnp.sqrt(jnp.mean(jnp.square(a)))
