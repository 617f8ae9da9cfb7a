"""Weights in files: one array a name, in the safetensors format that other tools read."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.atomic_write import as_path, atomic_write
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import Array, Params, PyTree, State, Unchecked
from fnn.train import _safetensors

_GENERATORS = ("threefry2x32", "rbg", "unsafe_rbg")
_REMEDY = "build the model that was saved"


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


@entry
def save_weights(file: Path | str, params: Params, state: State = ()) -> None:
    """Write parameters and state as safetensors, under names like ``params/0/weight``.

    An existing file is replaced once the new one is complete. The file holds a checksum of itself,
    which `load_weights` verifies. A whole `fnn.TrainState` can stand in place of the parameters;
    of a key its words are written.

    Args:
        file: where to; its folder must exist.
        params: the parameters of a model, or any tree of arrays.
        state: what the layers remember.
    Raises:    InputError for what is no array, a dtype that the format lacks, and a file that
        cannot be written to; OSError where writing fails.

    >>> import pathlib, tempfile, jax.numpy as jnp
    >>> file = pathlib.Path(tempfile.mkdtemp(), "model.safetensors")
    >>> save_weights(file, {"bias": jnp.ones(2)})
    >>> load_weights(file, like=({"bias": jnp.zeros(2)}, ()))[0]
    {'bias': Array([1., 1.], dtype=float32)}
    """
    leaves = named_leaves({"params": params, "state": state})
    arrays = {name: _stored(name, leaf) for name, leaf in leaves.items()}
    with atomic_write(as_path(file)) as temporary, temporary.open("wb") as written:
        _safetensors.write(written, arrays)


@entry
def load_weights(file: Path | str, like: tuple[Params, State]) -> tuple[Params, State]:
    """Read parameters and state written by `save_weights`, in the structure of `like`.

    Nothing is filled in or converted: all names, shapes and dtypes must be those of `like`.

    Args:
        file: the file.
        like: ``(params, state)``, as `init` of the same model gives, or `jax.eval_shape` of it.
    Raises:    InputError when a name, a shape or a dtype differs, when a dtype is one that JAX
        would narrow, and for a file that is damaged: truncated, or changed by a single bit.

    >>> import fnn, jax, pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "model.safetensors")
    >>> model, x = fnn.dense(2), jax.ShapeDtypeStruct((1, 3), "float32")
    >>> fnn.save_weights(file, *model.init(jax.random.key(0), x))
    >>> params, state = load_weights(file, like=jax.eval_shape(model.init, jax.random.key(1), x))
    >>> params["weight"].shape
    (3, 2)
    """
    if not isinstance(like, tuple | list) or len(like) != 2:
        raise InputError("like to be (params, state)", describe(like), "pass (params, ()) for one")
    arrays = _safetensors.read(as_path(file))
    tree = {"params": like[0], "state": like[1]}
    wanted = named_leaves(tree)
    if set(arrays) != set(wanted):
        missing, extra = sorted(set(wanted) - set(arrays)), sorted(set(arrays) - set(wanted))
        raise InputError(
            f"the {len(wanted)} arrays of the model",
            f"a file without {missing[:3]} and with {extra[:3]} besides",
            _REMEDY,
        )
    leaves = [_loaded(name, arrays[name], leaf) for name, leaf in wanted.items()]
    loaded = jax.tree.unflatten(jax.tree.structure(tree), leaves)
    return loaded["params"], loaded["state"]


def _is_key(leaf: Unchecked) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _stored(name: str, leaf: Unchecked) -> np.ndarray:
    """Return a leaf as it is written."""
    if isinstance(leaf, jax.core.Tracer):
        raise InputError(f"{name} to have values", "a traced array", "save outside of jax.jit")
    try:
        array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} to be an array", describe(leaf), "leave it out") from error
    if isinstance(leaf, np.ma.MaskedArray):
        raise InputError(f"{name} to have no mask", describe(leaf), "fill it, as in x.filled(0)")
    return array


def _loaded(name: str, array: np.ndarray, leaf: Unchecked) -> Array:
    """Return an array of the file as JAX holds it, if it is one like `leaf`."""
    if _is_key(leaf):
        return _loaded_key(name, array, leaf)
    like = leaf
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        like = jax.eval_shape(lambda: jnp.asarray(leaf))
    dtype = np.dtype(like.dtype).newbyteorder("=")
    if array.shape != tuple(like.shape) or array.dtype != dtype:
        raise InputError(f"{name} to be {describe(like)}", describe(array), _REMEDY)
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


def _loaded_key(name: str, words: np.ndarray, leaf: Unchecked) -> Array:
    """Return the key of some words, if its generator is that of the key `leaf`."""
    for generator in _GENERATORS:
        key = jax.random.key(0, impl=generator)
        if key.dtype == leaf.dtype:
            like = jax.random.key_data(key)
            shape = (*leaf.shape, *like.shape)
            if words.shape != shape or words.dtype != like.dtype:
                expected = f"{name} to be {like.dtype} of shape {shape}, the words of a key"
                raise InputError(expected, describe(words), _REMEDY)
            return jax.random.wrap_key_data(jnp.asarray(words), impl=generator)
    raise InputError(f"{name} of a known generator", describe(leaf), "save its jax.random.key_data")
