"""Patterns over the paths of parameters: one way to say which leaves are meant.

A path is the names on the way to a leaf, joined by slashes, as `fnn.summary` shows them:
``hidden/0/weight``. A pattern is matched as a file name is: ``*`` stands for anything, slashes
included, ``?`` for one character, ``[ab]`` for one of these.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax

from fnn._core.errors import InputError, describe
from fnn._core.paths import matches, value_at
from fnn._core.types import PyTree, Unchecked


def leaf_paths(tree: PyTree) -> list[str]:
    """Return the path of every leaf, in the order of `jax.tree.leaves`.

    >>> leaf_paths({"hidden": ({"weight": 1, "bias": 2},), "out": 3})
    ['hidden/0/bias', 'hidden/0/weight', 'out']
    """
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree.leaves_with_path(tree)
    ]


def matching(pattern: str, tree: PyTree) -> PyTree:
    """Return a tree of booleans like `tree`: which leaves a pattern means.

    Raises `fnn.InputError` for a pattern that is no text, and for one that matches no leaf.

    >>> matching("*/weight", {"out": {"weight": 1, "bias": 2}})
    {'out': {'bias': False, 'weight': True}}
    """
    paths = leaf_paths(tree)
    if not isinstance(pattern, str):
        raise InputError("a pattern over paths", describe(pattern), "pass text such as '*/weight'")
    found = [matches(path, pattern) for path in paths]
    if not any(found):
        known = ", ".join(paths[:6]) + (", ..." if len(paths) > 6 else "")
        raise InputError(
            "a pattern that matches a parameter",
            repr(pattern),
            f"the parameters are {known or 'none'}",
        )
    return jax.tree.unflatten(jax.tree.structure(tree), found)


def by_leaf(
    values: Mapping[str, Unchecked], tree: PyTree, default: Unchecked = None
) -> list[Unchecked]:
    """Return for every leaf the value of its path, else of the first pattern that matches it.

    In the order of `jax.tree.leaves`; `default` where none does: put ``"*"`` last to mean all the
    rest.

    Raises `fnn.InputError` as `matching` does, and for an empty mapping.

    >>> by_leaf({"*/bias": 0.1, "out/*": 0.2}, {"out": {"weight": 1, "bias": 2}, "in": 3})
    [None, 0.1, 0.2]
    >>> by_leaf({"*": 0.1, "in": 0.2}, {"out": 1, "in": 2})
    [0.2, 0.1]
    """
    if not values:
        raise InputError("a pattern or more", "an empty mapping", "pass {'*': ...} for all")
    for pattern in values:
        matching(pattern, tree)  # for its checks
    return [value_at(path, values, default) for path in leaf_paths(tree)]
