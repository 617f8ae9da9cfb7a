"""Clipping: a gradient of bounded size."""

from __future__ import annotations

import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.types import Array, Grads, Number, Params, Scalar, Updates
from fnn.optim._hyperparameters import Hyperparameter, cast_like
from fnn.optim._norms import norm_along, norm_of, shortened
from fnn.optim.optimizer import Optimizer, stateless_transform, tree_map_like


@constructor
def clip_by_value(max_value: Hyperparameter) -> Optimizer:
    """Clipping by value: every entry of the gradient brought into an interval.

    Update:    min(max(g, -max_value), max_value); NaN stays NaN

    Args:
        max_value: largest absolute value, >= 0, or a schedule of it.
    Raises:    InputError for a negative `max_value`.
    Source:    Mikolov 2012, Statistical Language Models Based on Neural Networks (thesis),
        section 3.2.2.

    >>> import jax.numpy as jnp
    >>> optimizer = clip_by_value(1.0)
    >>> params = jnp.zeros(2)
    >>> optimizer.update(jnp.array([-3.0, 0.5]), optimizer.init(params), params)[0]
    Array([-1. ,  0.5], dtype=float32)

    """
    check.hyperparameter(max_value, "max_value", least=0)

    def change(grads: Grads, params: Params, most: Scalar) -> Updates:
        del params
        return tree_map_like(lambda g: jnp.clip(g, -cast_like(most, g), cast_like(most, g)), grads)

    return stateless_transform(change, max_value)


@constructor
def clip_by_norm(max_norm: Hyperparameter) -> Optimizer:
    """Clipping by norm: the gradient of each parameter array shortened on its own.

    The norms are computed in float32 or wider, and their squares neither overflow nor vanish; a
    zero gradient stays zero.

    Update:    g min(1, max_norm / |g|)

    Args:
        max_norm: largest norm, >= 0, or a schedule of it.
    Raises:    InputError for a negative `max_norm`.
    Source:    Pascanu, Mikolov and Bengio 2012, arXiv:1211.5063, algorithm 1, array by array.

    >>> import jax.numpy as jnp
    >>> optimizer = clip_by_norm(1.0)
    >>> grads = {"a": jnp.array([0.0, 2.0]), "b": jnp.array([0.5])}
    >>> optimizer.update(grads, optimizer.init(grads), grads)[0]
    {'a': Array([0., 1.], dtype=float32), 'b': Array([0.5], dtype=float32)}

    """
    check.hyperparameter(max_norm, "max_norm", least=0)

    def change(grads: Grads, params: Params, most: Scalar) -> Updates:
        del params
        return tree_map_like(lambda g: shortened(g, norm_of(g), most), grads)

    return stateless_transform(change, max_norm)


@constructor
def clip_by_global_norm(max_norm: Hyperparameter) -> Optimizer:
    """Clipping by global norm: the gradient of all parameters together shortened.

    The norm is computed in float32 or wider, and its squares neither overflow nor vanish; a zero
    gradient stays zero.

    Update:    g min(1, max_norm / |g|), |g|^2 the sum of the squares of all entries of all arrays

    Args:
        max_norm: largest norm, >= 0, or a schedule of it.
    Raises:    InputError for a negative `max_norm`.
    Source:    Pascanu, Mikolov and Bengio 2012, arXiv:1211.5063, algorithm 1.

    >>> import jax.numpy as jnp
    >>> optimizer = clip_by_global_norm(1.0)
    >>> params = jnp.zeros(2)
    >>> optimizer.update(jnp.array([0.0, 0.5]), optimizer.init(params), params)[0]
    Array([0. , 0.5], dtype=float32)

    """
    check.hyperparameter(max_norm, "max_norm", least=0)

    def change(grads: Grads, params: Params, most: Scalar) -> Updates:
        del params
        norm = norm_of(grads)
        return tree_map_like(lambda g: shortened(g, norm, most), grads)

    return stateless_transform(change, max_norm)


@constructor
def clip_by_unit_norm(ratio: Hyperparameter = 0.01, least: Number = 1e-3) -> Optimizer:
    """Adaptive gradient clipping: by a fraction of the norm of each unit's weights.

    A unit i is an output, the last axis, with all weights that lead to it; an array of one axis, or
    none, is one unit. The norms are computed in float32 or wider, and their squares neither
    overflow nor vanish.

    Update:    G_i min(1, ratio max(|W_i|, least) / |G_i|)

    Args:
        ratio: largest norm of a gradient over that of its weights, >= 0, or a schedule of it.
        least: the norm that weights have at least, so that those of zero can leave it, > 0.
    Raises:    InputError for a negative ratio and for least <= 0.
    Source:    Brock et al. 2021, arXiv:2102.06171, eq. 3.

    >>> import jax.numpy as jnp
    >>> optimizer = clip_by_unit_norm(0.1)
    >>> params = jnp.array([[3.0, 1.0], [4.0, 0.0]])
    >>> optimizer.update(jnp.array([[0.0, 0.05], [5.0, 0.0]]), optimizer.init(params), params)[0]
    Array([[0.  , 0.05],
           [0.5 , 0.  ]], dtype=float32)

    """
    check.hyperparameter(ratio, "ratio", least=0)
    check.number(least, "least", above=0)

    def change(grads: Grads, params: Params, share: Scalar) -> Updates:
        return tree_map_like(lambda g, p: _shortened_units(g, p, share, least), grads, params)

    return stateless_transform(change, ratio)


def _shortened_units(g: Array, p: Array, ratio: Scalar, least: Scalar) -> Array:
    """Clip the gradient of one array by the norms of its units."""
    axes = tuple(range(g.ndim - 1)) if g.ndim > 1 else None
    norm = norm_along(p, axes).value()
    most = cast_like(ratio, norm) * jnp.maximum(norm, cast_like(least, norm))
    return shortened(g, norm_along(g, axes), most)
