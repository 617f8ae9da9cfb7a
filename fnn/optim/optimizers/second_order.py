"""Optimizers that look at curvature: by past steps, products with the Hessian, the loss itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.mesh import scan
from fnn._core.types import (
    Array,
    Coefficient,
    Grads,
    NoiseKey,
    Number,
    OptState,
    Params,
    PyTree,
    Scalar,
    Updates,
)
from fnn.optim._hyperparameters import Hyperparameter, cast_like, check_epsilon, resolve
from fnn.optim._moving_average import decayed, running, wide, zeros
from fnn.optim._norms import global_norm, power_of_two
from fnn.optim.optimizer import (
    GradientAt,
    Optimizer,
    Taken,
    check_optimizer,
    from_step,
    tree_map_like,
)

# What the count of steps can reach.
_MOST_STEPS = 2**31 - 1


class LbfgsState(NamedTuple):
    """What `lbfgs` remembers, all numbers of a tree in one row.

    The step count, the last parameters and gradient (n,), the last `memory` steps s and changes of
    the gradient y (memory, n), each over a power of two of its size, with ``1 / s.y`` and the ratio
    of the two powers (memory,), 0 where there is none, and gamma.
    """

    step: Array
    params: Array
    grads: Array
    steps: Array
    changes: Array
    inverses: Array
    ratios: Array
    gamma: Array


@constructor
def lbfgs(learning_rate: Hyperparameter = 1.0, memory: int = 10) -> Optimizer:
    """L-BFGS: Newton's method with the inverse Hessian that the last steps tell.

    A pair with ``s.y <= 0`` is left out, so that H stays positive. For the whole data in one batch:
    noise in g ruins y. Most problems need `backtracking` around it: ``backtracking(lbfgs())``.
    Computed in float32 or wider.

    Update:    -learning_rate H g, H by the recursion of two loops over the last `memory` pairs s =
        p_t - p_{t-1}, y = g_t - g_{t-1}, from gamma = s.y / y.y of the newest; in the first step
        gamma is min(1, 1 / |g|)

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        memory: number of pairs, 1 or more.
    Raises:    InputError for a value out of range.
    Source:    Nocedal 1980, Math. Comput. 35; Nocedal and Wright 2006, algorithms 7.4 and 7.5.

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
    check.hyperparameter(learning_rate, "learning_rate", least=0)
    check.count(memory, "memory")

    def init(params: Params, /) -> LbfgsState:
        row = _row(params)
        table, numbers = jnp.zeros((memory, row.size), row.dtype), jnp.zeros(memory, row.dtype)
        return LbfgsState(
            jnp.int32(0),
            jnp.zeros_like(row),
            jnp.zeros_like(row),
            table,
            table + 0,
            numbers,
            numbers + 0,
            jnp.ones((), row.dtype),
        )

    def update(grads: Grads, state: LbfgsState, params: Params, /) -> tuple[Updates, LbfgsState]:
        g = _row(grads)
        slot = (state.step - 1) % memory
        state = _remember(state, _row(params), g, slot)
        direction = _two_loops(g, state, slot, memory)
        rate = cast_like(resolve(learning_rate, state.step - 1), direction)
        return _rows(-rate * direction, grads), state

    return Optimizer(init, update)


def _remember(state: LbfgsState, p: Array, g: Array, slot: Array) -> LbfgsState:
    """Return the state with the newest pair in a slot, where there is a good one."""
    first = state.step == 0
    s, y = p - state.params, g - state.grads
    # The powers of two cancel in H, and keep the products finite and above 0.
    step_unit, change_unit = (power_of_two(jnp.max(jnp.abs(a), initial=0)) for a in (s, y))
    s, y, ratio = s / step_unit, y / change_unit, step_unit / change_unit
    product = _dot(s, y)
    good = (product > 0) & ~first
    length = global_norm(g)
    start = jnp.minimum(1, 1 / jnp.where(length > 0, length, 1))
    gamma = jnp.where(good, product / jnp.where(good, _dot(y, y), 1) * ratio, state.gamma)
    return LbfgsState(
        state.step + 1,
        p,
        g,
        state.steps.at[slot].set(jnp.where(good, s, 0)),
        state.changes.at[slot].set(jnp.where(good, y, 0)),
        state.inverses.at[slot].set(jnp.where(good, 1 / jnp.where(good, product, 1), 0)),
        state.ratios.at[slot].set(jnp.where(good, ratio, 0)),
        jnp.where(first, start, gamma),
    )


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
        return r + (_get(state.ratios, slot) * alpha - beta) * _get(state.steps, slot), None

    q, alphas = scan(down, g, slots)
    r, _ = scan(up, state.gamma * q, (slots, alphas), reverse=True)
    return r


def _dot(one: Array, other: Array) -> Array:
    """Return the inner product of two rows."""
    # Not one @ other: a sum is computed where the rows of a table lie, without a copy of them.
    return jnp.sum(one * other)


def _get(table: Array, slot: Array) -> Array:
    """Return one row of a table, or one number of a row."""
    return jax.lax.dynamic_index_in_dim(table, slot, keepdims=False)


@constructor
def backtracking(
    optimizer: Optimizer, shrink: Number = 0.5, slope: Number = 1e-4, trials: int = 25
) -> Optimizer:
    """Backtracking line search: an update shortened until the loss falls enough.

    The loss is that of the batch, with the same randomness at every trial. The optimizer inside
    sees the step that was taken in the next one, as `lbfgs` does.

    Update:    t u with the first t of 1, shrink, shrink^2, ... for which L(p + t u) <= L(p) +
        slope t g.u, the last of `trials` if none does

    Args:
        optimizer: what gives the update u.
        shrink: share of the length that stays at every trial, in (0, 1).
        slope: share of the expected descent that is enough, in (0, 1).
        trials: most evaluations of the loss, 1 or more.
    Raises:    InputError for a value out of range, and for an optimizer that needs more than the
        gradient; and where it is not given the loss, outside of `fnn.train_step`.
    Source:    Armijo 1966, Pacific J. Math. 16(1); Nocedal and Wright 2006, algorithm 3.1.

    >>> import fnn
    >>> backtracking(fnn.optim.lbfgs())
    backtracking(lbfgs())

    """
    check_optimizer("an optimizer", optimizer, plain=True)
    check.number(shrink, "shrink", above=0, below=1)
    check.number(slope, "slope", above=0, below=1)
    check.count(trials, "trials")

    def step(gradient_at: GradientAt, params: Params, state: OptState, /) -> Taken:
        (value, aux), grads = gradient_at(params)
        updates, state = optimizer.update(grads, state, params)
        g, u = _row(grads), _row(updates)
        t = _search(
            lambda t: gradient_at(jax.tree.map(jnp.add, params, _times(t, updates)))[0][0],
            value,
            cast_like(slope, g) * _dot(g, u),
            cast_like(shrink, g),
            trials,
        )
        return (value, aux), _times(t, updates), state

    return from_step(optimizer.init, step)


def _search(
    reached: Callable[[Array], Scalar], value: Scalar, descent: Array, shrink: Scalar, trials: int
) -> Array:
    """Return the first length from 1 down at which the value falls enough."""

    def goes_on(at: tuple[Array, Array]) -> Array:
        trial, t = at
        # Not "above": a loss of NaN is no descent.
        enough = reached(t) <= value + cast_like(t * descent, value)
        return ~enough & (trial < trials - 1)

    start = jnp.int32(0), jnp.ones((), descent.dtype)
    _, t = jax.lax.while_loop(goes_on, lambda at: (at[0] + 1, at[1] * shrink), start)
    return t


def _times(t: Array, updates: Updates) -> Updates:
    """Return updates times a number."""
    return tree_map_like(lambda u: t.astype(u.dtype) * u, updates)


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
    weight_decay: Coefficient = 0.0,
    every: int = 10,
    *,
    epsilon: Number = 1e-12,
    key: NoiseKey,
) -> Optimizer:
    """Sophia: the mean of past gradients over the curvature, clipped.

    H u is the derivative of the gradient along u, one more evaluation in every step that looks. The
    means are kept in float32 or wider.

    Update:    m_t = beta1 m_{t-1} + (1 - beta1) g_t; in steps 0, `every`, 2 `every`, ... h_t =
        beta2 h + (1 - beta2) u * (H u) with signs u drawn anew and H the Hessian of the batch's
        loss, whose diagonal that estimates; update -learning_rate (clip(m_t / max(gamma h_t,
        epsilon), 1) + weight_decay p)

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        beta1: share of the mean that stays, in [0, 1).
        beta2: share of the curvature that stays, in [0, 1).
        gamma: multiple of the curvature, above 0; the smaller, the more is clipped.
        weight_decay: multiple of the parameters, 0 or more, or a schedule.
        every: number of steps between two looks at the curvature, 1 or more.
        epsilon: least curvature, above 0.
        key: a key of `jax.random`, from which the signs are drawn.
    Raises:    InputError for a value out of range and a missing key; and where it is not given the
        gradient as a function, outside of `fnn.train_step`.
    Source:    Liu et al. 2023, arXiv:2305.14342, algorithms 1 and 3.

    >>> import jax
    >>> optimizer = sophia(0.1, key=jax.random.key(0))
    >>> str(optimizer).partition("(")[0]
    'sophia'

    """
    check.hyperparameter(learning_rate, "learning_rate", least=0)
    check.number(beta1, "beta1", least=0, below=1)
    check.number(beta2, "beta2", least=0, below=1)
    check.number(gamma, "gamma", above=0)
    check_epsilon(epsilon)
    check.hyperparameter(weight_decay, "weight_decay", least=0)
    check.count(every, "every")
    check.key(key)

    def init(params: Params, /) -> SophiaState:
        # A copy: training gives its state's buffers away, and the key is the caller's.
        return SophiaState(jnp.array(key), jnp.int32(0), zeros(params), zeros(params))

    def step(gradient_at: GradientAt, params: Params, state: SophiaState, /) -> Taken:
        value_and_aux, grads = gradient_at(params)
        rate, pull = resolve(learning_rate, state.step), resolve(weight_decay, state.step)
        mean = tree_map_like(lambda m, g: running(beta1, m, g), state.mean, grads)
        curvature = jax.lax.cond(
            state.step % min(every, _MOST_STEPS) == 0,
            lambda: _look(gradient_at, params, state, beta2),
            lambda: state.curvature,
        )
        updates = tree_map_like(
            lambda g, m, h, p: (
                -cast_like(rate, m)
                * decayed(jnp.clip(m / _at_least(epsilon, gamma, h), -1, 1), pull, p)
            ),
            grads,
            mean,
            curvature,
            params,
        )
        return value_and_aux, updates, SophiaState(state.key, state.step + 1, mean, curvature)

    return from_step(init, step)


def _look(gradient_at: GradientAt, params: Params, state: SophiaState, beta2: Number) -> PyTree:
    """Return the running curvature with one estimate of the Hessian's diagonal more."""
    signs = _signs(jax.random.fold_in(state.key, state.step), params)
    _, product = jax.jvp(lambda p: gradient_at(p)[1], (params,), (signs,))
    return tree_map_like(
        lambda h, u, hu: running(beta2, h, u * hu), state.curvature, signs, product
    )


def _at_least(epsilon: Number, gamma: Number, h: Array) -> Array:
    """Return ``max(gamma h, epsilon)``."""
    return jnp.maximum(cast_like(gamma, h) * h, cast_like(epsilon, h))


def _signs(key: Array, params: Params) -> PyTree:
    """Draw a tree of signs, 1 or -1, like the parameters."""
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
