"""Optimizers around an optimizer: when it is applied, and by how much."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn._core.description import constructor
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import Array, Number, PyTree
from fnn.optim._hyperparameters import check_count, check_fraction, check_number
from fnn.optim._moving_average import zeros
from fnn.optim._paths import leaf_paths
from fnn.optim.optimizer import GradientAt, Optimizer, check_optimizer, from_step, tree_map_like


class AccumulateState(NamedTuple):
    """The state of the optimizer inside, the sum of the gradients so far, and their number."""

    inner: PyTree
    total: PyTree
    gathered: Array


@constructor
def accumulate(optimizer: Optimizer, steps: int) -> Optimizer:
    """Gradient accumulation: an optimizer applied to the mean of `steps` gradients.

    ``s_t = s_{t-1} + g_t``; every `steps` steps the update is the optimizer's for ``s_t / steps``,
    which starts the sum again, at all others it is zero. So a large batch is trained in parts that
    fit. The sum is kept in float32 or better; the optimizer counts its own steps, and so do its
    schedules.

    Raises `fnn.InputError` for `steps` below 1, and an optimizer that needs more than the gradient:
    chain `sam` before this one.

    >>> import fnn, jax.numpy as jnp
    >>> optimizer = accumulate(fnn.optim.sgd(0.5), 2)
    >>> params = jnp.array([0.0])
    >>> state = optimizer.init(params)
    >>> for gradient in (1.0, 3.0):
    ...     updates, state = optimizer.update(jnp.array([gradient]), state, params)
    ...     print(updates)
    [0.]
    [-1.]
    """
    check_optimizer("an optimizer", optimizer, plain=True)
    check_count("steps", steps)

    def init(params: PyTree, /) -> AccumulateState:
        return AccumulateState(optimizer.init(params), zeros(params), jnp.int32(0))

    def update(
        grads: PyTree, state: AccumulateState, params: PyTree, /
    ) -> tuple[PyTree, AccumulateState]:
        # A sum that was applied is left in its place until the next one begins: to clear it would
        # be one more array for the condition to hand on.
        begins = state.gathered == 0
        total = tree_map_like(
            lambda s, g: jnp.where(begins, 0, s) + g.astype(s.dtype), state.total, grads
        )
        gathered = state.gathered + 1

        def apply() -> tuple[PyTree, PyTree]:
            return optimizer.update(
                tree_map_like(lambda g, s: s / steps, grads, total), state.inner, params
            )

        def wait() -> tuple[PyTree, PyTree]:
            return tree_map_like(jnp.zeros_like, grads), state.inner

        updates, inner = jax.lax.cond(gathered == steps, apply, wait)
        return updates, AccumulateState(inner, total, gathered % steps)

    return Optimizer(init, update)


class GuardState(NamedTuple):
    """The state of the optimizer inside, the steps skipped, the array that spoiled the last.

    `leaf` is its index among the leaves of the gradient, -1 before the first; `nonfinite_leaf`
    turns it into a path.
    """

    inner: PyTree
    skipped: Array
    leaf: Array


@constructor
def skip_nonfinite(optimizer: Optimizer) -> Optimizer:
    """Guard against NaN and infinity: a step whose gradient holds one changes nothing.

    The state counts the steps skipped and remembers the first bad array of the last of them, which
    `nonfinite_leaf` names. Nothing is hidden: look at the count after training.

    Raises `fnn.InputError` for what is no optimizer, and for an optimizer that needs more than the
    gradient: chain `sam` before this one.

    >>> import fnn, jax.numpy as jnp
    >>> optimizer = skip_nonfinite(fnn.optim.sgd(0.5))
    >>> params = {"weight": jnp.array([1.0]), "bias": jnp.array([1.0])}
    >>> grads = {"weight": jnp.array([jnp.nan]), "bias": jnp.array([1.0])}
    >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
    >>> updates["bias"], int(state.skipped), nonfinite_leaf(params, state)
    (Array([0.], dtype=float32), 1, 'weight')
    """
    check_optimizer("an optimizer", optimizer, plain=True)

    def init(params: PyTree, /) -> GuardState:
        return GuardState(optimizer.init(params), jnp.int32(0), jnp.int32(-1))

    def update(grads: PyTree, state: GuardState, params: PyTree, /) -> tuple[PyTree, GuardState]:
        leaves = [jnp.isfinite(g).all() for g in jax.tree.leaves(grads)]
        finite = jnp.stack(leaves) if leaves else jnp.ones(1, bool)

        # Chosen by a condition, not number by number: XLA would look through all of the gradient
        # again for every array, and take minutes to compile for some hundred of them.
        def apply() -> tuple[PyTree, GuardState]:
            updates, inner = optimizer.update(grads, state.inner, params)
            return updates, state._replace(inner=inner)

        def skip() -> tuple[PyTree, GuardState]:
            leaf = finite.argmin().astype(jnp.int32)
            still = tree_map_like(jnp.zeros_like, grads)
            return still, GuardState(state.inner, state.skipped + 1, leaf)

        return jax.lax.cond(finite.all(), apply, skip)

    return Optimizer(init, update)


@entry
def nonfinite_leaf(params: PyTree, state: PyTree) -> str | None:
    """Return the path of the array that made `skip_nonfinite` skip last; None if it never did.

    `state` is the state of the guard, or of an optimizer that it stands in; `params` are the
    parameters that the guarded optimizer works on, or anything in their structure.

    Raises `fnn.InputError` when there is no guard.
    """
    guards = [
        node
        for node in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, GuardState))
        if isinstance(node, GuardState)
    ]
    if not guards:
        raise InputError(
            "the state of an optimizer with a guard",
            describe(state),
            "wrap the optimizer in fnn.optim.skip_nonfinite",
        )
    index = int(guards[0].leaf)
    return None if index < 0 else leaf_paths(params)[index]


class PlateauState(NamedTuple):
    """What `reduce_on_plateau` remembers.

    `scale` of the updates, `best` mean loss so far, windows `bad` in a row, windows of rest left,
    and sum and number of the losses in the window.
    """

    scale: Array
    best: Array
    bad: Array
    rest: Array
    total: Array
    gathered: Array


@constructor
def reduce_on_plateau(
    factor: Number = 0.1,
    patience: int = 10,
    tolerance: Number = 1e-4,
    window: int = 1,
    cooldown: int = 0,
    least: Number = 0.0,
) -> Optimizer:
    """Reduce on plateau: updates scaled down when the loss stops falling.

    The loss is that of the batches, before their updates, averaged over `window` steps (an epoch,
    say). A mean that is not below ``(1 - tolerance) best`` is bad; at `patience` bad ones in a row
    the scale is multiplied by `factor`, down to `least`, and the next `cooldown` windows are not
    counted. Stands after the optimizer with the learning rate: ``chain(sgd(0.1),
    reduce_on_plateau(0.5, window=100))``.

    Raises `fnn.InputError` for a factor or a tolerance outside [0, 1), patience or window below 1,
    a negative cooldown or `least`; and where it is not given the loss, outside of
    `fnn.train_step`.

    >>> import fnn
    >>> fnn.optim.chain(fnn.optim.sgd(0.1), reduce_on_plateau(0.5, patience=3))
    chain(sgd(0.1), reduce_on_plateau(0.5, patience=3))
    """
    check_fraction("factor", factor)
    check_fraction("tolerance", tolerance)
    check_count("patience", patience)
    check_count("window", window)
    check_number("cooldown", cooldown)
    check_number("least", least)

    def init(params: PyTree, /) -> PlateauState:
        del params
        number = jnp.result_type(float)
        zero, one, none = jnp.zeros((), number), jnp.ones((), number), jnp.int32(0)
        return PlateauState(one, jnp.full((), jnp.inf, number), none, none, zero, none)

    def step(
        gradient_at: GradientAt, params: PyTree, state: PlateauState, /
    ) -> tuple[tuple[Any, PyTree], PyTree, PlateauState]:
        (value, aux), grads = gradient_at(params)
        total, gathered = state.total + value.astype(state.total.dtype), state.gathered + 1
        full = gathered == window
        mean = total / window
        better = mean < (1 - tolerance) * state.best
        resting = state.rest > 0
        bad = jnp.where(better | resting, 0, state.bad + 1)
        reduce = bad == patience
        scale = jnp.where(reduce, jnp.maximum(state.scale * factor, least), state.scale)
        judged = PlateauState(
            scale,
            jnp.where(better, mean, state.best),
            jnp.where(reduce, 0, bad),
            jnp.where(reduce, cooldown, jnp.maximum(state.rest - 1, 0)),
            jnp.zeros_like(total),
            jnp.zeros_like(gathered),
        )
        waiting = state._replace(total=total, gathered=gathered)
        state = jax.tree.map(lambda one, other: jnp.where(full, one, other), judged, waiting)
        return (value, aux), tree_map_like(lambda g: state.scale.astype(g.dtype) * g, grads), state

    return from_step(init, step)
