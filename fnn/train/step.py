"""One step of training, as a pure function."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax

from fnn.gradient.objective import Gradient, value_and_grad
from fnn.layer import Array, Layer, PyTree
from fnn.losses import Loss
from fnn.optim.rule import UpdateRule, take_step


class TrainState(NamedTuple):
    """Everything training remembers, a pytree: save it, and go on from it bit for bit."""

    params: PyTree
    state: PyTree
    rule_state: PyTree
    key: Array
    step: Array


class TrainStep(Protocol):
    """``(train_state, batch) -> (train_state, metrics)``."""

    def __call__(
        self, train_state: TrainState, batch: Any, /
    ) -> tuple[TrainState, dict[str, Array]]: ...


def train_step(
    model: Layer, loss: Loss, rule: UpdateRule, gradient: Gradient = "manual"
) -> TrainStep:
    """Return the pure function that takes one step: gradient, update, ``params + updates``.

    It maps ``(train_state, batch)`` to ``(train_state, {"loss": value})``, the batch being ``(x,
    target)`` or ``(x, target, weights)`` and the loss the one before the step. The randomness of
    step t comes from ``jax.random.fold_in(train_state.key, t)``, however many gradients the rule
    asks for in it. Compile, scan and map it at will.

    Raises `fnn.InputError` as `fnn.value_and_grad` does.

    >>> import fnn, jax, jax.numpy as jnp
    >>> model, loss, rule = fnn.dense(1), fnn.losses.squared_error(), fnn.optim.sgd(0.1)
    >>> x = jnp.array([[1.0], [2.0]])
    >>> train_state = fnn.init_train_state(model, rule, x, key=jax.random.key(0))
    >>> step = jax.jit(fnn.train_step(model, loss, rule))
    >>> for _ in range(100):
    ...     train_state, metrics = step(train_state, (x, 3 * x))
    >>> bool(metrics["loss"] < 1e-2), int(train_state.step)
    (True, 100)
    """
    gradient_of = value_and_grad(model, loss, gradient)

    def step(train_state: TrainState, batch: Any, /) -> tuple[TrainState, dict[str, Array]]:
        params, state, rule_state, key, count = train_state
        step_key = jax.random.fold_in(key, count)
        (value, state), updates, rule_state = take_step(
            rule, lambda p: gradient_of(p, state, batch, key=step_key), params, rule_state
        )
        params = jax.tree.map(lambda p, u: p + u, params, updates)
        return TrainState(params, state, rule_state, key, count + 1), {"loss": value}

    return step


def init_train_state(model: Layer, rule: UpdateRule, x: Any, *, key: Array) -> TrainState:
    """Return the state that training starts from: parameters drawn, running state, step 0.

    `x` is a batch or its `jax.ShapeDtypeStruct`; its values are not looked at.

    >>> import fnn, jax, jax.numpy as jnp
    >>> start = init_train_state(
    ...     fnn.dense(2), fnn.optim.sgd(0.1), jnp.ones((1, 3)), key=jax.random.key(0)
    ... )
    >>> start.params["weight"].shape
    (3, 2)
    """
    init_key, train_key = jax.random.split(key)
    params, state = model.init(init_key, x)
    return TrainState(params, state, rule.init(params), train_key, jax.numpy.int32(0))
