"""Adam and its kin: a running mean of the gradient over one of its size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from fnn._core.description import constructor
from fnn._core.types import Array, Coefficient, Number, PyTree
from fnn.optim._hyperparameters import (
    Hyperparameter,
    cast_like,
    check_fraction,
    check_number,
    check_positive,
    resolve,
)
from fnn.optim._moving_average import (
    decayed,
    grown,
    running,
    running_square,
    unbiased,
    unbiased_root,
    zeros,
)
from fnn.optim.optimizer import Optimizer, tree_map_like


class AdamState(NamedTuple):
    """The step count, and running means of the gradient and of its square: trees like params."""

    step: Array
    mean: PyTree
    square: PyTree


@constructor
def adam(
    learning_rate: Hyperparameter,
    beta1: Number = 0.9,
    beta2: Number = 0.999,
    epsilon: Number = 1e-8,
) -> Optimizer:
    """Adam: the mean of past gradients over the root of their mean square.

    ``m_t = beta1 m_{t-1} + (1 - beta1) g_t``, ``v_t = beta2 v_{t-1} + (1 - beta2) g_t^2``, update
    ``-learning_rate m^ / (sqrt(v^) + epsilon)`` with ``m^ = m_t / (1 - beta1^t)`` and
    ``v^ = v_t / (1 - beta2^t)``, t from 1, which undo the start from zero. The means are kept in
    float32 or better: in half precision a share of 0.001 would be rounded away.

    Raises `fnn.InputError` for a negative learning rate, a beta outside [0, 1) or an epsilon that
    is not positive. Source: Kingma and Ba 2014, arXiv:1412.6980, algorithm 1.

    >>> import jax.numpy as jnp
    >>> optimizer = adam(0.5)
    >>> params = jnp.array([1.0, 1.0])
    >>> optimizer.update(jnp.array([2.0, -0.5]), optimizer.init(params), params)[0].round(4)
    Array([-0.5,  0.5], dtype=float32)
    """
    check_moments(learning_rate, beta1, beta2, epsilon)

    def at(step: Array) -> Direction:
        mean, root = unbiased(beta1, step), unbiased_root(beta2, step, epsilon)
        return lambda g, m, v, p: mean(m) / root(v)

    return by_moments(learning_rate, beta1, beta2, at)


@constructor
def adamw(
    learning_rate: Hyperparameter,
    beta1: Number = 0.9,
    beta2: Number = 0.999,
    epsilon: Number = 1e-8,
    weight_decay: Coefficient = 0.01,
) -> Optimizer:
    """AdamW: `adam` with decoupled weight decay.

    Update ``-learning_rate (m^ / (sqrt(v^) + epsilon) + weight_decay p)``: the decay does not pass
    through the means. In the paper the decay is scaled by the schedule alone, here by the whole
    learning rate, as everywhere else today.

    Raises `fnn.InputError` as `adam` does, and for a negative decay. Source: Loshchilov and Hutter
    2017, arXiv:1711.05101, algorithm 2.

    >>> import jax.numpy as jnp
    >>> optimizer = adamw(0.5, weight_decay=0.1)
    >>> params = jnp.array([1.0, 1.0])
    >>> optimizer.update(jnp.array([2.0, -0.5]), optimizer.init(params), params)[0].round(4)
    Array([-0.55,  0.45], dtype=float32)
    """
    check_moments(learning_rate, beta1, beta2, epsilon)
    check_number("weight_decay", weight_decay)

    def at(step: Array) -> Direction:
        mean, root = unbiased(beta1, step), unbiased_root(beta2, step, epsilon)
        pull = resolve(weight_decay, step - 1)
        return lambda g, m, v, p: decayed(mean(m) / root(v), pull, p)

    return by_moments(learning_rate, beta1, beta2, at)


@constructor
def nadam(
    learning_rate: Hyperparameter,
    beta1: Number = 0.9,
    beta2: Number = 0.999,
    epsilon: Number = 1e-8,
) -> Optimizer:
    """NAdam: `adam` with Nesterov momentum.

    Update ``-learning_rate m' / (sqrt(v^) + epsilon)`` with ``m' = beta1 m_t / (1 - beta1^(t+1)) +
    (1 - beta1) g_t / (1 - beta1^t)``; the rest as in `adam`, beta1 constant.

    Raises `fnn.InputError` as `adam` does. Source: Dozat 2016, ICLR workshop, algorithm 2.

    >>> import jax.numpy as jnp
    >>> optimizer = nadam(0.5)
    >>> params = jnp.array([1.0])
    >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(params), params)
    >>> round(float(updates[0]), 4)
    -0.7368
    """
    check_moments(learning_rate, beta1, beta2, epsilon)

    def at(step: Array) -> Direction:
        ahead, now = unbiased(beta1, step + 1), unbiased(beta1, step)
        root = unbiased_root(beta2, step, epsilon)
        return lambda g, m, v, p: running(beta1, ahead(m), now(g.astype(m.dtype))) / root(v)

    return by_moments(learning_rate, beta1, beta2, at)


@constructor
def radam(
    learning_rate: Hyperparameter,
    beta1: Number = 0.9,
    beta2: Number = 0.999,
    epsilon: Number = 1e-8,
) -> Optimizer:
    """Rectified Adam: `adam` once the mean square can be trusted, the mean alone before.

    With ``n = 2 / (1 - beta2) - 1`` and ``n_t = n - 2 t beta2^t / (1 - beta2^t)``, the update is
    ``-learning_rate r_t m^ / (sqrt(v^) + epsilon)`` where ``n_t > 4``, ``r_t^2 = (n_t - 4) (n_t -
    2) n / ((n - 4) (n - 2) n_t)``, and ``-learning_rate m^`` elsewhere.

    Raises `fnn.InputError` as `adam` does. Source: Liu et al. 2019, arXiv:1908.03265, algorithm 2;
    the epsilon is that of `adam`.

    >>> import jax.numpy as jnp
    >>> optimizer = radam(0.5)
    >>> params = jnp.array([1.0])
    >>> optimizer.update(jnp.array([2.0]), optimizer.init(params), params)[0].round(4)
    Array([-1.], dtype=float32)
    """
    check_moments(learning_rate, beta1, beta2, epsilon)

    def at(step: Array) -> Direction:
        mean, root = unbiased(beta1, step), unbiased_root(beta2, step, epsilon)
        weight = grown(beta2, step)
        longest = 2 / (1 - cast_like(beta2, weight)) - 1
        length = longest - 2 * step.astype(weight.dtype) * (1 - weight) / weight
        trusted = length > 4
        # A square root of what is negative where it is not asked for would still be a NaN.
        n = jnp.where(trusted, length, 5)
        scale = jnp.sqrt((n - 4) * (n - 2) * longest / ((longest - 4) * (longest - 2) * n))

        def direction(g: Array, m: Array, v: Array, p: Array) -> Array:
            del g, p
            return mean(m) * jnp.where(trusted, cast_like(scale, m) / root(v), 1)

        return direction

    return by_moments(learning_rate, beta1, beta2, at)


class AmsgradState(NamedTuple):
    """As `AdamState`, and the largest unbiased mean square so far."""

    step: Array
    mean: PyTree
    square: PyTree
    largest: PyTree


@constructor
def amsgrad(
    learning_rate: Hyperparameter,
    beta1: Number = 0.9,
    beta2: Number = 0.999,
    epsilon: Number = 1e-8,
) -> Optimizer:
    """AMSGrad: `adam` over the largest mean square so far, so that steps never grow back.

    ``l_t = max(l_{t-1}, v^)``, update ``-learning_rate m^ / (sqrt(l_t) + epsilon)``. The paper does
    not undo the start from zero: its m and v stand in the place of m^ and v^.

    Raises `fnn.InputError` as `adam` does. Source: Reddi, Kale and Kumar 2018, arXiv:1904.09237,
    algorithm 2.

    >>> import jax.numpy as jnp
    >>> optimizer = amsgrad(0.5)
    >>> params = jnp.array([1.0])
    >>> optimizer.update(jnp.array([2.0]), optimizer.init(params), params)[0].round(4)
    Array([-0.5], dtype=float32)
    """
    check_moments(learning_rate, beta1, beta2, epsilon)

    def init(params: PyTree, /) -> AmsgradState:
        return AmsgradState(jnp.int32(0), zeros(params), zeros(params), zeros(params))

    def update(
        grads: PyTree, state: AmsgradState, params: PyTree, /
    ) -> tuple[PyTree, AmsgradState]:
        del params
        rate, step = resolve(learning_rate, state.step), state.step + 1
        unbiased_mean, unbiased_square = unbiased(beta1, step), unbiased(beta2, step)
        mean = tree_map_like(lambda m, g: running(beta1, m, g), state.mean, grads)
        square = tree_map_like(lambda v, g: running_square(beta2, v, g), state.square, grads)
        largest = tree_map_like(
            lambda most, v: jnp.maximum(most, unbiased_square(v)), state.largest, square
        )

        def way(g: Array, m: Array, most: Array) -> Array:
            del g
            return (
                -cast_like(rate, m) * unbiased_mean(m) / (jnp.sqrt(most) + cast_like(epsilon, most))
            )

        return tree_map_like(way, grads, mean, largest), AmsgradState(step, mean, square, largest)

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
    epsilon: Number = 1e-8,
) -> Optimizer:
    """AdaMax: the mean of past gradients over the largest of them, which fades.

    ``m_t`` as in `adam`, ``u_t = max(beta2 u_{t-1}, |g_t| + epsilon)``, update ``-learning_rate /
    (1 - beta1^t) m_t / u_t``. The paper has no epsilon, and 0 / 0 where all gradients were 0.

    Raises `fnn.InputError` as `adam` does. Source: Kingma and Ba 2014, arXiv:1412.6980, algorithm
    2.

    >>> import jax.numpy as jnp
    >>> optimizer = adamax(0.5)
    >>> params = jnp.array([1.0, 1.0])
    >>> optimizer.update(jnp.array([2.0, -0.5]), optimizer.init(params), params)[0].round(4)
    Array([-0.5,  0.5], dtype=float32)
    """
    check_moments(learning_rate, beta1, beta2, epsilon)

    def init(params: PyTree, /) -> AdamaxState:
        return AdamaxState(jnp.int32(0), zeros(params), zeros(params))

    def update(grads: PyTree, state: AdamaxState, params: PyTree, /) -> tuple[PyTree, AdamaxState]:
        del params
        rate, step = resolve(learning_rate, state.step), state.step + 1
        unbiased_mean = unbiased(beta1, step)
        mean = tree_map_like(lambda m, g: running(beta1, m, g), state.mean, grads)

        def larger(u: Array, g: Array) -> Array:
            return jnp.maximum(
                cast_like(beta2, u) * u, jnp.abs(g.astype(u.dtype)) + cast_like(epsilon, u)
            )

        size = tree_map_like(larger, state.size, grads)
        updates = tree_map_like(
            lambda g, m, u: -cast_like(rate, m) * unbiased_mean(m) / u, grads, mean, size
        )
        return updates, AdamaxState(step, mean, size)

    return Optimizer(init, update)


Direction = Callable[[Array, Array, Array, Array], Array]


def by_moments(
    learning_rate: Hyperparameter, beta1: Any, beta2: Any, at: Callable[[Array], Direction]
) -> Optimizer:
    """Make an optimizer with the two running means of `adam`.

    `at` takes the step, counted from 1, and returns the direction ``(g, m, v, p) -> way`` for one
    array, whose update is ``-learning_rate way``.
    """

    def init(params: PyTree, /) -> AdamState:
        return AdamState(jnp.int32(0), zeros(params), zeros(params))

    def update(grads: PyTree, state: AdamState, params: PyTree, /) -> tuple[PyTree, AdamState]:
        rate, step = resolve(learning_rate, state.step), state.step + 1
        mean = tree_map_like(lambda m, g: running(beta1, m, g), state.mean, grads)
        square = tree_map_like(lambda v, g: running_square(beta2, v, g), state.square, grads)
        direction = at(step)
        updates = tree_map_like(
            lambda g, m, v, p: -cast_like(rate, m) * direction(g, m, v, p),
            grads,
            mean,
            square,
            params,
        )
        return updates, AdamState(step, mean, square)

    return Optimizer(init, update)


def check_moments(learning_rate: Any, beta1: Any, beta2: Any, epsilon: Any) -> None:
    """Raise `InputError` for what no optimizer with these running means can work with."""
    check_number("learning_rate", learning_rate)
    check_fraction("beta1", beta1)
    check_fraction("beta2", beta2)
    check_positive(epsilon=epsilon)
