"""The contract of an update rule, and their composition.

An optimizer turns a gradient into an update, which is added to the parameters::

    init   :: params                    -> state
    update :: (grads, state, params)    -> (updates, state)

These are the signatures of optax's gradient transformations, and an optimizer is a tuple of the
two, so optimizers of both kinds mix in `chain`. A hyper-parameter is a number, a schedule (a
function of the step, counted from 0) or a traced array: an optimizer can be built inside a function
under `jax.vmap`.

A few optimizers want more than the gradient at the parameters: the gradient elsewhere, a second
one, the value of the objective, a product with its Hessian. They have a third function, which is
handed the gradient as a function::

    step   :: (gradient_at, params, state)     -> ((value, aux), updates, state)
    gradient_at :: params                      -> ((value, aux), grads)

`take_step` takes a step with any optimizer; `fnn.train_step` goes through it. `update` of such an
optimizer, which cannot do its work, is an error. `aux` is what else the objective gives, such as
the running state of a model.

An optimizer that keeps better parameters than those it moves, such as an average, says so by a
method of its state, ``eval_params(params) -> params``; `eval_params` finds it wherever it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from fnn._core.description import Described, constructor
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import OptState, Params, PyTree
from fnn.optim._hyperparameters import Hyperparameter, first_step, next_step, resolve


class OptimizerInit(Protocol):
    """``params -> state``."""

    def __call__(self, params: PyTree, /) -> PyTree: ...


class OptimizerUpdate(Protocol):
    """``(grads, state, params) -> (updates, state)``."""

    def __call__(
        self, grads: PyTree, state: PyTree, params: PyTree, /
    ) -> tuple[PyTree, PyTree]: ...


class GradientAt(Protocol):
    """``params -> ((value, aux), grads)``."""

    def __call__(self, params: PyTree, /) -> tuple[tuple[Any, PyTree], PyTree]: ...


class OptimizerStep(Protocol):
    """``(gradient_at, params, state) -> ((value, aux), updates, state)``."""

    def __call__(
        self, gradient_at: GradientAt, params: PyTree, state: PyTree, /
    ) -> tuple[tuple[Any, PyTree], PyTree, PyTree]: ...


@dataclass(frozen=True, eq=False, repr=False)
class Optimizer(Described):
    """Optimizer: an update rule as an immutable record of pure functions.

    Args:
        init: ``params -> state``.
        update: ``(grads, state, params) -> (updates, state)``.
        step: ``(gradient_at, params, state) -> ((value, aux), updates, state)``, of an optimizer
            that the gradient at the parameters does not satisfy; else None.
        call: the call of the `constructor` that made it.

    >>> import jax, jax.numpy as jnp
    >>> def update(grads, state, params):
    ...     return jax.tree.map(lambda g: -jnp.sign(g), grads), state
    >>> signs = Optimizer(lambda params: (), update)
    >>> signs.update(jnp.array([3.0]), (), jnp.array([0.0]))[0]
    Array([-1.], dtype=float32)

    """

    functions: ClassVar[tuple[str, ...]] = ("init", "update", "step")
    init: OptimizerInit
    update: OptimizerUpdate
    step: OptimizerStep | None = None


@entry
def take_step(
    optimizer: Optimizer, gradient_at: GradientAt, params: PyTree, state: PyTree
) -> tuple[tuple[Any, PyTree], PyTree, PyTree]:
    """Take one step with any optimizer, or with a transformation of optax.

    Returns the value and the rest that the objective gave at `params` (or where the optimizer
    looked first), the updates to be added, and the new state.

    >>> import fnn, jax, jax.numpy as jnp
    >>> optimizer = fnn.optim.chain(fnn.optim.sam(0.5), fnn.optim.sgd(0.1))
    >>> params = jnp.array([1.0])
    >>> def gradient_at(params):
    ...     value, grads = jax.value_and_grad(lambda p: (p**2).sum())(params)
    ...     return (value, ()), grads
    >>> state = optimizer.init(params)
    >>> (value, _), updates, state = take_step(optimizer, gradient_at, params, state)
    >>> value, updates
    (Array(1., dtype=float32), Array([-0.3], dtype=float32))
    """
    step = getattr(optimizer, "step", None)
    if step is not None:
        return step(gradient_at, params, state)
    value_and_aux, grads = gradient_at(params)
    updates, state = optimizer.update(grads, state, params)
    return value_and_aux, updates, state


def from_step(init: OptimizerInit, step: OptimizerStep) -> Optimizer:
    """Make an optimizer of a `step` function: its `update`, which cannot do that, is an error."""

    def update(*_: PyTree) -> tuple[PyTree, PyTree]:
        raise InputError(
            "to be handed the gradient as a function",
            "the gradient at the parameters",
            "train with fnn.fit or fnn.train_step, or take the step with fnn.optim.take_step",
        )

    return Optimizer(init, update, step)


@entry
def eval_params(opt_state: OptState, params: Params) -> Params:
    """Return the parameters to evaluate: those that an optimizer averages, or else `params`.

    `fnn.fit` and `fnn.evaluate` score these, and training goes on with `params`.

    Args:
        opt_state: the optimizer's state, in which `ema`, `lookahead` or a schedule-free optimizer
            may stand anywhere; of two averages the later one counts.
        params: the parameters that training moves.

    >>> import fnn, jax.numpy as jnp
    >>> optimizer = fnn.optim.chain(fnn.optim.sgd(0.1), fnn.optim.ema(0.5))
    >>> params = jnp.array([1.0])
    >>> state = optimizer.init(params)
    >>> for _ in range(2):
    ...     updates, state = optimizer.update(jnp.array([15.0]), state, params)
    ...     params = params + updates
    >>> params, eval_params(state, params)
    (Array([-2.], dtype=float32), Array([-1.5], dtype=float32))

    """

    def keeps(node: Any) -> bool:
        return hasattr(node, "eval_params")

    for node in jax.tree.leaves(opt_state, is_leaf=keeps):
        if keeps(node):
            params = node.eval_params(params)
    return params


@constructor
def chain(*optimizers: Optimizer) -> Optimizer:
    """Chain of optimizers: the updates of one are the gradients of the next.

    ``u_0 = g``, ``u_i = update_i(u_{i-1})``; the last one scales by the learning rate. The state is
    the tuple of theirs. Optax's transformations may stand among them.

    Raises `fnn.InputError` for what is no optimizer.

    >>> import fnn, jax.numpy as jnp
    >>> optimizer = chain(fnn.optim.clip_by_global_norm(1.0), fnn.optim.sgd(0.5))
    >>> optimizer
    chain(clip_by_global_norm(1.0), sgd(0.5))
    >>> params = jnp.array([0.0, 0.0])
    >>> optimizer.update(jnp.array([3.0, 4.0]), optimizer.init(params), params)[0]
    Array([-0.3, -0.4], dtype=float32)
    """
    for optimizer in optimizers:
        check_optimizer("update rules", optimizer)

    def init(params: PyTree, /) -> PyTree:
        return tuple(optimizer.init(params) for optimizer in optimizers)

    def update(grads: PyTree, state: PyTree, params: PyTree, /) -> tuple[PyTree, PyTree]:
        states = []
        for optimizer, opt_state in zip(optimizers, state, strict=True):
            grads, opt_state = optimizer.update(grads, opt_state, params)
            states.append(opt_state)
        return grads, tuple(states)

    def step(
        gradient_at: GradientAt, params: PyTree, state: PyTree, /
    ) -> tuple[tuple[Any, PyTree], PyTree, PyTree]:
        # What one optimizer gives at some parameters is the gradient there for the next.
        for optimizer, opt_state in zip(optimizers, state, strict=True):
            gradient_at = _given(optimizer, opt_state, gradient_at)
        (value, aux), updates = gradient_at(params)
        states = []
        for _ in optimizers:
            aux, opt_state = aux
            states.append(opt_state)
        return (value, aux), updates, tuple(reversed(states))

    needed = any(getattr(optimizer, "step", None) is not None for optimizer in optimizers)
    return Optimizer(init, update, step if needed else None)


def _given(optimizer: Optimizer, state: PyTree, gradient_at: GradientAt) -> GradientAt:
    """Return the updates of an optimizer as a function of parameters, its new state beside aux."""

    def updates_at(params: PyTree, /) -> tuple[tuple[Any, PyTree], PyTree]:
        (value, aux), updates, new_state = take_step(optimizer, gradient_at, params, state)
        return (value, (aux, new_state)), updates

    return updates_at


def check_optimizer(expected: str, optimizer: Any, plain: bool = False) -> None:
    """Raise `InputError` for what is no optimizer; if `plain`, for one that has a `step` too."""
    if not hasattr(optimizer, "init") or not hasattr(optimizer, "update"):
        raise InputError(expected, describe(optimizer), "pass some, as in fnn.optim.sgd(0.1)")
    if plain and getattr(optimizer, "step", None) is not None:
        raise InputError(
            f"{expected} that the gradient suffices",
            describe(optimizer),
            "take out the part that needs more, and chain it before or after this one",
        )


def tree_map_like(function: Callable[..., Any], *trees: PyTree) -> PyTree:
    """Apply a function of one array to every leaf, in the dtype of the leaves of the first tree.

    >>> import jax.numpy as jnp
    >>> tree_map_like(lambda g: g.astype("float32"), {"a": jnp.ones(1, "bfloat16")})["a"].dtype.name
    'bfloat16'
    """
    return jax.tree.map(
        lambda leaf, *others: jnp.asarray(function(leaf, *others)).astype(leaf.dtype), *trees
    )


class StepState(NamedTuple):
    """The step count, ``()`` without a schedule."""

    step: PyTree


def stateless_transform(change: Callable[..., PyTree], *hypers: Hyperparameter) -> Optimizer:
    """Make an optimizer of ``(grads, params, *values) -> updates``, which remembers no gradient.

    `values` are those of the hyper-parameters at the step.

    >>> import jax.numpy as jnp
    >>> optimizer = stateless_transform(
    ...     lambda grads, params, share: share * grads, lambda step: 0.5**step
    ... )
    >>> state = optimizer.init(())
    >>> for _ in range(2):
    ...     updates, state = optimizer.update(jnp.array([6.0]), state, ())
    ...     print(updates)
    [6.]
    [3.]
    """

    def init(params: PyTree, /) -> StepState:
        del params
        return StepState(first_step(*hypers))

    def update(grads: PyTree, state: StepState, params: PyTree, /) -> tuple[PyTree, StepState]:
        values = (resolve(hyper, state.step) for hyper in hypers)
        return change(grads, params, *values), StepState(next_step(state.step))

    return Optimizer(init, update)
