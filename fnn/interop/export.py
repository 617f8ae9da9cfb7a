"""Programs for where fnn is not: StableHLO, versioned, with the arrays it runs on by their names.

The bytes are those of `jax.export`, whose promise they carry: newer versions of JAX read them for
months. What reads them needs JAX and NumPy alone. So a program takes and gives no class of fnn: a
tree is an array, or a dict of its arrays by path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from fnn._core import check
from fnn._core.arrays import as_arrays, require_arrays
from fnn._core.errors import InputError, describe, entry
from fnn._core.extras import require
from fnn._core.keys import is_key, words_of
from fnn._core.place import check_place
from fnn._core.types import Array, Data, Input, Params, PyTree, State, Unchecked
from fnn.gradient.objective import as_batch
from fnn.interop._by_path import by_path, of_path, shapes_of
from fnn.layer import Layer, require_layer
from fnn.train.files._arrays_file import named_leaves
from fnn.train.step import TrainState, TrainStep

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


class Exported(NamedTuple):
    """Exported program: what `jax.export.deserialize` reads, and the arrays it is called with.

    Args:
        program: StableHLO in the bytes of `jax.export`.
        arrays: parameters and whatever else it runs on, by path, as `numpy.savez` writes them.
    """

    program: bytes
    arrays: dict[str, np.ndarray]


@entry
def export_forward(
    model: Layer,
    params: Params,
    state: State,
    x: Input,
    *,
    any_batch: bool = True,
    platforms: Sequence[str] = PLATFORMS,
) -> Exported:
    """Export a model out of training, as StableHLO for several platforms at once.

    The program maps ``(arrays, x)`` to y. It needs no fnn where it runs::

        program = jax.export.deserialize(Path("model.bin").read_bytes())
        y = program.call(dict(np.load("model.npz")), x)

    Args:
        model: any layer.
        params: its parameters.
        state: what its layers remember.
        x: an example input (B, ...), or its shape: an array, or a tree, which the program takes as
            a dict of arrays by path.
        any_batch: whether the program takes batches of any size, and not of B alone.
        platforms: where it shall run: of "cpu", "cuda", "rocm" and "tpu".
    Raises:    ImportError without the extra ``export``, which writes the bytes; InputError for
        another platform, parameters of another model, and a model that does
        not run at any batch size where it shall.

    >>> import fnn, jax, jax.numpy as jnp
    >>> from jax import export
    >>> model, x = fnn.dense(2), jnp.ones((4, 3))
    >>> exported = export_forward(model, *model.init(jax.random.key(0), x), x)
    >>> sorted(exported.arrays)
    ['params/bias', 'params/weight']
    >>> export.deserialize(exported.program).call(exported.arrays, jnp.ones((7, 3))).shape
    (7, 2)

    """
    require_layer(model)
    x = require_arrays(x, shapes=True)
    check_place(model, params, state, x)

    def run(place: PyTree, x: Input) -> PyTree:
        return by_path(model.apply(place["params"], place["state"], x)[0])

    place = {"params": params, "state": state}
    return _exported(run, place, (x,), any_batch, platforms, "export_forward")


@entry
def export_step(
    step: TrainStep,
    train_state: TrainState,
    batch: Data,
    *,
    any_batch: bool = True,
    platforms: Sequence[str] = PLATFORMS,
) -> Exported:
    """Export a training step, with its gradient by hand or by autodiff, as StableHLO.

    The program maps ``(arrays, x, target)``, with weights behind them where the batch has some, to
    ``(arrays, loss)``: call it again with the arrays that it returned. They are the train state by
    path, the key as words.

    Args:
        step: as `fnn.train_step` makes it.
        train_state: as `fnn.init_train_state` makes it.
        batch: an example of ``(x, target)`` or ``(x, target, weights)``, each an array, or a tree,
            which the program takes as a dict of arrays by path.
        any_batch: whether the program takes batches of any size, and not of this one alone.
        platforms: where it shall run: of "cpu", "cuda", "rocm" and "tpu".
    Raises:    InputError for what is no training step, a train state of another one, and as
        `fnn.export_forward` does.

    >>> import fnn, jax, jax.numpy as jnp
    >>> from jax import export
    >>> model, optimizer, x = fnn.dense(1), fnn.optim.sgd(0.1), jnp.ones((4, 3))
    >>> step = fnn.train_step(model, fnn.losses.squared_error(), optimizer)
    >>> train_state = fnn.init_train_state(model, optimizer, x, key=jax.random.key(0))
    >>> exported = export_step(step, train_state, (x, jnp.ones((4, 1))))
    >>> arrays, loss = export.deserialize(exported.program).call(
    ...     exported.arrays, jnp.ones((2, 3)), jnp.ones((2, 1))
    ... )
    >>> int(arrays["step"])
    1

    """
    _check_step(step, train_state)
    train_state = as_arrays(train_state, "a TrainState")
    made = tuple(part for part in as_batch(batch) if part is not None)
    require_arrays(made, "batch", shapes=True)

    def run(place: TrainState, *batch: Data) -> tuple[dict[str, Array], Array]:
        after, metrics = step(place, batch)
        return _words(named_leaves(after)), metrics["loss"]

    return _exported(run, train_state, made, any_batch, platforms, "export_step")


def _check_step(step: Unchecked, train_state: Unchecked) -> None:
    """Raise unless these are a training step and a train state."""
    if not isinstance(step, TrainStep):
        raise InputError("a training step", describe(step), "make it with fnn.train_step")
    if not isinstance(train_state, TrainState):
        remedy = "make it with fnn.init_train_state"
        raise InputError("a TrainState", describe(train_state), remedy)
    for leaf in jax.tree.leaves(train_state):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float):
            remedy = "pass one that could be trained with"
            raise InputError("a TrainState of arrays", describe(leaf), remedy)


def _exported(
    run: Callable[..., PyTree],
    place: PyTree,
    inputs: tuple[PyTree, ...],
    any_batch: bool,
    platforms: Sequence[str],
    where: str,
) -> Exported:
    """Export a function of a place, whose arrays are told by path, and of inputs."""
    require("flatbuffers", where, "export")
    check.flag(any_batch, "any_batch")
    for platform in check.several(platforms, "platforms"):
        check.one_of(platform, "platforms", PLATFORMS, "name some of these")
    named = named_leaves(place)
    kinds = {name: _key_kind(leaf) for name, leaf in named.items()}
    structure = jax.tree.structure(place)

    def program(arrays: dict[str, Array], *given: PyTree) -> PyTree:
        leaves = [
            arrays[name] if kind is None else jax.random.wrap_key_data(arrays[name], impl=kind)
            for name, kind in kinds.items()
        ]
        return run(jax.tree.unflatten(structure, leaves), *map(of_path, inputs, given))

    arrays = {name: np.asarray(leaf) for name, leaf in _words(named).items()}
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arrays)
    taken = tuple(map(by_path, inputs))
    try:
        found = export.export(jax.jit(program), platforms=list(platforms))(
            shapes, *shapes_of(taken, any_batch)
        )
    except InputError:
        raise
    except Exception as error:
        if not any_batch:
            raise
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        remedy = "pass any_batch=False to export it for the size of the example alone"
        raise InputError("a program for any batch size", reason, remedy) from error
    return Exported(bytes(found.serialize()), arrays)


def _words(named: dict[str, Unchecked]) -> dict[str, Array]:
    """Return arrays by name, keys as the words that they are made of."""
    return {name: jnp.asarray(words_of(leaf)) for name, leaf in named.items()}


def _key_kind(leaf: Unchecked) -> str | None:
    """Return the generator of a key, None for another array."""
    return str(jax.random.key_impl(leaf)) if is_key(leaf) else None
