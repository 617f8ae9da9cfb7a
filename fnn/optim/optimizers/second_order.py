"""Optimizers that look at curvature: by past steps, products with the Hessian, the loss itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.types import Array, Coefficient, NoiseKey, Number, PyTree
from fnn.optim._hyperparameters import (
    Hyperparameter,
    cast_like,
    check_count,
    check_fraction,
    check_number,
    check_positive,
    resolve,
)
from fnn.optim._moving_average import decayed, running, wide, zeros
from fnn.optim.optimizer import GradientAt, Optimizer, check_optimizer, from_step, tree_map_like


class LbfgsState(NamedTuple):
    """What `lbfgs` remembers, all numbers of a tree in one row.

    The step count, the last parameters and gradient (n,), the last `memory` steps s and changes of
    the gradient y (memory, n) with ``1 / s.y`` (memory,), 0 where there is none, and gamma.
    """

    step: Array
    params: Array
    grads: Array
    steps: Array
    changes: Array
    inverses: Array
    gamma: Array


@constructor
def lbfgs(learning_rate: Hyperparameter = 1.0, memory: int = 10) -> Optimizer:
    """L-BFGS: Newton's method with the inverse Hessian that the last steps tell.

    Update ``-learning_rate H g``, H by the recursion of two loops over the last `memory` pairs ``s
    = p_t - p_{t-1}``, ``y = g_t - g_{t-1}``, from ``gamma = s.y / y.y`` of the newest; in the first
    step gamma is ``min(1, 1 / |g|)``. A pair with ``s.y <= 0`` is left out, so that H stays
    positive. For the whole data in one batch: noise in g ruins y. Most problems need
    `backtracking` around it: ``backtracking(lbfgs())``. Computed in float32 or better.

    Raises `fnn.InputError` for a negative learning rate or a memory below 1. Source: Nocedal 1980,
    Math. Comput. 35; Nocedal and Wright 2006, algorithms 7.4 and 7.5.

    >>> import jax, jax.numpy as jnp
    >>> optimizer, scale = lbfgs(), jnp.array([1.0, 10.0])
    >>> params = jnp.array([1.0, 1.0])
    >>> state = optimizer.init(params)
    >>> for _ in range(8):
    ...     updates, state = optimizer.update(scale * params, state, params)
    ...     params = params + updates
    >>> bool(abs(params).max() < 1e-3)
    True
    """
    check_number("learning_rate", learning_rate)
    check_count("memory", memory)

    def init(params: PyTree, /) -> LbfgsState:
        row = _row(params)
        table = jnp.zeros((memory, row.size), row.dtype)
        return LbfgsState(
            jnp.int32(0),
            jnp.zeros_like(row),
            jnp.zeros_like(row),
            table,
            table + 0,
            jnp.zeros(memory, row.dtype),
            jnp.ones((), row.dtype),
        )

    def update(grads: PyTree, state: LbfgsState, params: PyTree, /) -> tuple[PyTree, LbfgsState]:
        p, g = _row(params), _row(grads)
        s, y = p - state.params, g - state.grads
        product, first = _dot(s, y), state.step == 0
        good = (product > 0) & ~first
        slot = (state.step - 1) % memory
        square = _dot(g, g)
        start = jnp.minimum(1, 1 / jnp.sqrt(jnp.where(square > 0, square, 1)))
        gamma = jnp.where(good, product / jnp.where(good, _dot(y, y), 1), state.gamma)
        state = LbfgsState(
            state.step + 1,
            p,
            g,
            state.steps.at[slot].set(jnp.where(good, s, 0)),
            state.changes.at[slot].set(jnp.where(good, y, 0)),
            state.inverses.at[slot].set(jnp.where(good, 1 / jnp.where(good, product, 1), 0)),
            jnp.where(first, start, gamma),
        )
        way = _two_loops(g, state, slot, memory)
        rate = cast_like(resolve(learning_rate, state.step - 1), way)
        return _rows(-rate * way, grads), state

    return Optimizer(init, update)


def _two_loops(g: Array, state: LbfgsState, newest: Array, memory: int) -> Array:
    """Return H g: from the newest pair to the oldest, and back."""
    slots = (newest - jnp.arange(memory, dtype=jnp.int32)) % memory

    # A loop, not a chain of ten: the compiler would compute its beginning anew at every link.
    def down(q: Array, slot: Array) -> tuple[Array, Array]:
        alpha = _get(state.inverses, slot) * _dot(_get(state.steps, slot), q)
        return q - alpha * _get(state.changes, slot), alpha

    def up(r: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
        slot, alpha = at
        beta = _get(state.inverses, slot) * _dot(_get(state.changes, slot), r)
        return r + (alpha - beta) * _get(state.steps, slot), None

    q, alphas = jax.lax.scan(down, g, slots)
    r, _ = jax.lax.scan(up, state.gamma * q, (slots, alphas), reverse=True)
    return r


def _dot(one: Array, other: Array) -> Array:
    # Not one @ other: a sum is computed where the rows of a table lie, without a copy of them.
    return jnp.sum(one * other)


def _get(table: Array, slot: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(table, slot, keepdims=False)


@constructor
def backtracking(
    optimizer: Optimizer, shrink: Number = 0.5, slope: Number = 1e-4, trials: int = 25
) -> Optimizer:
    """Backtracking line search: an update shortened until the loss falls enough.

    Update ``t u`` with the first t of ``1, shrink, shrink^2, ...`` for which ``L(p + t u) <= L(p) +
    slope t g.u``, the last of `trials` if none does. The loss is that of the batch, with the same
    randomness at every trial. The optimizer inside sees the step that was taken in the next one, as
    `lbfgs` does.

    Raises `fnn.InputError` for a shrink or a slope outside (0, 1), `trials` below 1, an optimizer
    that needs more than the gradient; and where it is not given the loss, outside of
    `fnn.train_step`. Source: Armijo 1966, Pacific J. Math. 16(1); Nocedal and Wright 2006,
    algorithm 3.1.

    >>> import fnn
    >>> backtracking(fnn.optim.lbfgs())
    backtracking(lbfgs())
    """
    check_optimizer("an optimizer", optimizer, plain=True)
    for name, value in (("shrink", shrink), ("slope", slope)):
        check_fraction(name, value)
        check_positive(**{name: value})
    check_count("trials", trials)

    def step(
        gradient_at: GradientAt, params: PyTree, state: PyTree, /
    ) -> tuple[tuple[Any, PyTree], PyTree, PyTree]:
        (value, aux), grads = gradient_at(params)
        updates, state = optimizer.update(grads, state, params)
        descent = slope * _dot(_row(grads), _row(updates))

        def scaled(t: Array) -> PyTree:
            return tree_map_like(lambda u: t.astype(u.dtype) * u, updates)

        def goes_on(at: tuple[Array, Array]) -> Array:
            trial, t = at
            (reached, _), _ = gradient_at(jax.tree.map(jnp.add, params, scaled(t)))
            # Not "above": a loss of NaN is no descent.
            enough = reached <= value + cast_like(t * descent, value)
            return ~enough & (trial < trials - 1)

        start = jnp.int32(0), jnp.ones((), descent.dtype)
        _, t = jax.lax.while_loop(goes_on, lambda at: (at[0] + 1, at[1] * shrink), start)
        return (value, aux), scaled(t), state

    return from_step(optimizer.init, step)


class SophiaState(NamedTuple):
    """The key, the step count, and running means of gradient and of the Hessian's diagonal."""

    key: Array
    step: Array
    mean: PyTree
    curvature: PyTree


@constructor
def sophia(
    learning_rate: Hyperparameter,
    beta1: Number = 0.96,
    beta2: Number = 0.99,
    gamma: Number = 0.01,
    epsilon: Number = 1e-12,
    weight_decay: Coefficient = 0.0,
    every: int = 10,
    *,
    key: NoiseKey,
) -> Optimizer:
    """Sophia: the mean of past gradients over the curvature, clipped.

    ``m_t = beta1 m_{t-1} + (1 - beta1) g_t``; in steps 0, `every`, 2 `every`, ... ``h_t = beta2 h +
    (1 - beta2) u * (H u)`` with signs u drawn anew and H the Hessian of the batch's loss, whose
    diagonal that estimates; update ``-learning_rate (clip(m_t / max(gamma h_t, epsilon), 1) + decay
    p)``. H u is the derivative of the gradient along u, one more evaluation in such a step; the
    means are kept in float32 or better.

    Raises `fnn.InputError` for a negative learning rate or decay, a beta outside [0, 1), a gamma or
    epsilon that is not positive, `every` below 1, a missing key; and where it is not given the
    gradient as a function, outside of `fnn.train_step`. Source: Liu et al. 2023, arXiv:2305.14342,
    algorithms 1 and 3.

    >>> import jax
    >>> optimizer = sophia(0.1, key=jax.random.key(0))
    >>> str(optimizer).partition("(")[0]
    'sophia'
    """
    check_number("learning_rate", learning_rate)
    check_fraction("beta1", beta1)
    check_fraction("beta2", beta2)
    check_positive(gamma=gamma, epsilon=epsilon)
    check_number("weight_decay", weight_decay)
    check_count("every", every)
    check.key(key)

    def init(params: PyTree, /) -> SophiaState:
        # A copy: training gives its state's buffers away, and the key is the caller's.
        return SophiaState(jnp.array(key), jnp.int32(0), zeros(params), zeros(params))

    def step(
        gradient_at: GradientAt, params: PyTree, state: SophiaState, /
    ) -> tuple[tuple[Any, PyTree], PyTree, SophiaState]:
        value_and_aux, grads = gradient_at(params)
        rate, pull = resolve(learning_rate, state.step), resolve(weight_decay, state.step)
        mean = tree_map_like(lambda m, g: running(beta1, m, g), state.mean, grads)

        def looked() -> PyTree:
            signs = _signs(jax.random.fold_in(state.key, state.step), params)
            _, product = jax.jvp(lambda p: gradient_at(p)[1], (params,), (signs,))
            return tree_map_like(
                lambda h, u, hu: running(beta2, h, u * hu), state.curvature, signs, product
            )

        curvature = jax.lax.cond(state.step % every == 0, looked, lambda: state.curvature)

        def way(g: Array, m: Array, h: Array, p: Array) -> Array:
            del g
            ratio = m / jnp.maximum(cast_like(gamma, h) * h, cast_like(epsilon, h))
            return -cast_like(rate, m) * decayed(jnp.clip(ratio, -1, 1), pull, p)

        updates = tree_map_like(way, grads, mean, curvature, params)
        return value_and_aux, updates, SophiaState(state.key, state.step + 1, mean, curvature)

    return from_step(init, step)


def _signs(key: Array, params: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    signs = [jax.random.rademacher(k, p.shape, p.dtype) for k, p in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, signs)


def _row(tree: PyTree) -> Array:
    """Return all numbers of a tree in one row, in float32 or better."""
    leaves = jax.tree.leaves(tree)
    dtype = jnp.float64 if any(wide(a) == jnp.float64 for a in leaves) else jnp.float32
    # Not concatenate: fused with what follows, it looks up the array of every number.
    row, start = jnp.zeros(sum(leaf.size for leaf in leaves), dtype), 0
    for leaf in leaves:
        row = jax.lax.dynamic_update_slice_in_dim(row, leaf.astype(dtype).ravel(), start, 0)
        start += leaf.size
    return row


def _rows(row: Array, like: PyTree) -> PyTree:
    """Return the numbers of a row in the shapes and dtypes of a tree."""
    leaves, structure = jax.tree.flatten(like)
    sizes = [leaf.size for leaf in leaves]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    parts = [
        row[end - leaf.size : end].reshape(leaf.shape).astype(leaf.dtype)
        for end, leaf in zip(ends, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, parts)
