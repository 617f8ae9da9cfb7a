"""Trees of arrays in files: what is written of a leaf, and what is read back in its place."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.atomic_write import atomic_write
from fnn._core.errors import InputError, describe
from fnn._core.keys import generator_of, is_key, words_of
from fnn._core.types import Array, PyTree, Unchecked
from fnn.train.files import _safetensors


def named_leaves(tree: PyTree) -> dict[str, Unchecked]:
    """Return the leaves of a tree by path, such as ``hidden/0/weight``.

    Args:
        tree: any tree.
    Raises:    InputError for two leaves of one path.

    >>> import jax.numpy as jnp
    >>> named_leaves({"hidden": ({"bias": jnp.zeros(1)},)})
    {'hidden/0/bias': Array([0.], dtype=float32)}
    """
    leaves = jax.tree.leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise InputError(
            "a path of its own for every array",
            f"{len(named)} paths for {len(leaves)} arrays",
            "name layers without a slash",
        )
    return named


class Content(NamedTuple):
    """What is to be written: arrays by name, the generators of keys, the kind, and words."""

    arrays: dict[str, np.ndarray]
    keys: dict[str, str]
    kind: str
    words: dict[str, str]


def content_of(
    tree: PyTree,
    kind: str,
    words: dict[str, str],
    copy: bool = False,
    leaves: dict[str, Unchecked] | None = None,
) -> Content:
    """Return a tree as it is written.

    Args:
        tree: any tree of arrays.
        kind: what the file holds.
        words: what is to stand beside the arrays.
        copy: whether the arrays are to be copies: the buffers may be given away meanwhile.
        leaves: those of the tree by name, where they are known.
    Raises:    InputError for what is no array, and where values are not known.
    """
    leaves = named_leaves(tree) if leaves is None else leaves
    arrays = {name: _stored(name, leaf, copy) for name, leaf in leaves.items()}
    keys = {name: str(jax.random.key_impl(leaf)) for name, leaf in leaves.items() if is_key(leaf)}
    return Content(arrays, keys, kind, words)


def write_content(file: Path, content: Content) -> None:
    """Write a file whole or not at all.

    Args:
        file: its path.
        content: what is to stand in it.
    """
    with atomic_write(file) as temporary, temporary.open("wb") as written:
        _safetensors.write(written, *content)


def content_size(content: Content) -> int:
    """Return about how many bytes a file will have.

    Args:
        content: of the file.
    """
    words = sum(len(word) for word in content.words.values())
    return sum(array.nbytes + 200 + 2 * len(name) for name, array in content.arrays.items()) + words


def other_kind(expected: str, file: Path | str, kind: str) -> InputError:
    """Return what is said of a file that holds something else.

    Args:
        expected: what should be in it.
        file: its path.
        kind: what is in it, ``""`` of another tool's.
    """
    known = {"weights": "fnn.load_weights", "train_state": "fnn.load_train_state"}
    got = {"weights": "weights", "train_state": "a train state"}.get(kind, "another tool's arrays")
    remedy = f"read it with {known.get(kind, 'that tool, or fnn.load_weights')}"
    return InputError(f"a file of {expected}", f"{file} ({got})", remedy)


def _stored(name: str, leaf: Unchecked, copy: bool) -> np.ndarray:
    """Return a leaf as it is written."""
    if isinstance(leaf, jax.core.Tracer):
        raise InputError(f"{name} to have values", "a traced array", "save outside of jax.jit")
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        expected, got = f"the whole of {name} in this process", "parts of it in others"
        raise InputError(expected, got, "use fnn.train.ShardedCheckpoints in all processes")
    try:
        array = np.asarray(words_of(leaf))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} to be an array", describe(leaf), "leave it out") from error
    if isinstance(leaf, np.ma.MaskedArray):
        raise InputError(f"{name} to have no mask", describe(leaf), "fill it, as in x.filled(0)")
    return array.copy() if copy else array


def matched(
    arrays: dict[str, np.ndarray],
    keys: dict[str, str],
    wanted: dict[str, Unchecked],
    expected: str,
    remedy: str,
) -> dict[str, Array]:
    """Return arrays of a file as JAX holds them, if they are those that are wanted; else raise.

    Args:
        arrays: those of the file.
        keys: the generator of those that are keys.
        wanted: what they must be like, by name.
        expected: what is said of arrays that are missing or too many.
        remedy: what to do.
    """
    loaded = {}
    for name, leaf in wanted.items():
        if name not in arrays:
            got = f"nothing at {name}, where {describe(_spec(name, leaf))} should be"
            raise InputError(expected, got, remedy)
        loaded[name] = _loaded(name, arrays[name], keys.get(name, ""), leaf, remedy)
    for name, array in arrays.items():
        if name not in wanted:
            got = f"{describe(array)} at {name}, where nothing should be"
            raise InputError(expected, got, remedy)
    return loaded


def _spec(name: str, leaf: Unchecked) -> Unchecked:
    """Return what has the shape and dtype of a leaf: itself, if it is an array."""
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return leaf
    try:
        return jax.eval_shape(lambda: jnp.asarray(leaf))
    except (TypeError, ValueError, OverflowError) as error:
        remedy = "pass a tree of arrays"
        raise InputError(f"{name} to be like an array", describe(leaf), remedy) from error


def _loaded(name: str, array: np.ndarray, generator: str, leaf: Unchecked, remedy: str) -> Array:
    """Return an array of the file as JAX holds it, if it is one like `leaf`."""
    if is_key(leaf):
        return _loaded_key(name, array, generator, leaf, remedy)
    like = _spec(name, leaf)
    if generator:
        raise InputError(f"{name} to be {describe(like)}", f"a key of {generator}", remedy)
    dtype = np.dtype(like.dtype).newbyteorder("=")
    if array.shape != tuple(like.shape) or array.dtype != dtype:
        raise InputError(f"{name} to be {describe(like)}", describe(array), remedy)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise InputError(
            f"{name} of a dtype that JAX holds here",
            describe(array),
            "set jax.config.update('jax_enable_x64', True), or save it in 32 bits",
        )
    if getattr(leaf, "weak_type", False) and not array.shape:
        # A number of Python's, which leaves the dtype of a sum to the other one.
        number = jnp.asarray(array.item())
        return number if number.dtype == dtype else jnp.asarray(array)
    return jnp.asarray(array)


def _loaded_key(
    name: str, words: np.ndarray, generator: str, leaf: Unchecked, remedy: str
) -> Array:
    """Return the key of some words, if its generator is that of the key `leaf`."""
    known = generator_of(leaf)
    if known is None:
        advice = "save its jax.random.key_data"
        raise InputError(f"{name} of a known generator", describe(leaf), advice)
    like = jax.random.key_data(jax.random.key(0, impl=known))
    shape = (*leaf.shape, *like.shape)
    if words.shape != shape or words.dtype != like.dtype:
        expected = f"{name} to be {like.dtype} of shape {shape}, the words of a key"
        raise InputError(expected, describe(words), remedy)
    if generator not in ("", known):
        raise InputError(f"{name} to be a key of {known}", f"one of {generator}", remedy)
    return jax.random.wrap_key_data(jnp.asarray(words), impl=known)
