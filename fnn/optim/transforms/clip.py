"""Clipping: a gradient of bounded size."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn._core.description import constructor
from fnn._core.types import Array, Number, PyTree
from fnn.optim._hyperparameters import Hyperparameter, cast_like, check_number, check_positive
from fnn.optim._moving_average import safe_divide, wide
from fnn.optim.optimizer import Optimizer, stateless_transform, tree_map_like


@constructor
def clip_by_value(max_value: Hyperparameter) -> Optimizer:
    """Clipping by value: ``min(max(g, -max_value), max_value)`` for every entry of the gradient.

    Raises `fnn.InputError` for a negative `max_value`. Source: Mikolov 2012, Statistical Language
    Models Based on Neural Networks (thesis), section 3.2.2.

    >>> import jax.numpy as jnp
    >>> optimizer = clip_by_value(1.0)
    >>> params = jnp.zeros(2)
    >>> optimizer.update(jnp.array([-3.0, 0.5]), optimizer.init(params), params)[0]
    Array([-1. ,  0.5], dtype=float32)
    """
    check_number("max_value", max_value)

    def change(grads: PyTree, params: PyTree, most: Any) -> PyTree:
        del params
        return tree_map_like(lambda g: jnp.clip(g, -cast_like(most, g), cast_like(most, g)), grads)

    return stateless_transform(change, max_value)


@constructor
def clip_by_norm(max_norm: Hyperparameter) -> Optimizer:
    """Clipping by norm: the gradient of each parameter array shortened on its own.

    ``g min(1, max_norm / |g|)``, the norm computed in float32 or better; a zero gradient stays
    zero. Source: Pascanu, Mikolov and Bengio 2012, arXiv:1211.5063, algorithm 1, array by array.

    Raises `fnn.InputError` for a negative `max_norm`.

    >>> import jax.numpy as jnp
    >>> optimizer = clip_by_norm(1.0)
    >>> grads = {"a": jnp.array([0.0, 2.0]), "b": jnp.array([0.5])}
    >>> optimizer.update(grads, optimizer.init(grads), grads)[0]
    {'a': Array([0., 1.], dtype=float32), 'b': Array([0.5], dtype=float32)}
    """
    check_number("max_norm", max_norm)

    def change(grads: PyTree, params: PyTree, most: Any) -> PyTree:
        del params
        return tree_map_like(lambda g: g * shrinkage(global_norm(g), most).astype(g.dtype), grads)

    return stateless_transform(change, max_norm)


@constructor
def clip_by_global_norm(max_norm: Hyperparameter) -> Optimizer:
    """Clipping by global norm: the gradient of all parameters together shortened.

    ``g min(1, max_norm / |g|)`` with ``|g|^2`` the sum of the squares of all its numbers, computed
    in float32 or better; a zero gradient stays zero. Source: Pascanu, Mikolov and Bengio 2012,
    arXiv:1211.5063, algorithm 1.

    Raises `fnn.InputError` for a negative `max_norm`.

    >>> import jax.numpy as jnp
    >>> optimizer = clip_by_global_norm(1.0)
    >>> params = jnp.zeros(2)
    >>> optimizer.update(jnp.array([0.0, 0.5]), optimizer.init(params), params)[0]
    Array([0. , 0.5], dtype=float32)
    """
    check_number("max_norm", max_norm)

    def change(grads: PyTree, params: PyTree, most: Any) -> PyTree:
        del params
        scale = shrinkage(global_norm(grads), most)
        return tree_map_like(lambda g: g * scale.astype(g.dtype), grads)

    return stateless_transform(change, max_norm)


@constructor
def clip_by_unit_norm(ratio: Hyperparameter = 0.01, least: Number = 1e-3) -> Optimizer:
    """Adaptive gradient clipping: by a fraction of the norm of each unit's weights.

    ``G_i min(1, ratio max(|W_i|, least) / |G_i|)``: adaptive gradient clipping. A unit i is an
    output, the last axis, with all weights that lead to it; an array of one axis, or none, is one
    unit. The norms are computed in float32 or better.

    Raises `fnn.InputError` for a negative ratio or a `least` that is not positive. Source: Brock et
    al. 2021, arXiv:2102.06171, eq. 3.

    >>> import jax.numpy as jnp
    >>> optimizer = clip_by_unit_norm(0.1)
    >>> params = jnp.array([[3.0, 1.0], [4.0, 0.0]])
    >>> optimizer.update(jnp.array([[0.0, 0.05], [5.0, 0.0]]), optimizer.init(params), params)[0]
    Array([[0.  , 0.05],
           [0.5 , 0.  ]], dtype=float32)
    """
    check_number("ratio", ratio)
    check_positive(least=least)

    def change(grads: PyTree, params: PyTree, share: Any) -> PyTree:
        def shorten(g: Array, p: Array) -> Array:
            norm = _unit_norms(p)
            most = cast_like(share, norm) * jnp.maximum(norm, least)
            return g * shrinkage(_unit_norms(g), most).astype(g.dtype)

        return tree_map_like(shorten, grads, params)

    return stateless_transform(change, ratio)


def global_norm(tree: PyTree) -> Any:
    """Return the Euclidean norm of all numbers of a tree together, in float32 or better.

    >>> import jax.numpy as jnp
    >>> global_norm({"a": jnp.array([3.0]), "b": jnp.array([4.0])})
    Array(5., dtype=float32)
    """
    leaves = jax.tree.leaves(tree)
    dtype = jnp.float64 if any(a.dtype == jnp.float64 for a in leaves) else jnp.float32
    squares = (jnp.sum(jnp.square(a.astype(dtype))) for a in leaves)
    return jnp.sqrt(sum(squares, jnp.zeros((), dtype)))


def shrinkage(norm: Any, limit: Any) -> Any:
    """Return ``min(1, limit / norm)``, and 1 for a norm of 0.

    >>> import jax.numpy as jnp
    >>> shrinkage(jnp.array([0.0, 2.0, 4.0]), 3.0)
    Array([1.  , 1.  , 0.75], dtype=float32)
    """
    longest = cast_like(limit, norm)
    return safe_divide(longest, norm, norm > longest)


def _unit_norms(a: Array) -> Array:
    axes = tuple(range(a.ndim - 1)) if a.ndim > 1 else None
    return jnp.sqrt(jnp.sum(jnp.square(a.astype(wide(a))), axes, keepdims=True))
