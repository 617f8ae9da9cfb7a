"""Unembedding: features to logits by the transposed weight of an embedding."""

from __future__ import annotations

import jax

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.linear_head import LinearHead
from fnn._core.types import Array, Cotangent, Input, Output, Params, Residuals
from fnn.layer import Layer, stateless
from fnn.layers._initializers import check_initializer, draw, lecun_normal
from fnn.layers.dense import outer_sum


@constructor
def unembedding(
    count: int,
    *,
    chunked: bool = False,
    initializer: jax.nn.initializers.Initializer = lecun_normal,
) -> Layer:
    """Unembedding (output embedding): one logit for each index of a vocabulary.

    A dense layer without a bias whose weight (K, C) stands as that of a `fnn.embedding`, so that
    the two can be one: ``fnn.shared(model, {"head": "embedding"})``.

    Forward:   y[..., k] = sum_c x[..., c] weight[k, c]
    Backward:  dweight[k, c] = sum_... dy[..., k] x[..., c],
        dx[..., c] = sum_k dy[..., k] weight[k, c]; chunked: dweight = dy.weight^T, dx = dy.features

    Args:
        count: K, the size of the vocabulary.
        chunked: whether the product is left to `fnn.losses.linear_cross_entropy`, which computes
            the logits in chunks; y is then a `fnn.LinearHead`.
        initializer: of the weight, drawn as (C, K), as that of a `fnn.dense`, and transposed; one
            of `jax.nn.initializers`.
    Shapes:    x (..., C) with any leading axes, weight (K, C), y (..., K)
    Saves:     x; chunked: nothing
    Raises:    InputError for a count below 1, and for x of another last axis or of integers.
    Source:    Press and Wolf 2017, arXiv:1608.05859, section 2.

    >>> import jax.numpy as jnp
    >>> params = {"weight": jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])}
    >>> unembedding(3).apply(params, (), jnp.array([1.0, 0.0]))[0]
    Array([1., 3., 5.], dtype=float32)
    """
    check.count(count, "count")
    check.flag(chunked, "chunked")
    check_initializer(initializer)

    def init(key: Array, x: Input) -> Params:
        check.floating(x)
        check.shape(x, "... C", remedy="give x a last axis")
        return {"weight": draw(initializer, key, (x.shape[-1], count), x.dtype).T}

    def forward(params: Params, x: Input) -> tuple[Output, Residuals]:
        weight = params["weight"]
        check.floating(x)
        remedy = "make the features as wide as the vectors of the embedding"
        check.shape(x, "... C", remedy=remedy, C=weight.shape[1])
        return (LinearHead(x, weight.T), ()) if chunked else (x @ weight.T, x)

    def backward(params: Params, x: Residuals, dy: Cotangent) -> tuple[Params, Cotangent]:
        if chunked:
            return {"weight": dy.weight.T}, dy.features
        return {"weight": outer_sum(dy, x)}, dy @ params["weight"]

    return stateless(init, forward, backward, positionwise=True)
