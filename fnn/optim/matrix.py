"""Rules that see a weight as a matrix: its rows and columns, or its singular vectors."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.layer import Array, PyTree
from fnn.optim.groups import masked
from fnn.optim.hyper import (
    Hyper,
    at_step,
    cast,
    check_count,
    check_number,
    check_positive,
    check_share,
    first_step,
    next_step,
)
from fnn.optim.moments import adam
from fnn.optim.rule import UpdateRule, chain, check_rule, each
from fnn.optim.running import decayed, running, wide, zeros
from fnn.origin import constructor

# The quintic of Jordan's post: steepest at 0 among those that keep [0, 1] near 1.
_QUINTIC = (3.4445, -4.7750, 2.0315)


class MuonState(NamedTuple):
    """The step count, ``()`` without a schedule, and the running mean of the gradient."""

    step: PyTree
    mean: PyTree


@constructor
def muon(
    learning_rate: Hyper,
    momentum: float = 0.95,
    nesterov: bool = True,
    decay: Hyper = 0.0,
    iterations: int = 5,
    epsilon: float = 1e-8,
    otherwise: UpdateRule | None = None,
) -> UpdateRule:
    """Step by the momentum with all its singular values near 1.

    For a weight (I, O): ``m_t = momentum m_{t-1} + (1 - momentum) g_t``, with `nesterov` ``d =
    momentum m_t + (1 - momentum) g_t``, else ``d = m_t``; update ``-learning_rate (sqrt(max(1, O /
    I)) X + decay p)``, where X starts as ``d / (|d| + epsilon)`` (norm of Frobenius) and becomes
    `iterations` times ``a X + (b A + c A^2) X`` with ``A = X X^T``: a Newton-Schulz iteration to
    the nearest orthogonal matrix. Arrays of one axis or more than two go by `otherwise`, `adam`
    with the same learning rate if None. Embeddings and the output layer are better left to another
    rule too, by `by_path`.

    Raises `fnn.InputError` for a negative learning rate or decay, a momentum outside [0, 1),
    `iterations` below 1, an epsilon that is not positive and for what is no rule. Source: Jordan et
    al. 2024, "Muon: an optimizer for hidden layers in neural networks",
    kellerjordan.github.io/posts/muon.

    >>> import jax.numpy as jnp
    >>> rule = muon(0.5)
    >>> params = jnp.eye(2)
    >>> updates, state = rule.update(jnp.array([[9.0, 0.0], [0.0, 1.0]]), rule.init(params), params)
    >>> updates.round(1)
    Array([[-0.4, -0. ],
           [-0. , -0.4]], dtype=float32)
    """
    where = "optim.muon"
    check_number(where, "learning_rate", learning_rate)
    check_share(where, "momentum", momentum)
    check_number(where, "decay", decay)
    check_count(where, "iterations", iterations)
    check_positive(where, epsilon=epsilon)
    rest = adam(learning_rate) if otherwise is None else otherwise
    check_rule(where, "a rule", rest, plain=True)

    def init(params: PyTree, /) -> MuonState:
        return MuonState(first_step(learning_rate, decay), zeros(params))

    def update(grads: PyTree, state: MuonState, params: PyTree, /) -> tuple[PyTree, MuonState]:
        rate, pull = at_step(learning_rate, state.step), at_step(decay, state.step)
        mean = each(lambda m, g: running(momentum, m, g), state.mean, grads)

        def way(g: Array, m: Array, p: Array) -> Array:
            x = orthogonal(running(momentum, m, g) if nesterov else m, iterations, epsilon)
            stretch = math.sqrt(max(1, g.shape[1] / g.shape[0]))
            return -cast(rate, m) * decayed(stretch * x, pull, p)

        return each(way, grads, mean, params), MuonState(next_step(state.step), mean)

    return chain(
        masked(UpdateRule(init, update), lambda params: _matrices(params, True)),
        masked(rest, lambda params: _matrices(params, False)),
    )


def orthogonal(matrix: Array, iterations: int, epsilon: Any = 1e-8) -> Array:
    """Push the singular values of a matrix to about 1, by the iteration of `muon`.

    >>> import jax.numpy as jnp
    >>> values = jnp.linalg.svd(orthogonal(jnp.array([[3.0, 1.0], [0.0, 0.2]]), 5))[1]
    >>> bool((abs(values - 1) < 0.35).all())
    True
    """
    a, b, c = _QUINTIC
    # Of the two products take the smaller one: (X X^T) X = X (X^T X).
    flat = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = flat / (jnp.sqrt(jnp.sum(jnp.square(flat))) + cast(epsilon, flat))
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def _matrices(params: PyTree, wanted: bool) -> PyTree:
    return jax.tree.map(lambda p: (p.ndim == 2) == wanted, params)


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
    learning_rate: Hyper = 0.01,
    decay: float = 0.8,
    limit: float = 1.0,
    epsilon1: float = 1e-30,
    epsilon2: float = 1e-3,
    least: int = 128,
) -> UpdateRule:
    """Step over the root of the mean square gradient, of which only row and column means are kept.

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
    >>> rule = adafactor(0.5, least=2)
    >>> params = jnp.ones((2, 3))
    >>> state = rule.init(params)
    >>> state.square.rows.shape, state.square.columns.shape
    ((2,), (3,))
    >>> rule.update(2 * params, state, params)[0][0]
    Array([-0.5, -0.5, -0.5], dtype=float32)
    """
    where = "optim.adafactor"
    check_number(where, "learning_rate", learning_rate)
    check_positive(where, decay=decay, limit=limit, epsilon1=epsilon1, epsilon2=epsilon2)
    check_count(where, "least", least)

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
        rate, step = at_step(learning_rate, state.step), state.step + 1
        share = 1 - step.astype(jnp.result_type(float)) ** -decay

        def mean(g: Array, old: Any) -> Any:
            square = jnp.square(g.astype(wide(g))) + cast(epsilon1, g)
            axes = _factored(g.shape, least)
            if axes is None:
                return running(share, old, square)
            means = (square.mean(axis) for axis in axes)
            return Factors(*(running(share, a, b) for a, b in zip(old, means, strict=True)))

        def way(g: Array, square: Any, p: Array) -> Array:
            u = g.astype(wide(g)) * _inverse_root(square, _factored(g.shape, least))
            u = u / jnp.maximum(1, _rms(u) / limit)
            size = jnp.maximum(_rms(p.astype(wide(p))), epsilon2)
            return -cast(rate, u) * size * u

        square = jax.tree.map(mean, grads, state.square)
        return each(way, grads, square, params), AdafactorState(step, square)

    return UpdateRule(init, update)


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
