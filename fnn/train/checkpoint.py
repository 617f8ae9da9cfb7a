"""Weights in files: one array a name, in the safetensors format that other tools read."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.atomic_write import atomic_write
from fnn._core.errors import InputError, describe, entry
from fnn._core.extras import require
from fnn._core.types import PyTree


def named_leaves(tree: PyTree) -> dict[str, jax.Array]:
    """Return the leaves of a tree by path, such as ``hidden/0/weight``.

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
def save_weights(file: Path | str, params: PyTree, state: PyTree = ()) -> None:
    """Write parameters and state as safetensors, under names like ``params/0/weight``.

    An existing file is replaced once the new one is complete. Raises `ImportError` without
    safetensors.

    >>> import pathlib, tempfile, jax.numpy as jnp
    >>> file = pathlib.Path(tempfile.mkdtemp(), "model.safetensors")
    >>> save_weights(file, {"bias": jnp.ones(2)})
    >>> load_weights(file, like=({"bias": jnp.zeros(2)}, ()))[0]
    {'bias': Array([1., 1.], dtype=float32)}
    """
    save_file = require("safetensors.numpy", "save_weights").save_file
    leaves = named_leaves({"params": params, "state": state})
    with atomic_write(file) as temporary:
        save_file({name: np.asarray(leaf, order="C") for name, leaf in leaves.items()}, temporary)


@entry
def load_weights(file: Path | str, like: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
    """Read parameters and state written by `save_weights`, in the structure of `like`.

    `like` is ``(params, state)``, as `init` of the same model gives (or `jax.eval_shape` of it).
    Raises `fnn.InputError` when a name, a shape or a dtype differs: nothing is filled in.
    """
    library = require("safetensors", "load_weights")
    load_file = require("safetensors.numpy", "load_weights").load_file
    try:
        arrays = load_file(file)
    except (OSError, library.SafetensorError) as error:
        raise InputError(
            "a file in the safetensors format",
            f"{file} ({error})",
            "name a file that save_weights wrote",
        ) from error
    tree = {"params": like[0], "state": like[1]}
    wanted = named_leaves(tree)
    if set(arrays) != set(wanted):
        missing, extra = sorted(set(wanted) - set(arrays)), sorted(set(arrays) - set(wanted))
        raise InputError(
            f"the {len(wanted)} arrays of the model",
            f"a file without {missing[:3]} and with {extra[:3]} besides",
            "build the model that was saved",
        )
    for name, leaf in wanted.items():
        if arrays[name].shape != leaf.shape or arrays[name].dtype != leaf.dtype:
            raise InputError(
                f"{name} to be {describe(leaf)}",
                describe(arrays[name]),
                "build the model that was saved",
            )
    loaded = jax.tree.unflatten(
        jax.tree.structure(tree), [jnp.asarray(arrays[name]) for name in wanted]
    )
    return loaded["params"], loaded["state"]
