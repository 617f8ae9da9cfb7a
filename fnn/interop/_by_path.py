"""Trees as programs without fnn take and give them: an array, or a dict of arrays by path."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import export

from fnn._core.types import PyTree, Unchecked
from fnn.train.files._arrays_file import named_leaves


def shapes_of(tree: PyTree, any_batch: bool) -> PyTree:
    """Return the shapes of a batch, the number of its examples left open where it shall be.

    Args:
        tree: arrays, whose first axis counts the examples where it is as long as the first one's.
        any_batch: whether that number is left open.

    >>> shapes_of({"image": jnp.ones((4, 3)), "scale": jnp.ones(())}, True)
    {'image': ShapeDtypeStruct(shape=(batch, 3), dtype=float32), \
    'scale': ShapeDtypeStruct(shape=(), dtype=float32)}
    """
    is_open = _has_examples(tree)
    (any_size,) = export.symbolic_shape("batch")

    def shape(leaf: Unchecked) -> jax.ShapeDtypeStruct:
        sizes = (any_size, *leaf.shape[1:]) if any_batch and is_open(leaf) else leaf.shape
        return jax.ShapeDtypeStruct(sizes, leaf.dtype)

    return jax.tree.map(shape, tree)


def repeated(tree: PyTree, times: int) -> PyTree:
    """Return a batch of every example several times.

    Args:
        tree: arrays as `shapes_of` takes them.
        times: how often.

    >>> repeated(jnp.array([1, 2]), 2)
    Array([1, 2, 1, 2], dtype=int32)
    """
    is_open = _has_examples(tree)
    return jax.tree.map(lambda a: jnp.concatenate([a] * times) if is_open(a) else a, tree)


def _has_examples(tree: PyTree) -> Callable[[Unchecked], bool]:
    """Return what says of an array of a batch whether its first axis counts the examples."""
    examples = next((leaf.shape[0] for leaf in jax.tree.leaves(tree) if leaf.ndim), None)
    return lambda leaf: leaf.ndim > 0 and leaf.shape[0] == examples


def by_path(tree: PyTree) -> PyTree:
    """Return an array as it is, and a tree as a dict of its arrays by path, in their order.

    Args:
        tree: of arrays.
    """
    return tree if jax.tree_util.all_leaves([tree]) else named_leaves(tree)


def of_path(like: PyTree, given: PyTree) -> PyTree:
    """Return what `by_path` was given, of what it made.

    Args:
        like: a tree of the same structure.
        given: what `by_path` made.
    """
    if by_path(like) is like:
        return given
    return jax.tree.unflatten(
        jax.tree.structure(like), [given[name] for name in named_leaves(like)]
    )
