"""The compiled part of training: a stretch of steps as one program.

`run_steps` is a pure function of arrays: the train state with its hyper-parameters, the examples,
and which of them every step takes. `run` is the same compiled, giving its buffers away.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.mesh import batch_in_parts
from fnn._core.types import Array, PyTree, Scalar, Unchecked
from fnn.gradient.objective import Batch, as_batch
from fnn.train._gathering import gathering
from fnn.train.loop._nonfinite import all_sound
from fnn.train.sharding import Layout
from fnn.train.step import TrainState, TrainStep

# ``(batch, key, step) -> batch``, on the device.
Transform: TypeAlias = Callable[[Batch, Array, Array], Batch]
# Folded into the key of a step: the layers split that, or fold in their places, which are small.
_TRANSFORM = 0x7472616E


class Steps(NamedTuple):
    """Examples that lie in the order of their steps, (steps, size, ...); others lie as they came.

    Args:
        batches: a tree of arrays.
    """

    batches: Batch


class _Carry(NamedTuple):
    """What goes round in the loop: the number of the step, and whether the last loss was finite."""

    i: Array
    train_state: TrainState
    losses: Array
    finite: Array


def run_steps(
    step: TrainStep,
    transform: Transform | None,
    train_state: TrainState,
    data: PyTree,
    order: Array,
    losses: Array,
    watched: Array,
    alive: Scalar,
    start: Scalar,
    stop: Scalar,
    look: Scalar = True,
    layout: Layout | None = None,
) -> tuple[TrainState, Array, Array]:
    """Take steps start..stop-1, step i on the examples ``order[i]``, while all is finite.

    The bounds are traced, so one program serves any number of steps, for the price of a scan. A
    loss that is not finite interrupts the inner loop; only then, and at the end where that is asked
    for, the parameters are looked at, and if one of those `watched` is not finite the run is over.

    Args:
        step: the training step.
        transform: of the batches, or None.
        train_state: where to begin.
        data: examples, a tree of arrays with a leading axis; or `Steps`.
        order: (steps, size), the examples of every step.
        losses: (steps,), where the losses are written to.
        watched: for every leaf of the parameters, whether it has to stay finite.
        alive: whether all was finite so far; if not, no step is taken.
        start: the first step.
        stop: the step to stop before.
        look: whether to look at the parameters there: not where chance alone put the end.
        layout: where all that lies on a mesh; None where there is none.
    """
    # At both ends of a step and of the loop: what lies between is left to the compiler.
    keep = (lambda train_state: train_state) if layout is None else layout.keep
    rebuild = None if layout is None else functools.partial(gathering, layout)
    parts = 1 if layout is None else layout.mesh.shape[layout.axis]

    def take(carry: _Carry) -> _Carry:
        train_state = keep(carry.train_state)
        batch = batch_of(transform, train_state, data, order, carry.i, layout)
        with batch_in_parts(parts):
            train_state, metrics = step(train_state, batch, rebuild)
        train_state = keep(train_state)
        value = metrics["loss"].astype(losses.dtype)
        return _Carry(
            carry.i + 1, train_state, carry.losses.at[carry.i].set(value), jnp.isfinite(value)
        )

    def stretch(carry: _Carry) -> _Carry:
        carry = jax.lax.while_loop(
            lambda c: (c.i < stop) & c.finite, take, carry._replace(finite=jnp.ones((), bool))
        )
        fine = all_sound(carry.train_state.params, watched)
        return carry._replace(finite=fine | (carry.finite & ~jnp.asarray(look)))

    carry = _Carry(jnp.asarray(start), train_state, jnp.asarray(losses), jnp.asarray(alive))
    carry = jax.lax.while_loop(lambda c: (c.i < stop) & c.finite, stretch, carry)
    values, finite = carry.losses, carry.finite
    if layout is not None:
        values, finite = layout.replicated((values, finite))
    return keep(carry.train_state), values, finite


run = jax.jit(
    run_steps,
    static_argnames=("step", "transform", "layout"),
    donate_argnames=("train_state", "losses"),
)


def batch_of(
    transform: Transform | None,
    train_state: TrainState,
    data: PyTree,
    order: Array | np.ndarray,
    i: Scalar,
    layout: Layout | None = None,
) -> Batch:
    """Return the batch that a step is taken on.

    Args:
        transform: of the batches, or None.
        train_state: the one before the step.
        data: examples, or `Steps`.
        order: (steps, size), the examples of every step.
        i: which step.
        layout: where all that lies on a mesh, inside of a compiled function; None elsewhere.
    """
    split = (lambda batch: batch) if layout is None else layout.split
    if isinstance(data, Steps):
        batch = jax.tree.map(lambda a: a[i], data.batches)
    else:
        batch = jax.tree.map(lambda a: a[order[i]], data)
    return split(transformed(transform, train_state, split(batch)))


def transformed(transform: Transform | None, train_state: TrainState, batch: Batch) -> Batch:
    """Return a batch as the transform makes it.

    Args:
        transform: of the batches, or None.
        train_state: the one before the step.
        batch: as it was read.
    """
    if transform is None:
        return batch
    key = jax.random.fold_in(jax.random.fold_in(train_state.key, train_state.step), _TRANSFORM)
    return as_batch(transform(batch, key, train_state.step))


def check_transform(transform: Unchecked) -> None:
    """Raise unless a value is a function of batch, key and step, or None.

    Args:
        transform: what may be one.
    """
    if transform is not None:
        remedy = "pass a function (batch, key, step) -> batch"
        check.function(transform, "transform", remedy, takes="batch, key, step")


def transformed_spec(transform: Transform | None, batch: Batch) -> Batch:
    """Return the shapes of a batch as the model sees it.

    Args:
        transform: of the batches, or None.
        batch: the shapes of one, as it is read.
    """
    if transform is None:
        return batch
    given = transform, jax.random.key(0), jnp.int32(0)
    seen: Batch = jax.eval_shape(lambda batch: as_batch(given[0](batch, *given[1:])), batch)
    return seen


def no_losses(steps: int) -> np.ndarray:
    """Return room for the losses of so many steps.

    Args:
        steps: how many.
    """
    return np.zeros(steps, jnp.result_type(float))


def copies(tree: PyTree, layout: Layout | None) -> PyTree:
    """Return copies of all leaves, each where it lay.

    Args:
        tree: of arrays.
        layout: where it lies on a mesh; None where there is none.
    """
    return _copies(tree) if layout is None else jax.tree.map(jnp.copy, tree)


# One by one, every shape would compile a program of its own.
@jax.jit
def _copies(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)
