"""What callbacks are told, and what they may answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe
from fnn._core.place import first_difference
from fnn._core.types import Array, Scalar, Unchecked
from fnn.train.step import TrainState

# Why a run stopped whose parameters were lost.
NONFINITE = "the parameters became infinite or NaN"
Kind: TypeAlias = Literal["start", "step", "epoch", "validation", "nonfinite", "end"]


@dataclass(frozen=True)
class Event:
    """Event of a training run, as callbacks see it.

    What is looked at is fetched from the device, and nothing else is: `train_state` is a copy of
    one's own. `losses` are those of all steps since the callback was called at an event of the same
    kind before: at the end of an epoch those of the epoch, whatever came between; at the end those
    of the run.

    Args:
        kind: ``"start"`` of the run; ``"step"``, for a callback from `every`; ``"validation"``;
            ``"epoch"``, after its validation; ``"nonfinite"``, where the parameters are infinite or
            NaN, which ends the run unless a callback gives others; ``"end"``, whatever ended it.
        step: how many steps were taken.
        epoch: which epoch it is in, or ends; from 0.
        metrics: values of the last validation, ``loss`` among them, NaN before the first; empty
            without validation data.
        stopped: at the end: why the run ended before its time, or ``""``.
        fetch_train_state: gives the train state.
        fetch_losses: gives the losses.
        fetch_data_state: says where the data stand, and what callbacks know that count.
    """

    kind: Kind
    step: int
    epoch: int
    metrics: Mapping[str, float]
    stopped: str
    fetch_train_state: Callable[[], TrainState] = field(repr=False)
    fetch_losses: Callable[[], np.ndarray] = field(repr=False)
    fetch_data_state: Callable[[], bytes | None] = field(repr=False)

    @property
    def train_state(self) -> TrainState:
        """The train state after the step."""
        return self.fetch_train_state()

    @property
    def losses(self) -> np.ndarray:
        """The losses of the steps since this callback was called at an event of this kind."""
        return self.fetch_losses()

    @property
    def data_state(self) -> bytes | None:
        """What else is to be known to go on from here, for ``fit(..., data_state=)``; or None."""
        return self.fetch_data_state()


@dataclass(frozen=True)
class Stop:
    """Answer of a callback that ends the run.

    Args:
        reason: why, for `History.stopped`.
        train_state: what the run is to end with; None for what it has become.
    """

    reason: str
    train_state: TrainState | None = None


# A train state to go on with, a `Stop`, or None for neither.
Answer: TypeAlias = TrainState | Stop | None
Callback: TypeAlias = Callable[[Event], Answer]


@dataclass(frozen=True)
class Timed:
    """A callback that is called between epochs too."""

    callback: Callback
    steps: int | None
    seconds: float | None

    def __call__(self, event: Event) -> Answer:
        return self.callback(event)


def inner(callback: Callback) -> Unchecked:
    """Return the function inside of what `fnn.train.callbacks.every` made.

    Args:
        callback: any.
    """
    return callback.callback if isinstance(callback, Timed) else callback


def remembers(callback: Callback) -> bool:
    """Say whether a callback knows something that a run is to go on with.

    Args:
        callback: any; one that does has the methods ``get_state() -> bytes`` and
            ``set_state(bytes)``, which is called before the start.
    """
    return hasattr(inner(callback), "get_state") and hasattr(inner(callback), "set_state")


def state_of(callback: Callback) -> bytes:
    """Return what a callback knows, or raise unless it tells it as bytes.

    Args:
        callback: one that `remembers`.
    """
    state: Unchecked = inner(callback).get_state()
    if not isinstance(state, bytes):
        expected = f"bytes from get_state of the callback {name_of(callback)}"
        raise InputError(expected, describe(state), "encode it, as in json.dumps(state).encode()")
    return state


def saves(callback: Callback) -> bool:
    """Say whether a callback saves what a run is to go on with.

    Args:
        callback: any; one that does has a true ``saves``.
    """
    return bool(getattr(inner(callback), "saves", False))


def check_callbacks(callbacks: Unchecked) -> tuple[Callback, ...]:
    """Return the callbacks, or raise unless they are some functions.

    Args:
        callbacks: what may be a list or tuple of them.
    """
    if not isinstance(callbacks, Sequence) or isinstance(callbacks, str):
        raise InputError("a list of callbacks", describe(callbacks), "pass callbacks=[...]")
    for callback in callbacks:
        check.function(callback, "callback", "pass functions of one event", takes="event")
    return tuple(callbacks)


def name_of(callback: Callback) -> str:
    """Return what an error calls a callback.

    Args:
        callback: the function.

    >>> name_of(Timed(print, 2, None))
    'print'
    """
    inside = inner(callback)
    return str(getattr(inside, "__name__", type(inside).__name__))


def checked_answer(answer: Unchecked, like: TrainState, name: str) -> tuple[TrainState | None, str]:
    """Return the train state that a callback answered with, and why it stops the run, or "".

    Args:
        answer: what it returned.
        like: the train state of the run.
        name: what an error calls the callback.
    Raises:    InputError for another answer, or a train state of another model or optimizer.
    """
    reason = ""
    if isinstance(answer, Stop):
        reason, answer = str(answer.reason) or name, answer.train_state
    if answer is None:
        return None, reason
    remedy = "return None, a train state or a Stop"
    if not isinstance(answer, TrainState):
        raise InputError(f"an answer of the callback {name}", describe(answer), remedy)
    given, known = answer.hyperparameters, like.hyperparameters
    if set(given) != set(known):
        raise InputError(
            f"a train state of {name} with the hyper-parameters {sorted(known)}",
            f"one with {sorted(given)}",
            remedy,
        )
    numbers = {path: _as_before(given[path], known[path], path) for path in known}
    answer = answer._replace(hyperparameters=numbers)
    differs = first_difference(like, answer)
    if differs:
        raise InputError(f"a train state of {name} like that of the run", differs, remedy)
    # The run gives its buffers away; what the callback holds must survive.
    return jax.tree.map(jnp.copy, answer), reason


def _as_before(value: Scalar, known: Array, path: str) -> Array:
    """Return a hyper-parameter in the dtype of the run's, so that nothing compiles again."""
    if isinstance(value, jax.Array) and jax.typeof(value) == jax.typeof(known):
        return value
    check.number(value, path)
    if known.weak_type:
        return jnp.asarray(float(value) if jnp.issubdtype(known.dtype, jnp.inexact) else int(value))
    return jnp.asarray(value, known.dtype)
