"""Arrays as JAX takes them: what others hold is converted, or refused in words."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.errors import InputError, describe
from fnn._core.types import Array, PyTree, Unchecked

_REAL = (jnp.floating, jnp.integer, jnp.bool_)


def as_arrays(tree: PyTree, name: str) -> PyTree:
    """Return a tree of arrays in which those that JAX does not take are NumPy's, of native order.

    PyTorch tensors, big-endian and extended-precision arrays are converted, masked ones too where
    nothing is masked. What is no array stays as it is: whoever needs one says so.

    >>> import numpy as np
    >>> as_arrays(np.array([1, 2], ">i4"), "x").dtype.isnative
    True
    """
    return jax.tree.map(lambda leaf: _as_array(leaf, name), tree)


def require_arrays(tree: Unchecked, name: str = "x", *, shapes: bool = False) -> PyTree:
    """Return a tree of arrays of real numbers as JAX takes them, or raise.

    Args:
        tree: what may be one.
        name: what it is called.
        shapes: whether the `jax.ShapeDtypeStruct` of an array stands for it.

    >>> require_arrays(jnp.ones(2)).shape
    (2,)
    >>> require_arrays([1.0, "a"])
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn: expected x of arrays, got 1.0; convert it with jnp.asarray
    """
    leaves = jax.tree.leaves(tree)
    wrong = [leaf for leaf in leaves if not is_array(leaf)]
    if wrong or not leaves:
        got = describe(wrong[0] if wrong else tree)
        raise InputError(f"{name} of arrays", got, "convert it with jnp.asarray")
    tree = as_arrays(tree, name)
    for leaf in jax.tree.leaves(tree):
        if not shapes and isinstance(leaf, jax.ShapeDtypeStruct):
            raise InputError(f"{name} of arrays", "shapes alone", "pass the arrays")
        if not any(jnp.issubdtype(leaf.dtype, kind) for kind in _REAL):
            raise InputError(f"{name} of real numbers", describe(leaf), "encode it first")
    return tree


def is_array(leaf: Unchecked) -> bool:
    """Say whether something has the shape and dtype of an array, as no class of arrays has.

    >>> is_array(jnp.ones(2)), is_array(1.0), is_array(jax.Array)
    (True, False, False)
    """
    return isinstance(getattr(leaf, "shape", None), tuple) and hasattr(leaf, "dtype")


def as_target(target: Unchecked) -> Array:
    """Return a target as an array of JAX.

    >>> as_target([0, 1])
    Array([0, 1], dtype=int32)
    """
    if isinstance(target, jax.Array):
        return target
    return jnp.asarray(_as_array(of_numpy(target, "target"), "target"))


def of_numpy(x: Unchecked, name: str) -> Unchecked:
    """Return an array as it is, and numbers and lists of them as one of NumPy's."""
    try:
        return x if hasattr(x, "dtype") else np.asarray(x)
    except ValueError as error:
        raise InputError(
            f"{name} of one shape", f"{type(x).__name__} of rows that differ", "pad the rows"
        ) from error


def largest(x: Array, axis: int) -> Array:
    """Return the largest entries along an axis, which stays with length 1; NaN where one is.

    A maximum of XLA over many elements may lose a NaN on CPUs, in the releases up to 0.10 at least.

    >>> largest(jnp.array([[1.0, jnp.nan], [3.0, 2.0]]), 1)
    Array([[nan],
           [ 3.]], dtype=float32)
    """
    lost = jnp.isnan(x).any(axis, keepdims=True)
    return jnp.where(lost, jnp.nan, x.max(axis, keepdims=True))


def larger(x: Array, y: Array) -> Array:
    """Return the larger one of two numbers, elementwise; NaN where one of them is.

    `jnp.maximum` says so too; compiled into one loop with a sum it may lose a NaN on CPUs.

    >>> larger(jnp.array([1.0, jnp.nan, 5.0]), jnp.array([2.0, 3.0, jnp.nan]))
    Array([ 2., nan, nan], dtype=float32)
    """
    return jnp.where((x > y) | jnp.isnan(x), x, y)


def rectified(x: Array) -> Array:
    """Return x where it is above 0 or NaN, else 0, with a slope of 0 at 0.

    Not as `jax.nn.relu` does, a maximum, for the reason that `larger` has.

    >>> rectified(jnp.array([-1.0, 2.0, jnp.nan]))
    Array([ 0.,  2., nan], dtype=float32)
    """
    return jnp.where(x <= 0, jnp.zeros_like(x), x)


def as_labels(target: Unchecked) -> Array:
    """Return integer labels in at least 32 bits: those of 8 could not be compared with 300.

    >>> as_labels(jnp.array([255], "uint8")).dtype
    dtype('int32')
    """
    label = as_target(target)
    return label.astype(jax_dtype(np.promote_types(label.dtype, np.int32)))


def jax_dtype(dtype: Unchecked) -> np.dtype[Any]:
    """Return the dtype that JAX gives to NumPy's: float32 for float64, unless told otherwise.

    >>> jax_dtype("int64")
    dtype('int32')
    """
    return np.dtype(jax.device_put(np.empty(0, dtype)).dtype)


def _as_array(leaf: Unchecked, name: str) -> Unchecked:
    """Convert one leaf; see `as_arrays`."""
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) or not hasattr(leaf, "dtype"):
        return leaf
    if isinstance(leaf, np.ma.MaskedArray):
        if np.ma.is_masked(leaf):
            raise InputError(
                f"{name} without masked entries",
                f"{int(np.ma.count_masked(leaf))} of {leaf.size} masked",
                "give the examples the weight 0, and fill the array with x.filled(0)",
            )
        leaf = np.asarray(leaf.data)
    if type(leaf).__module__.partition(".")[0] == "torch":
        try:
            leaf = leaf.detach().cpu().numpy()
        except (AttributeError, TypeError, RuntimeError) as error:
            raise InputError(
                f"{name} of arrays",
                f"a PyTorch tensor that is none of NumPy's: {error}",
                "convert it, as in x.float().numpy()",
            ) from error
    if not isinstance(leaf, np.ndarray | np.generic):
        return leaf
    if not (jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == np.bool_):
        raise InputError(
            f"{name} of numbers", describe(leaf), "give labels as integers from 0, texts as tokens"
        )
    if not leaf.dtype.isnative:
        leaf = leaf.astype(leaf.dtype.newbyteorder("="))
    return leaf.astype(np.float64) if leaf.dtype == np.longdouble else leaf
