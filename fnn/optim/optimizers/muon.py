"""Optimizers that see a weight as a matrix: its rows and columns, or its singular vectors."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import NamedTuple

import jax

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.types import Array, Coefficient, Grads, Number, Params, PyTree, Updates
from fnn.optim._hyperparameters import (
    Hyperparameter,
    cast_like,
    check_epsilon,
    first_step,
    next_step,
    resolve,
)
from fnn.optim._moving_average import decayed, running, zeros
from fnn.optim._norms import global_norm
from fnn.optim._paths import leaf_paths, matching
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
    otherwise: Optimizer | None = None,
    *,
    stacked: str | None = None,
    epsilon: Number = 1e-8,
) -> Optimizer:
    """Muon: the momentum with all its singular values near 1.

    X comes of a Newton-Schulz iteration to the nearest orthogonal matrix. Embeddings and the output
    layer are better left to another optimizer, by `by_path`.

    Update:    of a weight (I, O): m_t = momentum m_{t-1} + (1 - momentum) g_t, with `nesterov` d =
        momentum m_t + (1 - momentum) g_t, else d = m_t; update -learning_rate (sqrt(max(1, O / I))
        X + weight_decay p), where X starts as d / (|d| + epsilon) (norm of Frobenius) and becomes
        `iterations` times a X + (b A + c A^2) X with A = X X^T.

    Args:
        learning_rate: size of the step, 0 or more, or a schedule.
        momentum: share of the mean that stays, in [0, 1).
        nesterov: whether the mean is looked ahead.
        weight_decay: multiple of the parameters, 0 or more, or a schedule.
        iterations: number of Newton-Schulz steps, 1 or more.
        otherwise: the optimizer of arrays with one axis or none; None for `adam` with the same
            learning rate.
        stacked: pattern over the paths of parameters that hold several along their first axis, as
            those inside `fnn.repeat` do: each is a matrix of its own.
        epsilon: what keeps the quotient finite, above 0.
    Shapes:    a weight (I, O); the kernel of a convolution, or any array of more axes, (..., I, O)
        is read as the matrix (... * I, O).
    Raises:    InputError for a value out of range, for what is no optimizer and for a pattern that
        matches no parameter.
    Source:    Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks",
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
    check.hyperparameter(learning_rate, "learning_rate", least=0)
    check.number(momentum, "momentum", least=0, below=1)
    check.flag(nesterov, "nesterov")
    check.hyperparameter(weight_decay, "weight_decay", least=0)
    check.count(iterations, "iterations")
    check_epsilon(epsilon)
    rest = adam(learning_rate) if otherwise is None else otherwise
    check_optimizer("an optimizer", rest, plain=True)
    matrices = _of_matrices(
        learning_rate, momentum, nesterov, weight_decay, iterations, stacked, epsilon
    )
    return chain(
        masked(matrices, lambda params: _matrices(params, stacked, True)),
        masked(rest, lambda params: _matrices(params, stacked, False)),
    )


def _of_matrices(
    learning_rate: Hyperparameter,
    momentum: Number,
    nesterov: bool,
    weight_decay: Coefficient,
    iterations: int,
    stacked: str | None,
    epsilon: Number,
) -> Optimizer:
    """Make the optimizer for the arrays that are matrices, or stacks of them."""

    def init(params: Params, /) -> MuonState:
        return MuonState(first_step(learning_rate, weight_decay), zeros(params))

    def update(grads: Grads, state: MuonState, params: Params, /) -> tuple[Updates, MuonState]:
        rate, pull = resolve(learning_rate, state.step), resolve(weight_decay, state.step)
        mean = tree_map_like(lambda m, g: running(momentum, m, g), state.mean, grads)
        ahead = mean
        if nesterov:
            ahead = tree_map_like(lambda m, g: running(momentum, m, g), mean, grads)
        updates = tree_map_like(
            lambda g, d, p, several: (
                -cast_like(rate, d)
                * decayed(_stretched(d, iterations, epsilon, several=several), pull, p)
            ),
            grads,
            ahead,
            params,
            _stacks(params, stacked),
        )
        return updates, MuonState(next_step(state.step), mean)

    return Optimizer(init, update)


def _stretched(d: Array, iterations: int, epsilon: Number, *, several: bool) -> Array:
    """Return ``sqrt(max(1, O / I)) X`` for an array, or for each of a stack."""
    if several:
        return jax.vmap(lambda one: _stretched(one, iterations, epsilon, several=False))(d)
    matrix = d.reshape(-1, d.shape[-1])
    stretch = math.sqrt(max(1, matrix.shape[1] / max(matrix.shape[0], 1)))
    return (stretch * orthogonal(matrix, iterations, epsilon)).reshape(d.shape)


def orthogonal(matrix: Array, iterations: int, epsilon: Number = 1e-8) -> Array:
    """Push the singular values of a matrix to about 1, by the iteration of `muon`.

    Args:
        matrix: (M, N), any real numbers.
        iterations: number of Newton-Schulz steps.
        epsilon: what keeps the quotient by the norm finite, above 0.

    >>> import jax.numpy as jnp
    >>> values = jnp.linalg.svd(orthogonal(jnp.array([[3.0, 1.0], [0.0, 0.2]]), 5))[1]
    >>> bool((abs(values - 1) < 0.35).all())
    True
    """
    a, b, c = _QUINTIC
    # Of the two products take the smaller one: (X X^T) X = X (X^T X).
    flat = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = flat / (global_norm(flat) + cast_like(epsilon, flat))
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def _stacks(params: Params, stacked: str | None) -> PyTree:
    """Return which arrays hold several parameters along their first axis."""
    # Of a part of the parameters the pattern may mean none.
    found = [stacked is not None and fnmatchcase(path, stacked) for path in leaf_paths(params)]
    return jax.tree.unflatten(jax.tree.structure(params), found)


def _matrices(params: Params, stacked: str | None, wanted: bool) -> PyTree:
    """Return which arrays are matrices, or stacks of them; or which are not."""
    several = _stacks(params, None) if stacked is None else matching(stacked, params)
    return jax.tree.map(lambda p, some: (p.ndim - some >= 2) == wanted, params, several)
