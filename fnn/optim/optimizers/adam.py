"""Adam and its variants: a running mean of the gradient over one of its size."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp

from fnn._core import check
from fnn._core.arrays import larger
from fnn._core.description import constructor
from fnn._core.types import Array, Coefficient, Grads, Number, Params, PyTree, Scalar, Updates
from fnn.optim._hyperparameters import Hyperparameter, cast_like, check_epsilon, resolve
from fnn.optim._moving_average import (
    decayed,
    grown,
    running,
    running_root,
    unbiased,
    unbiased_root,
    zeros,
)
from fnn.optim.optimizer import Optimizer, tree_map_like

# ``(g, m, r, p) -> direction`` for one array, whose update is ``-learning_rate direction``.
Direction: TypeAlias = Callable[[Array, Array, Array, Array], Array]


class AdamState(NamedTuple):
    """The step count, and running mean and root mean square of the gradient: trees like params."""

    step: Array
    mean: PyTree
    root: PyTree


@constructor
def adam(
    learning_rate: Hyperparameter,
    beta1: Number = 0.9,
    beta2: Number = 0.999,
    *,
    epsilon: Number = 1e-8,
) -> Optimizer:
    """Adam: the mean of past gradients over their root mean square.

    The means are kept in float32 or wider: in half precision a share of 0.001 would be rounded
    away. Of v the root is kept, which a gradient beyond 1e19 does not overflow.

    Update:    m_t = beta1 m_{t-1} + (1 - beta1) g_t, v_t = beta2 v_{t-1} + (1 - beta2) g_t^2,
        update -learning_rate m^ / (sqrt(v^) + epsilon) with m^ = m_t / (1 - beta1^t) and
        v^ = v_t / (1 - beta2^t), t from 1, which undo the start from zero.

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        beta1: share of the mean that stays, in [0, 1).
        beta2: share of the mean square that stays, in [0, 1).
        epsilon: what keeps the quotient finite, above 0.
    Raises:    InputError for a value out of range.
    Source:    Kingma and Ba 2014, arXiv:1412.6980, algorithm 1.

    >>> import jax.numpy as jnp
    >>> optimizer = adam(0.5)
    >>> params = jnp.array([1.0, 1.0])
    >>> optimizer.update(jnp.array([2.0, -0.5]), optimizer.init(params), params)[0].round(4)
    Array([-0.5,  0.5], dtype=float32)

    """
    check_moments(learning_rate, beta1, beta2, epsilon)

    def at(step: Array) -> Direction:
        mean, root = unbiased(beta1, step), unbiased_root(beta2, step, epsilon)
        return lambda g, m, r, p: mean(m) / root(r)

    return by_moments(learning_rate, beta1, beta2, at)


@constructor
def adamw(
    learning_rate: Hyperparameter,
    beta1: Number = 0.9,
    beta2: Number = 0.999,
    weight_decay: Coefficient = 0.01,
    *,
    epsilon: Number = 1e-8,
) -> Optimizer:
    """AdamW: `adam` with decoupled weight decay, which does not pass through the means.

    In the paper the decay is scaled by the schedule alone, here by the whole learning rate, as
    everywhere else today.

    Update:    -learning_rate (m^ / (sqrt(v^) + epsilon) + weight_decay p), the means of `adam`

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        beta1: share of the mean that stays, in [0, 1).
        beta2: share of the mean square that stays, in [0, 1).
        weight_decay: multiple of the parameters, 0 or more, or a schedule.
        epsilon: what keeps the quotient finite, above 0.
    Raises:    InputError for a value out of range.
    Source:    Loshchilov and Hutter 2017, arXiv:1711.05101, algorithm 2.

    >>> import jax.numpy as jnp
    >>> optimizer = adamw(0.5, weight_decay=0.1)
    >>> params = jnp.array([1.0, 1.0])
    >>> optimizer.update(jnp.array([2.0, -0.5]), optimizer.init(params), params)[0].round(4)
    Array([-0.55,  0.45], dtype=float32)

    """
    check_moments(learning_rate, beta1, beta2, epsilon)
    check.hyperparameter(weight_decay, "weight_decay", least=0)

    def at(step: Array) -> Direction:
        mean, root = unbiased(beta1, step), unbiased_root(beta2, step, epsilon)
        pull = resolve(weight_decay, step - 1)
        return lambda g, m, r, p: decayed(mean(m) / root(r), pull, p)

    return by_moments(learning_rate, beta1, beta2, at)


@constructor
def nadam(
    learning_rate: Hyperparameter,
    beta1: Number = 0.9,
    beta2: Number = 0.999,
    *,
    epsilon: Number = 1e-8,
) -> Optimizer:
    """NAdam: `adam` with Nesterov momentum, beta1 constant.

    Update:    -learning_rate m' / (sqrt(v^) + epsilon) with m' = beta1 m_t / (1 - beta1^(t+1)) +
        (1 - beta1) g_t / (1 - beta1^t), the rest as in `adam`

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        beta1: share of the mean that stays, in [0, 1).
        beta2: share of the mean square that stays, in [0, 1).
        epsilon: what keeps the quotient finite, above 0.
    Raises:    InputError for a value out of range.
    Source:    Dozat 2016, ICLR workshop, algorithm 2.

    >>> import jax.numpy as jnp
    >>> optimizer = nadam(0.5)
    >>> params = jnp.array([1.0])
    >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(params), params)
    >>> round(float(updates[0]), 4)
    -0.7368

    """
    check_moments(learning_rate, beta1, beta2, epsilon)

    def at(step: Array) -> Direction:
        share = cast_like(beta1, grown(beta1, step))
        # The factors first: a large gradient over 1 - beta1 would overflow.
        past, now = share / grown(beta1, step + 1), (1 - share) / grown(beta1, step)
        root = unbiased_root(beta2, step, epsilon)
        return lambda g, m, r, p: (
            (cast_like(past, m) * m + cast_like(now, m) * g.astype(m.dtype)) / root(r)
        )

    return by_moments(learning_rate, beta1, beta2, at)


@constructor
def radam(
    learning_rate: Hyperparameter,
    beta1: Number = 0.9,
    beta2: Number = 0.999,
    *,
    epsilon: Number = 1e-8,
) -> Optimizer:
    """Rectified Adam: `adam` once the mean square can be trusted, the mean alone before.

    Update:    -learning_rate r_t m^ / (sqrt(v^) + epsilon) where n_t > 4, and -learning_rate m^
        elsewhere, with n = 2 / (1 - beta2) - 1, n_t = n - 2 t beta2^t / (1 - beta2^t) and
        r_t^2 = (n_t - 4) (n_t - 2) n / ((n - 4) (n - 2) n_t), the rest as in `adam`

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        beta1: share of the mean that stays, in [0, 1).
        beta2: share of the mean square that stays, in [0, 1).
        epsilon: what keeps the quotient finite, above 0.
    Raises:    InputError for a value out of range.
    Source:    Liu et al. 2019, arXiv:1908.03265, algorithm 2; the epsilon is that of `adam`.

    >>> import jax.numpy as jnp
    >>> optimizer = radam(0.5)
    >>> params = jnp.array([1.0])
    >>> optimizer.update(jnp.array([2.0]), optimizer.init(params), params)[0].round(4)
    Array([-1.], dtype=float32)

    """
    check_moments(learning_rate, beta1, beta2, epsilon)

    def at(step: Array) -> Direction:
        mean, root = unbiased(beta1, step), unbiased_root(beta2, step, epsilon)
        trusted, scale = _rectification(beta2, step)
        return lambda g, m, r, p: mean(m) * jnp.where(trusted, cast_like(scale, m) / root(r), 1)

    return by_moments(learning_rate, beta1, beta2, at)


def _rectification(beta2: Number, step: Array) -> tuple[Array, Array]:
    """Return whether the mean square of `radam` can be trusted, and r_t where it is."""
    weight = grown(beta2, step)
    longest = 2 / (1 - cast_like(beta2, weight)) - 1
    length = longest - 2 * step.astype(weight.dtype) * (1 - weight) / weight
    trusted = length > 4
    # A square root of what is negative where it is not asked for would still be a NaN.
    n = jnp.where(trusted, length, 5)
    scale = jnp.sqrt((n - 4) * (n - 2) * longest / ((longest - 4) * (longest - 2) * n))
    return trusted, scale


class AmsgradState(NamedTuple):
    """As `AdamState`, and the largest unbiased root mean square so far."""

    step: Array
    mean: PyTree
    root: PyTree
    largest: PyTree


@constructor
def amsgrad(
    learning_rate: Hyperparameter,
    beta1: Number = 0.9,
    beta2: Number = 0.999,
    *,
    epsilon: Number = 1e-8,
) -> Optimizer:
    """AMSGrad: `adam` over the largest mean square so far, so that steps never grow back.

    The paper does not undo the start from zero: its m and v stand in the place of m^ and v^.

    Update:    l_t = max(l_{t-1}, v^), update -learning_rate m^ / (sqrt(l_t) + epsilon), the means
        of `adam`

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        beta1: share of the mean that stays, in [0, 1).
        beta2: share of the mean square that stays, in [0, 1).
        epsilon: what keeps the quotient finite, above 0.
    Raises:    InputError for a value out of range.
    Source:    Reddi, Kale and Kumar 2018, arXiv:1904.09237, algorithm 2.

    >>> import jax.numpy as jnp
    >>> optimizer = amsgrad(0.5)
    >>> params = jnp.array([1.0])
    >>> optimizer.update(jnp.array([2.0]), optimizer.init(params), params)[0].round(4)
    Array([-0.5], dtype=float32)

    """
    check_moments(learning_rate, beta1, beta2, epsilon)

    def init(params: Params, /) -> AmsgradState:
        return AmsgradState(jnp.int32(0), zeros(params), zeros(params), zeros(params))

    def update(
        grads: Grads, state: AmsgradState, params: Params, /
    ) -> tuple[Updates, AmsgradState]:
        del params
        rate, step = resolve(learning_rate, state.step), state.step + 1
        unbiased_mean, unbiased_size = unbiased(beta1, step), unbiased_root(beta2, step, 0.0)
        mean, root = _moments(beta1, beta2, state.mean, state.root, grads)
        largest = tree_map_like(lambda most, r: larger(most, unbiased_size(r)), state.largest, root)
        updates = tree_map_like(
            lambda g, m, most: (
                -cast_like(rate, m) * unbiased_mean(m) / (most + cast_like(epsilon, most))
            ),
            grads,
            mean,
            largest,
        )
        return updates, AmsgradState(step, mean, root, largest)

    return Optimizer(init, update)


class AdamaxState(NamedTuple):
    """The step count, the running mean of the gradient and its decaying largest size."""

    step: Array
    mean: PyTree
    size: PyTree


@constructor
def adamax(
    learning_rate: Hyperparameter,
    beta1: Number = 0.9,
    beta2: Number = 0.999,
    *,
    epsilon: Number = 1e-8,
) -> Optimizer:
    """AdaMax: the mean of past gradients over the largest of them, which fades.

    The paper has no epsilon, and 0 / 0 where all gradients were 0.

    Update:    u_t = max(beta2 u_{t-1}, |g_t| + epsilon), update -learning_rate / (1 - beta1^t) m_t
        / u_t, m_t as in `adam`

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        beta1: share of the mean that stays, in [0, 1).
        beta2: share of the largest size that stays, in [0, 1).
        epsilon: what keeps the quotient finite, above 0.
    Raises:    InputError for a value out of range.
    Source:    Kingma and Ba 2014, arXiv:1412.6980, algorithm 2.

    >>> import jax.numpy as jnp
    >>> optimizer = adamax(0.5)
    >>> params = jnp.array([1.0, 1.0])
    >>> optimizer.update(jnp.array([2.0, -0.5]), optimizer.init(params), params)[0].round(4)
    Array([-0.5,  0.5], dtype=float32)

    """
    check_moments(learning_rate, beta1, beta2, epsilon)

    def init(params: Params, /) -> AdamaxState:
        return AdamaxState(jnp.int32(0), zeros(params), zeros(params))

    def update(grads: Grads, state: AdamaxState, params: Params, /) -> tuple[Updates, AdamaxState]:
        del params
        rate, step = resolve(learning_rate, state.step), state.step + 1
        unbiased_mean = unbiased(beta1, step)
        mean = tree_map_like(lambda m, g: running(beta1, m, g), state.mean, grads)
        size = tree_map_like(
            lambda u, g: larger(
                cast_like(beta2, u) * u, jnp.abs(g.astype(u.dtype)) + cast_like(epsilon, u)
            ),
            state.size,
            grads,
        )
        updates = tree_map_like(
            lambda g, m, u: -cast_like(rate, m) * unbiased_mean(m) / u, grads, mean, size
        )
        return updates, AdamaxState(step, mean, size)

    return Optimizer(init, update)


def by_moments(
    learning_rate: Hyperparameter, beta1: Number, beta2: Number, at: Callable[[Array], Direction]
) -> Optimizer:
    """Make an optimizer with the two running means of `adam`.

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        beta1: share of the running mean that stays, in [0, 1).
        beta2: share of the running mean square that stays, in [0, 1).
        at: from the step, counted from 1, to the direction ``(g, m, r, p) -> direction`` for one
            array, r the root of the mean square.
    """

    def init(params: Params, /) -> AdamState:
        return AdamState(jnp.int32(0), zeros(params), zeros(params))

    def update(grads: Grads, state: AdamState, params: Params, /) -> tuple[Updates, AdamState]:
        rate, step = resolve(learning_rate, state.step), state.step + 1
        mean, root = _moments(beta1, beta2, state.mean, state.root, grads)
        direction = at(step)
        updates = tree_map_like(
            lambda g, m, r, p: -cast_like(rate, m) * direction(g, m, r, p),
            grads,
            mean,
            root,
            params,
        )
        return updates, AdamState(step, mean, root)

    return Optimizer(init, update)


def _moments(
    beta1: Scalar, beta2: Scalar, mean: PyTree, root: PyTree, grads: Grads
) -> tuple[PyTree, PyTree]:
    """Return running mean and root mean square with one gradient more."""
    return (
        tree_map_like(lambda m, g: running(beta1, m, g), mean, grads),
        tree_map_like(lambda r, g: running_root(beta2, r, g), root, grads),
    )


def check_moments(
    learning_rate: Hyperparameter, beta1: Number, beta2: Number, epsilon: Number
) -> None:
    """Raise `InputError` for what no optimizer with these running means can work with.

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        beta1: share of the running mean that stays, in [0, 1).
        beta2: share of the running mean square that stays, in [0, 1).
        epsilon: what keeps the quotient finite, above 0.
    """
    check.hyperparameter(learning_rate, "learning_rate", least=0)
    check.number(beta1, "beta1", least=0, below=1)
    check.number(beta2, "beta2", least=0, below=1)
    check_epsilon(epsilon)
