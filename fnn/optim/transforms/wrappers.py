"""Optimizers around an optimizer: when it is applied, and by how much."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import (
    Array,
    Grads,
    Number,
    OptState,
    Params,
    PyTree,
    Scalar,
    Updates,
)
from fnn.optim._hyperparameters import cast_like
from fnn.optim._moving_average import zeros
from fnn.optim._paths import leaf_paths
from fnn.optim.optimizer import (
    GradientAt,
    Optimizer,
    check_optimizer,
    from_step,
    tree_map_like,
    update_with,
)


class AccumulateState(NamedTuple):
    """The state of the optimizer inside, the sum of the gradients so far, and their number."""

    inner: OptState
    total: PyTree
    gathered: Array


@constructor
def accumulate(optimizer: Optimizer, steps: int) -> Optimizer:
    """Gradient accumulation: an optimizer applied to the mean of `steps` gradients.

    So a large batch is trained in parts that fit. The sum is kept in float32 or wider; the
    optimizer counts its own steps, and so do its schedules.

    Update:    s_t = s_{t-1} + g_t; every `steps` steps that of the optimizer for s_t / steps, which
        starts the sum again, at all others 0

    Args:
        optimizer: the optimizer inside.
        steps: how many gradients make one, >= 1.
    Raises:    InputError for `steps` below 1, what is no optimizer, and one that needs more than
        the gradient: chain `sam` before this one.

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
    check.count(steps, "steps")

    def init(params: Params, /) -> AccumulateState:
        return AccumulateState(optimizer.init(params), zeros(params), jnp.int32(0))

    def update(
        grads: Grads, state: AccumulateState, params: Params, /, **extra: PyTree
    ) -> tuple[Updates, AccumulateState]:
        # A sum that was applied is left in its place until the next one begins: to clear it would
        # be one more array for the condition to hand on.
        begins = state.gathered == 0
        total = tree_map_like(
            lambda s, g: jnp.where(begins, 0, s) + g.astype(s.dtype), state.total, grads
        )
        gathered = state.gathered + 1
        updates, inner = jax.lax.cond(
            gathered == steps,
            lambda: update_with(
                optimizer,
                tree_map_like(lambda g, s: s / steps, grads, total),
                state.inner,
                params,
                extra,
            ),
            lambda: (tree_map_like(jnp.zeros_like, grads), state.inner),
        )
        return updates, AccumulateState(inner, total, gathered % steps)

    return Optimizer(init, update)


class GuardState(NamedTuple):
    """The state of the optimizer inside, the steps skipped, the array that spoiled the last.

    `leaf` is its index among the leaves of the gradient, -1 before the first; `nonfinite_leaf`
    turns it into a path.
    """

    inner: OptState
    skipped: Array
    leaf: Array


@constructor
def skip_nonfinite(optimizer: Optimizer) -> Optimizer:
    """Guard against NaN and infinity: a step whose gradient holds one changes nothing.

    What it skips is all that the optimizer inside does: moments, averages, schedules and noise stay
    where they are, and `fnn.train_step` leaves the running statistics of the layers. So it stands
    around the whole, ``skip_nonfinite(chain(adam(1e-3), ema()))``: what comes after it in a chain
    takes its step, for an update of 0. The state counts the steps skipped and remembers the first
    bad array of the last of them, which `nonfinite_leaf` names. Nothing is hidden: look at the
    count after training.

    Update:    that of the optimizer inside where all of g is finite, else 0, and its state as it
        was

    Args:
        optimizer: the optimizer inside.
    Raises:    InputError for what is no optimizer, and for one that needs more than the gradient:
        chain `sam` before this one.

    >>> import fnn, jax.numpy as jnp
    >>> optimizer = skip_nonfinite(fnn.optim.sgd(0.5))
    >>> params = {"weight": jnp.array([1.0]), "bias": jnp.array([1.0])}
    >>> grads = {"weight": jnp.array([jnp.nan]), "bias": jnp.array([1.0])}
    >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
    >>> updates["bias"], int(state.skipped), nonfinite_leaf(params, state)
    (Array([0.], dtype=float32), 1, 'weight')

    """
    check_optimizer("an optimizer", optimizer, plain=True)

    def init(params: Params, /) -> GuardState:
        return GuardState(optimizer.init(params), jnp.int32(0), jnp.int32(-1))

    def update(
        grads: Grads, state: GuardState, params: Params, /, **extra: PyTree
    ) -> tuple[Updates, GuardState]:
        leaves = [jnp.isfinite(g).all() for g in jax.tree.leaves(grads)]
        finite = jnp.stack(leaves) if leaves else jnp.ones(1, bool)
        # Chosen by a condition, not number by number: XLA would look through all of the gradient
        # again for every array, and take minutes to compile for some hundred of them.
        return jax.lax.cond(
            finite.all(),
            lambda: _applied(optimizer, grads, state, params, extra),
            lambda: _skipped(grads, state, finite),
        )

    return Optimizer(init, update)


def _applied(
    optimizer: Optimizer, grads: Grads, state: GuardState, params: Params, extra: dict[str, PyTree]
) -> tuple[Updates, GuardState]:
    """Take the step of the optimizer inside a guard."""
    updates, inner = update_with(optimizer, grads, state.inner, params, extra)
    return updates, state._replace(inner=inner)


def _skipped(grads: Grads, state: GuardState, finite: Array) -> tuple[Updates, GuardState]:
    """Skip a step, and remember the first array that is not finite."""
    leaf = finite.argmin().astype(jnp.int32)
    still = tree_map_like(jnp.zeros_like, grads)
    return still, GuardState(state.inner, state.skipped + 1, leaf)


def _guards(state: OptState) -> list[GuardState]:
    """Return the states of all guards in the state of an optimizer, the inner ones of each too."""
    found: list[GuardState] = []
    for node in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, GuardState)):
        if isinstance(node, GuardState):
            found += [node, *_guards(node.inner)]
    return found


@entry
def nonfinite_leaf(params: Params, state: OptState) -> str | None:
    """Return the path of the array that made `skip_nonfinite` skip last; None if it never did.

    Args:
        params: the parameters that the guarded optimizer works on, or anything in their structure.
        state: the state of the guard, or of an optimizer that it stands in.
    Raises:    InputError when there is no guard, for parameters of fewer arrays than that one's
        place, and where the values are not known, inside of `jax.jit`.

    >>> import fnn, jax.numpy as jnp
    >>> params = {"weight": jnp.ones(1)}
    >>> nonfinite_leaf(params, skip_nonfinite(fnn.optim.sgd(0.1)).init(params)) is None
    True

    """
    guards = _guards(state)
    if not guards:
        raise InputError(
            "the state of an optimizer with a guard",
            describe(state),
            "wrap the optimizer in fnn.optim.skip_nonfinite",
        )
    leaf = guards[0].leaf
    if isinstance(leaf, jax.core.Tracer) or jnp.shape(leaf):
        raise InputError(
            "the state of one optimizer, its values known",
            describe(leaf),
            "ask outside of jax.jit, for one run of several",
        )
    index, paths = int(leaf), leaf_paths(params)
    if index >= len(paths):
        raise InputError(
            f"parameters of {index + 1} arrays or more",
            str(len(paths)),
            "pass those that the optimizer works on",
        )
    return None if index < 0 else paths[index]


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
    say). A mean that is not below ``(1 - tolerance) best``, NaN included, is bad; after `patience`
    bad ones in a row the scale falls. Stands after the optimizer with the learning rate:
    ``chain(sgd(0.1), reduce_on_plateau(0.5, window=100))``.

    Update:    scale u_t; at `patience` bad windows in a row scale <- max(factor scale, least)

    Args:
        factor: what the scale is multiplied by, in [0, 1).
        patience: how many bad windows in a row, >= 1.
        tolerance: by what fraction of the best mean a better one has to be lower, in [0, 1); meant
            for losses above 0.
        window: how many steps are averaged, >= 1.
        cooldown: how many windows after a reduction are not counted, >= 0.
        least: the smallest scale, >= 0.
    Raises:    InputError for arguments outside of these ranges, and where it is not given the loss,
        outside of `fnn.train_step`.

    >>> import fnn
    >>> fnn.optim.chain(fnn.optim.sgd(0.1), reduce_on_plateau(0.5, patience=3))
    chain(sgd(0.1), reduce_on_plateau(0.5, patience=3))

    """
    check.number(factor, "factor", least=0, below=1)
    check.number(tolerance, "tolerance", least=0, below=1)
    check.number(least, "least", least=0)
    for name, value, smallest in (
        ("patience", patience, 1), ("window", window, 1), ("cooldown", cooldown, 0),
    ):  # fmt: skip
        check.count(value, name, smallest)

    def init(params: Params, /) -> PlateauState:
        del params
        number = jnp.result_type(float)
        zero, one, none = jnp.zeros((), number), jnp.ones((), number), jnp.int32(0)
        return PlateauState(one, jnp.full((), jnp.inf, number), none, none, zero, none)

    def step(
        gradient_at: GradientAt, params: Params, state: PlateauState, /
    ) -> tuple[tuple[Scalar, PyTree], Updates, PlateauState]:
        (value, aux), grads = gradient_at(params)
        total, gathered = state.total + value.astype(state.total.dtype), state.gathered + 1
        full = gathered == window
        mean = total / window
        share, smallest, kept = (cast_like(n, mean) for n in (factor, least, 1 - tolerance))
        better = mean < kept * state.best
        resting = state.rest > 0
        bad = jnp.where(better | resting, 0, state.bad + 1)
        reduce = bad == patience
        scale = jnp.where(reduce, jnp.maximum(state.scale * share, smallest), state.scale)
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
