"""Weights in files: one array a name, in the safetensors format that other tools read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import jax
import numpy as np

from fnn._core.atomic_write import as_path
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import Params, State, Unchecked
from fnn.train.files import _safetensors
from fnn.train.files._arrays_file import (
    content_of,
    matched,
    named_leaves,
    other_kind,
    write_content,
)

_REMEDY = "build the model that was saved"
_PREFIXES = ("params/", "state/")


@entry
def save_weights(file: Path | str, params: Params, state: State = ()) -> None:
    """Write parameters and state as safetensors, under names like ``params/0/weight``.

    An existing file is replaced once the new one is complete. The file holds a checksum of every
    array and of the whole, which `load_weights` verifies. What training needs to go on is written
    by `save_train_state`.

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
    content = content_of({"params": params, "state": state}, "weights", {})
    write_content(as_path(file), content)


@entry
def load_weights(
    file: Path | str,
    like: tuple[Params, State],
    *,
    only: str | Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
) -> tuple[Params, State]:
    """Read parameters and state written by `save_weights`, in the structure of `like`.

    Nothing is filled in or converted: all names, shapes and dtypes must be those of `like`, unless
    it is said which part is meant, or how names have changed.

    Args:
        file: the file.
        like: ``(params, state)``, as `init` of the same model gives, or `jax.eval_shape` of it.
        only: patterns over the paths of the arrays, such as ``"encoder/*"``: what they match is
            read, and must be in the file; all else stays as it is in `like`, and what else the
            file holds is not looked at. None for everything.
        rename: paths of the file by patterns, with those in `like`: ``{"old/*": "encoder/*"}``. A
            ``*`` stands for the same text in both; a path without one counts before the others, and
            of these the first that matches. Of names that begin with neither ``params/`` nor
            ``state/``, as other tools write them, the whole is meant.
    Raises:    InputError when a name, a shape or a dtype differs, when a dtype is one that JAX
        would narrow, for a pattern that matches nothing, and for a file that is damaged: truncated,
        or changed by a single bit.

    >>> import fnn, jax, pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "model.safetensors")
    >>> model, x = fnn.dense(2), jax.ShapeDtypeStruct((1, 3), "float32")
    >>> fnn.save_weights(file, *model.init(jax.random.key(0), x))
    >>> params, state = load_weights(file, like=jax.eval_shape(model.init, jax.random.key(1), x))
    >>> params["weight"].shape
    (3, 2)

    The encoder alone, into a model that calls it otherwise:

    >>> larger = fnn.serial(encoder=fnn.dense(2), head=fnn.dense(4))
    >>> place = larger.init(jax.random.key(2), jax.numpy.ones((1, 3)))
    >>> place = load_weights(file, place, only="encoder/*", rename={"*": "encoder/*"})
    >>> bool((place[0]["encoder"]["weight"] == params["weight"]).all())
    True
    """
    if not isinstance(like, tuple | list) or len(like) != 2:
        raise InputError("like to be (params, state)", describe(like), "pass (params, ()) for one")
    found = _safetensors.read(as_path(file))
    if found.kind not in ("", "weights"):
        raise other_kind("weights", file, found.kind)
    tree = {"params": like[0], "state": like[1]}
    wanted = named_leaves(tree)
    names = _new_names(found.arrays, rename)
    arrays = {names[name]: array for name, array in found.arrays.items()}
    keys = {names[name]: generator for name, generator in found.keys.items()}
    meant = wanted
    if only is not None:
        arrays, meant = _meant(only, arrays, wanted)
    remedy = f"{_REMEDY}, or say what is meant by only= and rename="
    loaded = wanted | matched(arrays, keys, meant, f"the {len(meant)} arrays of the model", remedy)
    made = jax.tree.unflatten(jax.tree.structure(tree), list(loaded.values()))
    return made["params"], made["state"]


def _new_names(names: Iterable[str], rename: Mapping[str, str] | None) -> dict[str, str]:
    """Return the names that the arrays of a file have in the model, by those in the file."""
    if rename is None:
        return {name: name for name in names}
    if not isinstance(rename, Mapping) or not all(
        isinstance(text, str) and text.count("*") <= 1 for pair in rename.items() for text in pair
    ):
        remedy = "pass them as in {'old/*': 'new/*'}"
        raise InputError("rename to be patterns with one * at most", describe(rename), remedy)
    # As everywhere a name by itself counts before all patterns.
    order = sorted(rename, key=lambda old: "*" in old)
    changes = [(re.compile(re.escape(old).replace(r"\*", "(.*)")), rename[old]) for old in order]
    for old, (pattern, _) in zip(order, changes, strict=True):
        if not any(pattern.fullmatch(_split_prefix(name)[1]) for name in names):
            raise InputError(
                "a pattern that matches an array of the file",
                repr(old),
                f"the file holds {_listed(names)}",
            )
    new_names = {name: _rename_one(name, changes) for name in names}
    for name, count in Counter(new_names.values()).items():
        if count > 1:
            raise InputError(
                "names that stay apart", f"{count} arrays named {name!r}", "change one"
            )
    return new_names


def _rename_one(name: str, changes: list[tuple[re.Pattern[str], str]]) -> str:
    """Return the new name of an array: by the first change whose pattern matches it."""
    prefix, path = _split_prefix(name)
    for pattern, new in changes:
        match = pattern.fullmatch(path)
        if match:
            return prefix + new.replace("*", match[1] if match.groups() else "")
    return name


def _split_prefix(name: str) -> tuple[str, str]:
    """Return ``params/`` or ``state/`` and the path behind it."""
    prefix = next((one for one in _PREFIXES if name.startswith(one)), "")
    return prefix, name.removeprefix(prefix)


def _meant(
    only: str | Sequence[str], arrays: dict[str, np.ndarray], wanted: dict[str, Unchecked]
) -> tuple[dict[str, np.ndarray], dict[str, Unchecked]]:
    """Return the arrays of the file, and the leaves of the model, that some patterns match."""
    patterns = [only] if isinstance(only, str) else only
    if not isinstance(patterns, Sequence) or not all(isinstance(one, str) for one in patterns):
        raise InputError("only to be patterns", describe(only), "pass text such as 'encoder/*'")

    def matches(name: str) -> bool:
        return any(fnmatchcase(_split_prefix(name)[1], pattern) for pattern in patterns)

    for pattern in patterns:
        if not any(fnmatchcase(_split_prefix(name)[1], pattern) for name in wanted):
            raise InputError(
                "a pattern that matches an array of the model",
                repr(pattern),
                f"the model holds {_listed(wanted)}",
            )
    for name, leaf in wanted.items():
        if not matches(name) and isinstance(leaf, jax.ShapeDtypeStruct):
            raise InputError(
                f"values of {name} in like, which only= leaves as it is",
                "its shape alone",
                "pass what init gives, in place of jax.eval_shape of it",
            )
    return (
        {name: array for name, array in arrays.items() if matches(name)},
        {name: leaf for name, leaf in wanted.items() if matches(name)},
    )


def _listed(names: Iterable[str]) -> str:
    paths = [_split_prefix(name)[1] for name in names]
    return (", ".join(paths[:6]) or "none") + (", ..." if len(paths) > 6 else "")
