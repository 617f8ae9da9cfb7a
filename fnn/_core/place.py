"""Parameters and state, held against those that a layer's `init` makes."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.errors import InputError, describe
from fnn._core.types import Input, Params, PyTree, State, Unchecked

# Kinds of numbers, of which one does not stand for another; the precision is the user's choice.
_KINDS = (jnp.floating, jnp.integer, jnp.bool_, jax.dtypes.prng_key)
# Other containers of the same parts: what a file gives back, say.
_PLAIN = {list: tuple, collections.OrderedDict: dict, collections.defaultdict: dict}


def check_place(
    layer: Iterable[Callable[..., Unchecked]],
    params: Params,
    state: State,
    x: Input,
    *,
    shapes: bool = False,
) -> None:
    """Raise unless parameters and state have the structure, shapes and kinds that `init` gives.

    Nothing is computed, so that all of them may be traced, or shapes alone. Where x is at fault, as
    one of another width is, the layer says so in its own words.

    Args:
        layer: the four functions of a layer.
        params: of the layer, in any precision.
        state: of the layer, in any precision.
        x: what the layer is to be applied to.
        shapes: whether the `jax.ShapeDtypeStruct` of an array stands for it.

    >>> import fnn
    >>> dense = fnn.dense(2)
    >>> check_place(dense, {"weight": jnp.ones((3, 2)), "bias": jnp.ones(2)}, (), jnp.ones(3))
    >>> check_place(dense, jnp.ones((3, 2)), (), jnp.ones(3))
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn: expected params as layer.init makes them for this x, got \
    float32 of shape (3, 2) in place of the tree with 'bias'; pass those of this model
    """
    init, apply, *_ = layer
    like = jax.eval_shape(init, jax.random.key(0), x)
    try:
        check_like("params", like[0], params, shapes=shapes)
        check_like("state", like[1], state, shapes=shapes)
    except InputError as error:
        told = _complaint(apply, params, state, x)
        raise (error if told is None else told) from None


def check_like(name: str, wanted: PyTree, given: PyTree, *, shapes: bool = False) -> None:
    """Raise unless a tree has the structure, shapes and kinds of numbers that `init` gives it.

    Args:
        name: ``"params"`` or ``"state"``.
        wanted: that of `init`, or its shapes.
        given: what may be such a tree, in any precision; lists stand for tuples.
        shapes: whether the `jax.ShapeDtypeStruct` of an array stands for it.

    >>> check_like("state", {"mean": jnp.ones(3)}, {"mean": np.ones(3)})
    """
    trees = _plain(wanted), _plain(given)
    differs = first_difference(*trees, dtypes=False) or _no_array(*trees, shapes)
    if differs:
        expected = f"{name} as layer.init makes them for this x"
        raise InputError(expected, differs, "pass those of this model")


def _complaint(
    apply: Callable[..., Unchecked], params: Params, state: State, x: Input
) -> InputError | None:
    """Return what a layer finds fault with, None where it runs or fails without words."""
    try:
        jax.eval_shape(apply, params, state, x)
    except InputError as error:
        return error
    except Exception:
        return None
    return None


def first_difference(expected: PyTree, got: PyTree, *, dtypes: bool = True) -> str:
    """Say where two trees first differ in structure, shape or dtype; "" where they do not.

    Args:
        expected: a tree of arrays or of their shapes.
        got: another.
        dtypes: whether these are compared.

    >>> first_difference({"a": jnp.ones(2)}, {"a": jnp.ones(3)})
    'float32 of shape (3,) at a, where float32 of shape (2,) should be'
    """
    trees = [
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf
            for path, leaf in jax.tree.leaves_with_path(tree)
        }
        for tree in (expected, got)
    ]
    if list(trees[1]) == [""] != list(trees[0]):
        inside = f"the tree with {next(iter(trees[0]))!r}" if trees[0] else f"{expected!r}"
        return f"{_kind(got)} in place of {inside}"
    for path in dict.fromkeys((*trees[0], *trees[1])):
        one, other = (tree.get(path) for tree in trees)
        if other is None:
            return f"nothing at {path or '.'}, where {_kind(one)} should be"
        if one is None:
            return f"{_kind(other)} at {path or '.'}, where nothing should be"
        if np.shape(one) != _shape(other) or (dtypes and _dtype(one) != _dtype(other)):
            return f"{_kind(other)} at {path or '.'}, where {_kind(one)} should be"
    structures: list[Unchecked] = [jax.tree.structure(tree) for tree in (expected, got)]
    if structures[0] != structures[1]:
        return f"{structures[1]}, where {structures[0]} should be"
    return ""


def _no_array(wanted: PyTree, given: PyTree, shapes: bool) -> str:
    """Say which leaf JAX does not take for that of `init`, of the same structure; "" for none."""
    pairs = zip(jax.tree.leaves(wanted), jax.tree.leaves_with_path(given), strict=True)
    for one, (path, other) in pairs:
        if not shapes and isinstance(other, jax.ShapeDtypeStruct):
            return "shapes alone"
        number = isinstance(other, bool | int | float | np.generic | jax.ShapeDtypeStruct)
        array = isinstance(other, jax.Array) or type(other) is np.ndarray
        known = (number or array or hasattr(other, "__jax_array__")) and _dtype(other) is not None
        if not known or _kind_of(_dtype(one)) is not _kind_of(_dtype(other)):
            place = jax.tree_util.keystr(path, simple=True, separator="/")
            return f"{_kind(other)} at {place or '.'}, where {_kind(one)} should be"
        if isinstance(other, np.ndarray) and not other.dtype.isnative:
            return f"{_kind(other)} of the other byte order"
    return ""


def _plain(tree: PyTree) -> PyTree:
    """Return a tree with tuples in place of lists, at any depth, and plain dicts."""

    def is_other(node: Unchecked) -> bool:
        return type(node) in _PLAIN

    def one(node: Unchecked) -> PyTree:
        if not is_other(node):
            return node
        if isinstance(node, list):
            return tuple(map(_plain, node))
        return {name: _plain(part) for name, part in node.items()}

    return jax.tree.map(one, tree, is_leaf=is_other)


def _shape(leaf: Unchecked) -> tuple[int, ...] | None:
    """Return the shape of an array or a number, None of anything else."""
    if isinstance(leaf, bool | int | float | complex):
        return ()
    shape = getattr(leaf, "shape", None)
    return tuple(shape) if isinstance(shape, tuple) else None


def _dtype(leaf: Unchecked) -> Unchecked:
    """Return the dtype of an array or a number, None of anything else."""
    if isinstance(leaf, bool | int | float | complex):
        return jnp.result_type(type(leaf))
    return getattr(leaf, "dtype", None)


def _kind_of(dtype: Unchecked) -> Unchecked:
    return next((kind for kind in _KINDS if jnp.issubdtype(dtype, kind)), None)


def _kind(leaf: Unchecked) -> str:
    """Say what a leaf of a tree is."""
    if hasattr(leaf, "dtype") and hasattr(leaf, "shape"):
        return f"{leaf.dtype} of shape {tuple(leaf.shape)}"
    return describe(leaf)
