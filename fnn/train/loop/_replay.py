"""A run that lost its numbers, run once more up to there, to say where it began."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fnn.gradient.objective import Batch
from fnn.train.loop._loop import Kept, Loop, Plan
from fnn.train.loop._nonfinite import all_sound, origin
from fnn.train.loop._program import batch_of, no_losses, run
from fnn.train.step import TrainState


def complaint(loop: Loop, loss: np.ndarray, begin: Callable[[], Kept] | None) -> str:
    """Say what is not finite in a run, since when, where it began, and what to do.

    Args:
        loop: the run.
        loss: its losses.
        begin: gives a train state to run again from; None where that would take too long.
    """
    # Counted from where this run began, as its history is.
    bad = np.flatnonzero(~np.isfinite(loss))
    found = _find_origin(loop, loss, begin) if begin is not None else ""
    words = f"the parameters became infinite or NaN at step {len(loss) - 1}"
    if len(bad):
        words = f"the loss became {loss[bad[0]]} at step {bad[0]}"
    if found:
        words += f"; it began in {found}"
    if loop.dead:
        words += f"; stopped after step {len(loss) - 1}, where the parameters are not finite"
    return f"{words}; lower the learning rate or clip the gradient"


def _find_origin(loop: Loop, loss: np.ndarray, begin: Callable[[], Kept]) -> str:
    """Run once more up to the step that spoiled the parameters, and say what did it."""
    plan, first = loop.plan, int(begin().train_state.step)
    # The first bad loss since then: one before went by without harm.
    since = first - loop.first
    bad = np.flatnonzero(~np.isfinite(loss[since:]))
    ahead = int(bad[0]) if len(bad) else len(loss) - since - 1
    try:
        train_state, batch = _replay(plan, begin(), ahead)
        if ahead and not bool(all_sound(train_state.params, plan.watched)):
            # The step before did it, whose loss was finite still.
            train_state, batch = _replay(plan, begin(), ahead - 1)
        made = plan.step.structure.build(train_state.hyperparameters)
        key = jax.random.fold_in(train_state.key, train_state.step)
        params, state = train_state.params, train_state.state
        return origin(made["model"], made["loss"], made["gradient"], params, state, batch, key)
    except Exception:
        # Whatever a model or data of the user's does here: the run's results are not lost by it.
        return ""


def _replay(plan: Plan, kept: Kept, ahead: int) -> tuple[TrainState, Batch]:
    """Take so many steps; return the train state there, and the batch of the next step."""
    train_state = kept.train_state
    step = int(train_state.step)
    goal, alive = step + ahead, jnp.ones((), bool)
    for stretch in plan.source.stretches(step, goal + 1, kept.place):
        count = min(stretch.end - stretch.begin, goal - step)
        stop = stretch.begin + count
        if count:
            train_state, _, alive = run(
                plan.step, plan.transform, train_state, stretch.data, stretch.order,
                no_losses(len(stretch.order)), plan.watched, alive, stretch.begin, stop,
                False, plan.layout,
            )  # fmt: skip
        step += count
        if step == goal and stop < stretch.end:
            given = stretch.data, stretch.order, stop
            return train_state, batch_of(plan.transform, train_state, *given)
    raise LookupError("the data ended")
