"""Layers that move numbers and change none."""

from __future__ import annotations

import math
from typing import Any

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.tree import shape_witness
from fnn._core.types import PyTree
from fnn.layer import Layer, stateless


@constructor
def flatten() -> Layer:
    """Flattening: one vector for each example.

    Forward ``y[b, i] = x[b, ...]`` in row-major order; backward puts ``dy`` back into the shape
    of x. x (B, ...), y (B, I) with I the product of the other axes. Saved: the shape of x.

    Raises `fnn.InputError` for an x without axes.

    >>> import jax.numpy as jnp
    >>> flatten().apply((), (), jnp.ones((32, 28, 28)))[0].shape
    (32, 784)
    """

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        del params
        if not x.shape:
            raise InputError("x of shape (B, ...)", describe(x), "give x a batch axis")
        return x.reshape(x.shape[0], math.prod(x.shape[1:])), shape_witness(x)

    return stateless(lambda key, x: (), forward, _back)


@constructor
def reshape(*shape: int) -> Layer:
    """Reshaping of each example.

    Forward ``y[b]`` holds the numbers of ``x[b]`` in row-major order; backward puts ``dy`` back
    into the shape of x. x (B, ...), y (B, *shape). One number of `shape` may be -1: it is what the
    others leave. With no numbers at all y is (B,). Saved: the shape of x.

    Raises `fnn.InputError` for a `shape` of anything but integers of 1 or more and one -1, for an x
    without axes, and for examples of another number of numbers.

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

    def forward(params: PyTree, x: Any) -> tuple[Any, PyTree]:
        del params
        if not x.shape:
            raise InputError("x of shape (B, ...)", describe(x), "give x a batch axis")
        numbers = math.prod(x.shape[1:])
        if numbers % known if free else numbers != known:
            raise InputError(
                f"examples of {'a multiple of ' if free else ''}{known} numbers",
                str(tuple(x.shape)),
                "the product of the new axes is that of the old, the batch axis left out",
            )
        sizes = [numbers // known if size == -1 else size for size in shape]
        return x.reshape(x.shape[0], *sizes), shape_witness(x)

    return stateless(lambda key, x: (), forward, _back)


def _back(params: PyTree, witness: PyTree, dy: Any) -> tuple[PyTree, Any]:
    del params
    return (), dy.reshape(witness.shape[1:])
