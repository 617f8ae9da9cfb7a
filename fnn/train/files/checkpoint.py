"""Train states in files, from which training goes on bit for bit."""

from __future__ import annotations

import base64
import functools
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from fnn._core.atomic_write import as_path
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import Unchecked
from fnn.layer import Layer
from fnn.losses import Loss
from fnn.optim.optimizer import Optimizer
from fnn.train.files import _safetensors
from fnn.train.files._arrays_file import (
    Content,
    content_of,
    matched,
    named_leaves,
    other_kind,
    write_content,
)
from fnn.train.step import TrainState

# What JSON holds, and bytes: the position of a reader of data.
DataState: TypeAlias = Any
_PACKAGES = ("fnn", "jax", "jaxlib", "numpy")
# A header is read as a whole, and has a limit: more bytes than these stand among the arrays.
_IN_HEADER, _ARRAY, _ELSEWHERE = 2**16, "data_state", "bytes in the array"


class Checkpoint(NamedTuple):
    """What a checkpoint says of itself, beside the arrays.

    Args:
        step: how many steps were taken.
        model: the description of the model, as it prints; None where none was given.
        loss: that of the loss.
        optimizer: that of the optimizer.
        hyperparameters: the numbers of the train state by their paths; what is no single number,
            such as a key, by its dtype and shape.
        data_state: what else is to be known to go on, as it was given.
        score: what the checkpoint is judged by, None where nothing was given.
        versions: those of fnn, jax, jaxlib, numpy and Python.
    """

    step: int
    model: str | None
    loss: str | None
    optimizer: str | None
    hyperparameters: dict[str, float | str]
    data_state: DataState
    score: float | None
    versions: dict[str, str]


@entry
def save_train_state(
    file: Path | str,
    train_state: TrainState,
    *,
    model: Layer | None = None,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    data_state: DataState = None,
) -> None:
    """Write a train state, from which training goes on bit for bit.

    One file in the safetensors format, with a checksum of every array and of the whole; an existing
    one is replaced once the new one is complete. To keep the last ones of a run, and to write while
    training goes on, see `fnn.train.Checkpoints`.

    Args:
        file: where to; its folder must exist.
        train_state: as `fnn.fit`, or a step of training, returns it.
        model: the model, whose description is written beside the arrays.
        loss: the loss, likewise.
        optimizer: the optimizer, likewise.
        data_state: what else is to be known to go on, such as ``history.data_state`` or the
            position of a reader of data: what JSON holds (a tuple comes back as a list), and bytes.
            The order of data in memory follows from key and step.
    Raises:    InputError for what is no train state, a dtype that the format lacks, a data state
        that JSON does not hold, and a file that cannot be written to; OSError where writing fails.

    >>> import fnn, jax, jax.numpy as jnp, pathlib, tempfile
    >>> model, optimizer = fnn.dense(2), fnn.optim.adam(0.1)
    >>> start = fnn.init_train_state(model, optimizer, jnp.ones((1, 3)), key=jax.random.key(0))
    >>> file = pathlib.Path(tempfile.mkdtemp(), "run.safetensors")
    >>> save_train_state(file, start, model=model, optimizer=optimizer)
    >>> again = fnn.load_train_state(file, like=start)
    >>> bool((again.params["weight"] == start.params["weight"]).all())
    True
    >>> fnn.train.checkpoint_info(file).optimizer
    'adam(0.1)'
    """
    content = pack_train_state(train_state, model, loss, optimizer, data_state)
    write_content(as_path(file), content)


def pack_train_state(
    train_state: TrainState,
    model: Layer | None = None,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    data_state: DataState = None,
    score: float | None = None,
    *,
    copy: bool = False,
) -> Content:
    """Return what stands in the file of a train state.

    Args:
        train_state: the train state.
        model: described in words, if there.
        loss: likewise.
        optimizer: likewise.
        data_state: the position of the reader of data.
        score: what the checkpoint is judged by.
        copy: whether the arrays are to be copies: the buffers may be given away meanwhile.
    """
    remedy = "pass what fnn.fit returns first, or use fnn.save_weights"
    _require_train_state(train_state, "a TrainState", remedy)
    leaves = named_leaves(train_state)
    if isinstance(data_state, bytes) and len(data_state) > _IN_HEADER:
        leaves[_ARRAY] = np.frombuffer(data_state, np.uint8)
        data_state = {_ELSEWHERE: _ARRAY}
    if isinstance(train_state.step, jax.core.Tracer):
        raise InputError("step to have values", "a traced array", "save outside of jax.jit")
    try:
        position = json.dumps(data_state, default=_of_bytes, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            "data_state to be what JSON holds, or bytes",
            f"{describe(data_state)} ({error})",
            "pass numbers, texts, bytes, and lists and dictionaries of them",
        ) from error
    hyper = {name: _number(value) for name, value in train_state.hyperparameters.items()}
    described = {
        name: None if value is None else repr(value)
        for name, value in (("model", model), ("loss", loss), ("optimizer", optimizer))
    }
    words = {
        "step": str(int(train_state.step)),
        "description": json.dumps(described),
        "hyperparameters": json.dumps(hyper),
        "data_state": position,
        "score": json.dumps(None if score is None else float(score)),
        "versions": json.dumps(package_versions()),
    }
    return content_of(train_state, "train_state", words, copy, leaves)


@entry
def load_train_state(file: Path | str, like: TrainState) -> TrainState:
    """Read a train state written by `save_train_state`, in the structure of `like`.

    Training goes on from it bit for bit: ``fnn.fit(..., start=load_train_state(file, like))``.
    Nothing is filled in or converted.

    Args:
        file: the file.
        like: a train state of the same model and optimizer, as `fnn.init_train_state` gives, or
            `jax.eval_shape` of it.
    Raises:    InputError for a train state of another model or optimizer, with the first array that
        differs; for a file of another kind or version; and for one that is damaged, with the name
        of the array where the damage is in one.

    >>> import fnn, jax, jax.numpy as jnp, pathlib, tempfile
    >>> make = lambda optimizer: fnn.init_train_state(
    ...     fnn.dense(1), optimizer, jnp.ones((1, 2)), key=jax.random.key(0)
    ... )
    >>> file = pathlib.Path(tempfile.mkdtemp(), "run.safetensors")
    >>> fnn.save_train_state(file, make(fnn.optim.sgd(0.1)))
    >>> load_train_state(file, like=make(fnn.optim.adam(0.1)))
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn.load_train_state: expected a train state like that of the \
    arguments, got nothing at opt_state/step, where int32 of shape () should be; build the \
    model and the optimizer that were saved
    """
    remedy = "make it with fnn.init_train_state for the same model and optimizer"
    _require_train_state(like, "like to be a TrainState", remedy)
    found = _safetensors.read(as_path(file), "train_state")
    if found.kind != "train_state":
        raise other_kind("a train state", file, found.kind)
    saved = json.loads(found.words["description"])
    known = [saved[name] for name in ("model", "optimizer") if saved[name]]
    remedy = "build the model and the optimizer that were saved" + (
        f": {' and '.join(known)}" if known else ""
    )
    found.arrays.pop(_ARRAY, None)
    expected = "a train state like that of the arguments"
    leaves = matched(found.arrays, found.keys, named_leaves(like), expected, remedy)
    loaded: TrainState = jax.tree.unflatten(jax.tree.structure(like), list(leaves.values()))
    return loaded


@entry
def checkpoint_info(file: Path | str) -> Checkpoint:
    """Return what a file of `save_train_state` says of itself, without the train state.

    Args:
        file: the file.
    Raises:    InputError for a file of another kind or version, and for one whose header is
        damaged.

    >>> import fnn, jax, jax.numpy as jnp, pathlib, tempfile
    >>> start = fnn.init_train_state(
    ...     fnn.dense(1), fnn.optim.sgd(0.5), jnp.ones((1, 2)), key=jax.random.key(0)
    ... )
    >>> file = pathlib.Path(tempfile.mkdtemp(), "run.safetensors")
    >>> fnn.save_train_state(file, start, data_state={"row": 7})
    >>> info = checkpoint_info(file)
    >>> info.step, info.data_state, info.hyperparameters
    (0, {'row': 7}, {'optimizer/learning_rate': 0.5})
    """
    kind, words = _safetensors.read_words(as_path(file))
    if kind != "train_state":
        raise other_kind("a train state", file, kind)
    described = json.loads(words["description"])
    data_state = json.loads(words["data_state"], object_hook=_to_bytes)
    if data_state == {_ELSEWHERE: _ARRAY}:
        data_state = _safetensors.read_one(as_path(file), _ARRAY).tobytes()
    return Checkpoint(
        step=int(words["step"]),
        **described,
        hyperparameters=json.loads(words["hyperparameters"]),
        data_state=data_state,
        score=json.loads(words["score"]),
        versions=json.loads(words["versions"]),
    )


def _require_train_state(value: Unchecked, expected: str, remedy: str) -> None:
    if not isinstance(value, TrainState):
        raise InputError(expected, describe(value), remedy)


def package_versions() -> dict[str, str]:
    """Return the versions of fnn, what it computes with, and Python."""
    return dict(_package_versions()) | {"python": platform.python_version()}


@functools.cache
def _package_versions() -> tuple[tuple[str, str], ...]:
    found = []
    for name in _PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append((name, "unknown"))
    return tuple(found)


def _number(value: Unchecked) -> float | str:
    """Return a hyper-parameter for the words of a file."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return describe(value)


def _of_bytes(value: Unchecked) -> Unchecked:
    """Return what JSON does not hold as something that it does."""
    if isinstance(value, bytes):
        return {"bytes in base64": base64.b64encode(value).decode()}
    if isinstance(value, np.integer | np.floating | np.bool_):
        return value.item()
    raise TypeError(f"{type(value).__name__} is none of them")


def _to_bytes(found: dict[str, Unchecked]) -> Unchecked:
    return base64.b64decode(found["bytes in base64"]) if "bytes in base64" in found else found
