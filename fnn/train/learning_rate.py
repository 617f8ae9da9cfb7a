"""The range of learning rates that suit a training, found in one short run."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, entry
from fnn._core.types import Array, Data
from fnn.gradient.objective import Gradient
from fnn.layer import Layer
from fnn.losses import Loss
from fnn.optim.optimizer import Optimizer
from fnn.train.callbacks import every, learning_rates
from fnn.train.fit import fit
from fnn.train.loop._events import Answer, Event, Stop

# The loss of a step is that of its batch alone: a moving average over some steps tells the trend.
_AVERAGE = 0.8
_TOO_HIGH = 4.0


class LearningRates(NamedTuple):
    """What `find_learning_rate` saw.

    Args:
        learning_rate: (steps,), that of every step.
        loss: (steps,), before its update.
        average: (steps,), the moving average of the loss, free of its start.
        best: the learning rate at which the average fell fastest, per factor of learning rate.
    """

    learning_rate: np.ndarray
    loss: np.ndarray
    average: np.ndarray
    best: float


@entry
def find_learning_rate(
    model: Layer,
    loss: Loss,
    optimizer: Optimizer,
    data: Data,
    *,
    key: Array,
    batch_size: int | None = None,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 100,
    gradient: Gradient = "manual",
    path: str | None = None,
) -> LearningRates:
    """Learning-rate range test: a run whose learning rate grows from step to step.

    It ends early where the loss has become four times its lowest. Nothing of the run is kept.

    Update:    learning_rate_t = lowest (highest / lowest)^(t / (steps - 1))

    Args:
        model: the layer to train.
        loss: compares its outputs with the targets.
        optimizer: whose learning rate is varied.
        data: as in `fnn.fit`.
        key: as in `fnn.fit`.
        batch_size: as in `fnn.fit`.
        lowest: the first learning rate, above 0.
        highest: the last one.
        steps: how many are tried, 10 or more.
        gradient: as in `fnn.fit`.
        path: of the hyper-parameter; None for all of the name ``learning_rate``.
    Raises:    InputError as `fnn.fit`, and for an optimizer without such a learning rate.
    Source:    Smith 2017, section 3.3.

    >>> import fnn, jax, jax.numpy as jnp
    >>> x = jax.random.normal(jax.random.key(1), (64, 1))
    >>> found = find_learning_rate(
    ...     fnn.dense(1), fnn.losses.squared_error(), fnn.optim.sgd(0.1), (x, 2 * x),
    ...     batch_size=16, key=jax.random.key(0),
    ... )
    >>> 0.005 < found.best < 0.5
    True
    """
    check.number(lowest, "lowest", above=0)
    check.number(highest, "highest", above=float(lowest))
    check.count(steps, "steps", least=10)
    if path is not None:
        check.text(path, "path")
    rates = np.geomspace(lowest, highest, steps)
    losses: list[float] = []
    averages: list[float] = []

    def raise_rate(event: Event) -> Answer:
        if event.kind == "step":
            losses.append(float(event.losses[-1]))
            averages.append(_average(averages, losses))
            if not averages[-1] <= _TOO_HIGH * min(averages):
                return Stop("the loss has become too high")
        if event.kind not in ("start", "step") or event.step == steps:
            return None
        train_state = event.train_state
        numbers = dict(train_state.hyperparameters)
        numbers |= dict.fromkeys(learning_rates(train_state, path), rates[event.step])
        return train_state._replace(hyperparameters=numbers)

    with warnings.catch_warnings():
        # That it loses its numbers is what it is looking for.
        warnings.filterwarnings("ignore", r"fnn\.fit: the (loss|parameters) became")
        _, history = fit(
            model, loss, optimizer, data, steps=steps, batch_size=batch_size, key=key,
            gradient=gradient, callbacks=[every(raise_rate, steps=1)],
        )  # fmt: skip
    count = len(averages)
    if count < 3:
        expected = f"a loss that stands the learning rate {lowest:g}"
        raise InputError(expected, f"{history.loss[-1]} at step {count}", "pass a smaller lowest=")
    slope = np.gradient(np.array(averages), np.log(rates[:count]))
    # The first steps are an average of few.
    best = float(rates[min(3, count - 1) + int(np.argmin(slope[min(3, count - 1) :]))])
    return LearningRates(rates[:count], np.array(losses), np.array(averages), best)


def _average(averages: list[float], losses: list[float]) -> float:
    """Return the next value of the moving average, free of its start."""
    share = (1 - _AVERAGE) / (1 - _AVERAGE ** len(losses))
    before = averages[-1] if averages else losses[-1]
    return (1 - share) * before + share * losses[-1]
