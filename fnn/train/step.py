"""One step of training, as a pure function."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn._core.description import Structure, split
from fnn._core.errors import InputError, entry
from fnn._core.types import Array, Data, Input, OptState, Params, State
from fnn.gradient.objective import Gradient, value_and_grad
from fnn.layer import Layer
from fnn.losses import Loss
from fnn.optim.optimizer import Optimizer, take_step


class TrainState(NamedTuple):
    """Everything training remembers, a pytree: save it, and go on from it bit for bit.

    Args:
        params: the parameters of the model.
        state: what its layers remember, such as running statistics.
        opt_state: what the optimizer remembers.
        key: the key that the randomness of every step is folded from.
        step: how many steps were taken.
        hyperparameters: the numbers of model, optimizer and estimator by their paths, such as
            ``"optimizer/learning_rate"``: inputs of the compiled step, which may change between
            steps, and be stacked and mapped over.

    """

    params: Params
    state: State
    opt_state: OptState
    key: Array
    step: Array
    hyperparameters: dict[str, Any]


@dataclass(frozen=True)
class TrainStep:
    """Training step, ``(train_state, batch) -> (train_state, {"loss": value})``.

    Steps that differ in run-time hyper-parameters alone are equal, so that `jax.jit` compiles one
    program for all of them.

    Args:
        structure: model, loss, optimizer and estimator without their numbers.

    >>> import fnn
    >>> steps = [
    ...     fnn.train_step(fnn.dense(1), fnn.losses.squared_error(), fnn.optim.sgd(rate))
    ...     for rate in (0.1, 0.2)
    ... ]
    >>> steps[0] == steps[1]
    True

    """

    structure: Structure

    @entry
    def __call__(self, train_state: TrainState, batch: Data) -> tuple[TrainState, dict[str, Array]]:
        """Take one step."""
        params, state, opt_state, key, count, numbers = train_state
        try:
            made = self.structure.build(numbers)
        except KeyError as error:
            raise InputError(
                f"a train state with the hyper-parameter {error}",
                f"one with {sorted(numbers)}",
                "make it with fnn.init_train_state for the same model, optimizer and gradient",
            ) from error
        gradient_of = value_and_grad(made["model"], made["loss"], made["gradient"])
        step_key = jax.random.fold_in(key, count)
        (value, state), updates, opt_state = take_step(
            made["optimizer"],
            lambda p: gradient_of(p, state, batch, key=step_key),
            params,
            opt_state,
        )
        params = jax.tree.map(lambda p, u: p + u, params, updates)
        after = TrainState(params, state, opt_state, key, count + 1, numbers)
        return after, {"loss": value}


@entry
def train_step(
    model: Layer, loss: Loss, optimizer: Optimizer, gradient: Gradient = "manual"
) -> TrainStep:
    """Training step: gradient, update, ``params + updates``, as a pure function.

    It maps ``(train_state, batch)`` to ``(train_state, {"loss": value})``. The randomness of step t
    comes from ``jax.random.fold_in(train_state.key, t)``, however many gradients the optimizer asks
    for in it. Its hyper-parameters are those of the train state; what shapes the program (a number
    of units, an absent momentum, a flag) is that of the arguments here. Compile, scan and map it at
    will.

    Args:
        model: the layer to train.
        loss: compares its outputs with the targets.
        optimizer: the update rule, of `fnn.optim` or of optax.
        gradient: where gradients come from, as in `fnn.value_and_grad`.

    Raises:
        InputError: as `fnn.value_and_grad` does.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model, loss, optimizer = fnn.dense(1), fnn.losses.squared_error(), fnn.optim.sgd(0.1)
    >>> x = jnp.array([[1.0], [2.0]])
    >>> train_state = fnn.init_train_state(model, optimizer, x, key=jax.random.key(0))
    >>> step = jax.jit(fnn.train_step(model, loss, optimizer))
    >>> for _ in range(100):
    ...     train_state, metrics = step(train_state, (x, 3 * x))
    >>> bool(metrics["loss"] < 1e-2), int(train_state.step)
    (True, 100)

    """
    value_and_grad(model, loss, gradient)  # for its checks
    return _step_of(split(model=model, loss=loss, optimizer=optimizer, gradient=gradient)[0])


@functools.lru_cache(maxsize=256)
def _step_of(structure: Structure) -> TrainStep:
    """Return the step of a structure, the same object for equal ones: `jax.jit` goes by that."""
    return TrainStep(structure)


@entry
def init_train_state(
    model: Layer,
    optimizer: Optimizer,
    x: Input,
    *,
    key: Array,
    gradient: Gradient = "manual",
) -> TrainState:
    """Train state at the start: parameters drawn, running state, hyper-parameters, step 0.

    Args:
        model: the layer to train.
        optimizer: the update rule.
        x: a batch or its `jax.ShapeDtypeStruct`; its values are not looked at.
        key: for the parameters, and for the randomness of all steps.
        gradient: where gradients come from, as in `train_step`; an estimator has numbers too.

    >>> import fnn, jax, jax.numpy as jnp
    >>> start = init_train_state(
    ...     fnn.dense(2), fnn.optim.sgd(0.1), jnp.ones((1, 3)), key=jax.random.key(0)
    ... )
    >>> start.params["weight"].shape, start.hyperparameters
    ((3, 2), {'optimizer/learning_rate': Array(0.1, dtype=float32, weak_type=True)})

    """
    init_key, train_key = jax.random.split(key)
    params, state = model.init(init_key, x)
    numbers = hyperparameters(model, optimizer, gradient)
    return TrainState(params, state, optimizer.init(params), train_key, jnp.int32(0), numbers)


def hyperparameters(model: Layer, optimizer: Optimizer, gradient: Gradient) -> dict[str, Any]:
    """Return the run-time hyper-parameters of a training by their paths."""
    _, numbers = split(model=model, optimizer=optimizer, gradient=gradient)
    return {path: jnp.asarray(value) for path, value in numbers.items()}
