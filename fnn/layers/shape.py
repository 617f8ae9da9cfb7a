"""Layers that move numbers and change none."""

from __future__ import annotations

import math
from typing import Any

from fnn.errors import InputError, describe
from fnn.layer import Layer, PyTree, shape_witness, stateless
from fnn.origin import constructor


@constructor
def flatten() -> Layer:
    """Make one row of each example.

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
            raise InputError("flatten", "x of shape (B, ...)", describe(x), "give x a batch axis")
        return x.reshape(x.shape[0], math.prod(x.shape[1:])), shape_witness(x)

    def backward(params: PyTree, witness: PyTree, dy: Any) -> tuple[PyTree, Any]:
        del params
        return (), dy.reshape(witness.shape[1:])

    return stateless(lambda key, x: (), forward, backward)
