"""The linear head: the last layer of a classifier, which leaves its product to the loss."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.linear_head import LinearHead
from fnn._core.types import Array, PyTree
from fnn.layer import Layer, stateless
from fnn.layers._initializers import lecun_normal


@constructor
def linear_head(
    classes: int, *, bias: bool = True, initializer: jax.nn.initializers.Initializer = lecun_normal
) -> Layer:
    """Linear head: features, weight and bias for a loss that computes their logits in chunks.

    Forward ``y = LinearHead(x, weight, bias)``; backward ``dweight = dy.weight``,
    ``dbias = dy.bias``, ``dx = dy.features``. The last layer of a model with many classes, for
    `fnn.losses.linear_cross_entropy`; `LinearHead.logits` is what `fnn.dense` gives. Parameters are
    those of `fnn.dense`: put ``fnn.dense(classes)`` in its place to predict logits.

    x is (..., I) with any leading axes, weight (I, K) drawn by `initializer`, bias (K,) starting at
    zero, K being `classes`; without `bias` it is None. Nothing is saved.

    Raises `fnn.InputError` for classes below 1, and for an x of another last axis or of integers.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model = fnn.serial(fnn.dense(8), fnn.gelu(), linear_head(1000))
    >>> params, state = model.init(jax.random.key(0), jnp.ones((4, 3)))
    >>> head, _ = model.apply(params, state, jnp.ones((4, 3)))
    >>> head.features.shape, head.weight.shape, head.logits.shape
    ((4, 8), (8, 1000), (4, 1000))
    """
    if not check.is_count(classes, 1):
        raise InputError("classes of 1 or more", describe(classes), "pass an int")

    def init(key: Array, x: Any) -> PyTree:
        check.floating(x)
        if not x.shape:
            raise InputError("x of shape (..., I)", describe(x), "give x a last axis")
        weight = initializer(key, (x.shape[-1], classes), x.dtype)
        return {"weight": weight} | ({"bias": jnp.zeros(classes, x.dtype)} if bias else {})

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        check.floating(x)
        inputs = params["weight"].shape[0]
        if x.shape[-1:] != (inputs,):
            raise InputError(
                f"x of shape (..., {inputs})",
                str(tuple(x.shape)),
                f"reshape x, or initialize the layer for {(x.shape or (0,))[-1]} inputs",
            )
        return LinearHead(x, params["weight"], params["bias"] if bias else None), ()

    def backward(params: PyTree, residuals: PyTree, dy: Any) -> tuple[PyTree, Any]:
        del params, residuals
        return {"weight": dy.weight} | ({"bias": dy.bias} if bias else {}), dy.features

    return stateless(init, forward, backward)
