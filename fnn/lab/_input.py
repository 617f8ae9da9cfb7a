"""What the laboratory is asked about, checked at its door."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.errors import InputError, describe
from fnn._core.types import Data, Input, Params, PyTree, State, Unchecked
from fnn.gradient.objective import Batch, as_batch
from fnn.layer import Layer

_KINDS = (jnp.floating, jnp.integer, jnp.bool_)


def check_arrays(x: Unchecked, name: str = "x") -> None:
    """Raise unless a value is an array, or a tree of some, or of their shapes.

    >>> check_arrays(jnp.ones(2))
    >>> check_arrays([1.0, "a"])
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn: expected x of arrays, got 1.0; convert it with jnp.asarray
    """
    leaves = jax.tree.leaves(x)
    wrong = [leaf for leaf in leaves if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype"))]
    if wrong or not leaves:
        got = describe(wrong[0] if wrong else x)
        raise InputError(f"{name} of arrays", got, "convert it with jnp.asarray")
    for leaf in leaves:
        if not any(jnp.issubdtype(leaf.dtype, kind) for kind in _KINDS):
            raise InputError(f"{name} of real numbers", describe(leaf), "encode it first")
        if isinstance(leaf, np.ma.MaskedArray):
            raise InputError(
                f"{name} without a mask", "a masked array", "fill it, as in x.filled(0)"
            )
        if isinstance(leaf, np.ndarray) and not leaf.dtype.isnative:
            raise InputError(
                f"{name} in the byte order of this machine",
                describe(leaf),
                "convert it with x.astype(x.dtype.newbyteorder('='))",
            )


def read_batch(batch: Data) -> Batch:
    """Return a batch whose x and target are arrays, as users pass it."""
    found = as_batch(batch)
    check_arrays(found.x)
    check_arrays(found.target, "target")
    if found.weights is not None:
        check_arrays(found.weights, "weights")
    return found


def check_place(model: Layer, params: Params, state: State, x: Input) -> None:
    """Raise unless parameters and state have the structure and shapes that `init` gives them."""
    like = jax.eval_shape(model.init, jax.random.key(0), x)
    for name, given, wanted in (("params", params, like[0]), ("state", state, like[1])):
        got, expected = _shapes(given), _shapes(wanted)
        if got != expected:
            raise InputError(
                f"{name} as layer.init makes them, {expected}",
                f"{got}",
                f"pass the {name} of this model, for an x of this shape",
            )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the leaves of a tree by their paths."""
    return {
        jax.tree_util.keystr(path): tuple(getattr(leaf, "shape", ()))
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
