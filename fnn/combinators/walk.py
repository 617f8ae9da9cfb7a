"""A model taken apart and put together again, layer by layer, by the descriptions of its layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax

from fnn._core import check
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import PyTree
from fnn.layer import Layer, require_layer


@entry
def children(layer: Layer) -> Mapping[str, Layer]:
    """Return the layers inside a combinator by the step from its path to theirs.

    Args:
        layer: any layer; one that is no combinator has no children.

    >>> import fnn
    >>> dict(children(fnn.serial(fnn.dense(3), fnn.relu())))
    {'0': dense(3), '1': relu()}
    >>> dict(children(fnn.residual(fnn.relu())))
    {'': relu()}
    """
    require_layer(layer)
    return layer.children


@entry
def map_layers(function: Callable[[str, Layer], Layer], layer: Layer, path: str = "") -> Layer:
    """Rebuild a model with ``function(path, layer)`` in place of every layer that has no children.

    Args:
        function: what is called for each layer, with its path and itself.
        layer: the model.
        path: where the model stands in a larger one.
    Raises:    InputError for what is no layer, no path or no function, and for a function that
        returns something else.

    >>> import fnn
    >>> model = fnn.serial(fnn.dense(3), fnn.relu())
    >>> map_layers(lambda path, layer: fnn.use_manual(layer), model)
    serial(use_manual(dense(3)), use_manual(relu()))
    """
    remedy = "pass one of a path and a layer, which returns a layer"
    check.function(function, "function", remedy, takes="path, layer")
    require_layer(layer)
    if not isinstance(path, str):
        raise InputError("a path of text", describe(path), "leave it out for a whole model")
    if layer.rebuild is None:
        made = function(path, layer)
        require_layer(made, f"a layer from the function at {path or '.'!r}")
        return made
    return layer.rebuild(
        *(map_layers(function, child, join(path, name)) for name, child in layer.children.items())
    )


def layers_by_path(model: Layer, path: str = "") -> dict[str, Layer]:
    """Return every layer of a model by its path; a wrapper gives way to what it wraps.

    Args:
        model: the model.
        path: where the model stands in a larger one.

    >>> import fnn
    >>> layers_by_path(fnn.serial(fnn.dense(3), fnn.residual(fnn.relu())))
    {'': serial(dense(3), residual(relu())), '0': dense(3), '1': relu()}
    """
    found = {path: model}
    for name, child in model.children.items():
        found |= layers_by_path(child, join(path, name))
    return found


def trees_by_path(model: Layer, tree: PyTree, path: str = "") -> dict[str, PyTree]:
    """Return the part of a tree that belongs to each layer, by its path.

    Args:
        model: the model.
        tree: its parameters, its state or their shapes; of copies the first is meant.
        path: where the model stands in a larger one.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model = fnn.repeat(fnn.serial(fnn.relu(), fnn.dense(3)), 4)
    >>> params, _ = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 3)))
    >>> trees_by_path(model, params)["1"]["weight"].shape
    (3, 3)
    """
    found = {path: tree}
    if model.copies is not None:
        tree = jax.tree.map(_first, tree)
    for name, child in model.children.items():
        found |= trees_by_path(child, part(tree, name), join(path, name))
    return found


def part(tree: PyTree, step: str) -> PyTree:
    """Return the part of a combinator's tree that belongs to one of its children.

    Args:
        tree: the parameters or the state of the combinator: a dict, a tuple, or the child's own.
        step: the step to the child, a name or an index; ``""`` where the tree is the child's own.

    >>> part({"a": 1}, "a"), part((1, 2), "1"), part(3, "")
    (1, 2, 3)
    """
    if not step:
        return tree
    return tree[step] if isinstance(tree, dict) else tree[int(step)]


def join(path: str, step: str) -> str:
    """Return the path of a child.

    Args:
        path: that of the combinator, ``""`` for the whole model.
        step: the step to the child; ``""`` adds nothing to the path.

    >>> join("encoder", "0"), join("encoder", ""), join("", "0")
    ('encoder/0', 'encoder', '0')
    """
    return "/".join(filter(None, (path, step)))


def _first(leaf: PyTree) -> PyTree:
    """Return the first copy of a leaf, or its shape."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
    return leaf[0]
