"""Layers that move elements and change none."""

from __future__ import annotations

import math

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.tree import shape_witness
from fnn._core.types import Cotangent, Input, Output, Params, Residuals
from fnn.layer import Layer, stateless

_BATCH = "give x a batch axis"


@constructor
def flatten() -> Layer:
    """Flattening: one vector for each example.

    Forward:   y[b, i] = x[b, ...] in row-major order
    Backward:  dx is dy in the shape of x

    Shapes:    x (B, ...), y (B, I) with I the product of the other axes
    Saves:     the shape of x
    Raises:    InputError for x without axes.

    >>> import jax.numpy as jnp
    >>> flatten().apply((), (), jnp.ones((32, 28, 28)))[0].shape
    (32, 784)
    """

    def forward(params: Params, x: Input) -> tuple[Output, Residuals]:
        del params
        check.shape(x, "B ...", remedy=_BATCH)
        return x.reshape(x.shape[0], math.prod(x.shape[1:])), shape_witness(x)

    return stateless(lambda key, x: (), forward, _back)


@constructor
def reshape(*shape: int) -> Layer:
    """Reshaping of each example.

    Forward:   y[b] holds the elements of x[b] in row-major order
    Backward:  dx is dy in the shape of x

    Args:
        shape: the axes of one example of y, each 1 or more; one may be -1, and is what the others
            leave. With none at all y is (B,).
    Shapes:    x (B, ...), y (B, *shape)
    Saves:     the shape of x
    Raises:    InputError for a `shape` of anything but integers of 1 or more and one -1, for x
        without axes, and for examples of another number of elements.

    >>> import jax.numpy as jnp
    >>> reshape(28, -1, 1).apply((), (), jnp.ones((32, 784)))[0].shape
    (32, 28, 28, 1)
    """
    free = sum(check.is_count(size, -1) and size == -1 for size in shape)
    if free > 1 or sum(check.is_count(size, 1) for size in shape) + free < len(shape):
        raise InputError(
            "integers of 1 or more, and at most one -1",
            describe(shape),
            "pass the axes of one example apart, as in fnn.reshape(28, 28, 1)",
        )
    known = math.prod(size for size in shape if size != -1)

    def forward(params: Params, x: Input) -> tuple[Output, Residuals]:
        del params
        check.shape(x, "B ...", remedy=_BATCH)
        elements = math.prod(x.shape[1:])
        if elements % known if free else elements != known:
            raise InputError(
                f"examples of {'a multiple of ' if free else ''}{known} elements",
                str(tuple(x.shape)),
                "the product of the new axes is that of the old, the batch axis left out",
            )
        sizes = [elements // known if size == -1 else size for size in shape]
        return x.reshape(x.shape[0], *sizes), shape_witness(x)

    return stateless(lambda key, x: (), forward, _back)


def _back(params: Params, witness: Residuals, dy: Cotangent) -> tuple[Params, Cotangent]:
    """Put dy back into the shape of x; of integers there is none."""
    del params
    return (), None if dy is None else dy.reshape(witness.shape[1:])
