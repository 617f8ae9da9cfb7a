"""Optimizers that see a weight as a matrix: its rows and columns, or its singular vectors."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn._core.description import constructor
from fnn._core.types import Array, Coefficient, Number, PyTree
from fnn.optim._hyperparameters import (
    Hyperparameter,
    cast_like,
    check_count,
    check_fraction,
    check_number,
    check_positive,
    first_step,
    next_step,
    resolve,
)
from fnn.optim._moving_average import decayed, running, zeros
from fnn.optim.optimizer import Optimizer, chain, check_optimizer, tree_map_like
from fnn.optim.optimizers.adam import adam
from fnn.optim.transforms.groups import masked

# The quintic of Jordan's post: steepest at 0 among those that keep [0, 1] near 1.
_QUINTIC = (3.4445, -4.7750, 2.0315)


class MuonState(NamedTuple):
    """The step count, ``()`` without a schedule, and the running mean of the gradient."""

    step: PyTree
    mean: PyTree


@constructor
def muon(
    learning_rate: Hyperparameter,
    momentum: Number = 0.95,
    nesterov: bool = True,
    weight_decay: Coefficient = 0.0,
    iterations: int = 5,
    epsilon: Number = 1e-8,
    otherwise: Optimizer | None = None,
) -> Optimizer:
    """Muon: the momentum with all its singular values near 1.

    For a weight (I, O): ``m_t = momentum m_{t-1} + (1 - momentum) g_t``, with `nesterov` ``d =
    momentum m_t + (1 - momentum) g_t``, else ``d = m_t``; update ``-learning_rate (sqrt(max(1, O /
    I)) X + decay p)``, where X starts as ``d / (|d| + epsilon)`` (norm of Frobenius) and becomes
    `iterations` times ``a X + (b A + c A^2) X`` with ``A = X X^T``: a Newton-Schulz iteration to
    the nearest orthogonal matrix. Arrays of one axis or more than two go by `otherwise`, `adam`
    with the same learning rate if None. Embeddings and the output layer are better left to another
    optimizer too, by `by_path`.

    Raises `fnn.InputError` for a negative learning rate or decay, a momentum outside [0, 1),
    `iterations` below 1, an epsilon that is not positive and for what is no optimizer. Source:
    Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks",
    kellerjordan.github.io/posts/muon.

    >>> import jax.numpy as jnp
    >>> optimizer = muon(0.5)
    >>> params = jnp.eye(2)
    >>> state, grads = optimizer.init(params), jnp.array([[9.0, 0.0], [0.0, 1.0]])
    >>> updates, state = optimizer.update(grads, state, params)
    >>> updates.round(1)
    Array([[-0.4, -0. ],
           [-0. , -0.4]], dtype=float32)
    """
    check_number("learning_rate", learning_rate)
    check_fraction("momentum", momentum)
    check_number("weight_decay", weight_decay)
    check_count("iterations", iterations)
    check_positive(epsilon=epsilon)
    rest = adam(learning_rate) if otherwise is None else otherwise
    check_optimizer("an optimizer", rest, plain=True)

    def init(params: PyTree, /) -> MuonState:
        return MuonState(first_step(learning_rate, weight_decay), zeros(params))

    def update(grads: PyTree, state: MuonState, params: PyTree, /) -> tuple[PyTree, MuonState]:
        rate, pull = resolve(learning_rate, state.step), resolve(weight_decay, state.step)
        mean = tree_map_like(lambda m, g: running(momentum, m, g), state.mean, grads)

        def way(g: Array, m: Array, p: Array) -> Array:
            x = orthogonal(running(momentum, m, g) if nesterov else m, iterations, epsilon)
            stretch = math.sqrt(max(1, g.shape[1] / g.shape[0]))
            return -cast_like(rate, m) * decayed(stretch * x, pull, p)

        return tree_map_like(way, grads, mean, params), MuonState(next_step(state.step), mean)

    return chain(
        masked(Optimizer(init, update), lambda params: _matrices(params, True)),
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
    x = flat / (jnp.sqrt(jnp.sum(jnp.square(flat))) + cast_like(epsilon, flat))
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def _matrices(params: PyTree, wanted: bool) -> PyTree:
    return jax.tree.map(lambda p: (p.ndim == 2) == wanted, params)
