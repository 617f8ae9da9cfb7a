"""The linear head: the last layer of a classifier, which leaves its product to the loss."""

from __future__ import annotations

import jax

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.linear_head import LinearHead
from fnn._core.types import Array, Cotangent, Input, Output, Params, Residuals
from fnn.layer import Layer, stateless
from fnn.layers._initializers import lecun_normal
from fnn.layers.dense import check_inputs, check_weight, init_weight


@constructor
def linear_head(
    classes: int, *, bias: bool = True, initializer: jax.nn.initializers.Initializer = lecun_normal
) -> Layer:
    """Linear head: features, weight and bias for a loss that computes their logits in chunks.

    The last layer of a model with many classes, for `fnn.losses.linear_cross_entropy`;
    `LinearHead.logits` is what `fnn.dense` gives. Parameters are those of `fnn.dense`: put
    ``fnn.dense(classes)`` in its place to predict logits.

    Forward:   y = LinearHead(x, weight, bias)
    Backward:  dweight = dy.weight, dbias = dy.bias, dx = dy.features

    Args:
        classes: K, the number of classes.
        bias: whether there is a bias (K,), starting at zero; without it y.bias is None.
        initializer: of the weight (I, K), one of `jax.nn.initializers`.
    Shapes:    x (..., I) with any leading axes
    Saves:     nothing
    Raises:    InputError for classes below 1, and for x of another last axis or of integers.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model = fnn.serial(fnn.dense(8), fnn.gelu(), linear_head(1000))
    >>> params, state = model.init(jax.random.key(0), jnp.ones((4, 3)))
    >>> head, _ = model.apply(params, state, jnp.ones((4, 3)))
    >>> head.features.shape, head.weight.shape, head.logits.shape
    ((4, 8), (8, 1000), (4, 1000))
    """
    check.count(classes, "classes")
    check_weight(bias, initializer)

    def init(key: Array, x: Input) -> Params:
        return init_weight(key, x, classes, bias, initializer)

    def forward(params: Params, x: Input) -> tuple[Output, Residuals]:
        check_inputs(params, x)
        return LinearHead(x, params["weight"], params["bias"] if bias else None), ()

    def backward(params: Params, residuals: Residuals, dy: Cotangent) -> tuple[Params, Cotangent]:
        del params, residuals
        return {"weight": dy.weight} | ({"bias": dy.bias} if bias else {}), dy.features

    return stateless(init, forward, backward, positionwise=True)
