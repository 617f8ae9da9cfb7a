"""Trees of arrays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn._core.types import Array, PyTree


def inexact_leaves(tree: PyTree) -> PyTree:
    """Return the part of a tree that has a derivative: None in place of all other arrays.

    >>> import jax.numpy as jnp
    >>> inexact_leaves((jnp.ones(1), jnp.array([3])))
    (Array([1.], dtype=float32), None)
    """
    return jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jnp.floating) else None, tree)


def combine(floats: PyTree, tree: PyTree) -> PyTree:
    """Put floating numbers back in their places: ``merged(floating(tree), tree)`` is the tree."""
    return jax.tree.map(
        lambda f, a: a if f is None else f, floats, tree, is_leaf=lambda node: node is None
    )


def shape_witness(x: Any) -> Array:
    """Return an array of no bytes that carries the shape and dtype of `x` through residuals.

    Residuals hold arrays only, and a backward pass sometimes needs nothing but a shape: read it
    back as ``witness.shape[1:]``.

    >>> import jax.numpy as jnp
    >>> witness = shape_witness(jnp.ones((2, 3)))
    >>> witness.nbytes, witness.shape[1:]
    (0, (2, 3))
    """
    return jnp.zeros((0, *x.shape), x.dtype)
