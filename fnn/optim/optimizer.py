"""The contract of an optimizer, and how optimizers are chained.

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
the running state of a model. Transformations of optax ask for the same by keywords of their
`update`: `take_step` hands on ``value``, ``grad``, ``value_fn`` and ``grad_fn``.

An optimizer that keeps better parameters than those it moves, such as an average, says so by a
method of its state, ``eval_params(params) -> params``; `eval_params` finds it wherever it stands.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.arrays import require_arrays
from fnn._core.description import Described, constructor
from fnn._core.errors import InputError, describe, entry
from fnn._core.place import first_difference
from fnn._core.types import (
    Array,
    Grads,
    OptState,
    Params,
    PyTree,
    Scalar,
    State,
    Unchecked,
    Updates,
)
from fnn.optim._hyperparameters import Hyperparameter, first_step, next_step, resolve
from fnn.optim.noise._base import separate

# What a step returns: value and aux of the objective, updates, state.
Taken: TypeAlias = tuple[tuple[Scalar, State], Updates, OptState]


class OptimizerInit(Protocol):
    """``params -> state``."""

    def __call__(self, params: Params, /) -> OptState: ...


class OptimizerUpdate(Protocol):
    """``(grads, state, params) -> (updates, state)``."""

    def __call__(
        self, grads: Grads, state: OptState, params: Params, /
    ) -> tuple[Updates, OptState]: ...


class GradientAt(Protocol):
    """``params -> ((value, aux), grads)``."""

    def __call__(self, params: Params, /) -> tuple[tuple[Scalar, State], Grads]: ...


class OptimizerStep(Protocol):
    """``(gradient_at, params, state) -> ((value, aux), updates, state)``."""

    def __call__(self, gradient_at: GradientAt, params: Params, state: OptState, /) -> Taken: ...


# The arguments of the functions of an optimizer.
_TAKES = {
    "init": "params",
    "update": "grads, state, params",
    "step": "gradient_at, params, state",
}


@dataclass(frozen=True, eq=False, repr=False)
class Optimizer(Described):
    """Optimizer: an immutable record of pure functions; see the module's docstring.

    Args:
        init: ``params -> state``.
        update: ``(grads, state, params) -> (updates, state)``.
        step: ``(gradient_at, params, state) -> ((value, aux), updates, state)``, of an optimizer
            that the gradient at the parameters does not satisfy; else None.
        call: the call of the `constructor` that made it.
    Raises:    InputError for what is no function, and one of other arguments.

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

    def __post_init__(self) -> None:
        for name, takes in _TAKES.items() if self.call is None else ():
            if name != "step" or self.step is not None:
                function, remedy = getattr(self, name), "pass a function, see fnn.optim.Optimizer"
                check.function(function, name, remedy)
                takes = ", *, ".join(filter(None, (takes, ", ".join(_by_name(function)))))
                check.function(function, name, remedy, takes=takes)


@entry
def take_step(
    optimizer: Optimizer, gradient_at: GradientAt, params: Params, state: OptState
) -> Taken:
    """Take one step with any optimizer, or with a transformation of optax.

    Returns the value and the rest that the objective gave at `params` (or where the optimizer
    looked first), the updates to be added, and the new state.

    Args:
        optimizer: the optimizer, or a transformation of optax, which gets the extra arguments that
            its `update` asks for.
        gradient_at: ``params -> ((value, aux), grads)``.
        params: the parameters.
        state: the optimizer's state, from `init` or the step before.
    Raises:    InputError for what is no optimizer, no function or no array, and for a state of
        other parameters or of another optimizer.

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
    check_optimizer("an optimizer", optimizer)
    remedy = "pass a function of the parameters, as fnn.value_and_grad makes one of a model"
    check.function(gradient_at, "gradient_at", remedy, takes="params")
    _check_state(optimizer, params, state)
    return _take(optimizer, gradient_at, params, state, gradient_at)


def _check_state(optimizer: Unchecked, params: Params, state: OptState) -> None:
    """Raise unless a state is one that an optimizer makes for parameters."""
    if jax.tree.leaves(params):
        params = require_arrays(params, "params")
    for leaf in jax.tree.leaves(params):
        check.floating(leaf, "params")
    like = jax.eval_shape(optimizer.init, params)
    differs = first_difference(like, state, dtypes=False)
    if differs:
        expected = "a state as optimizer.init makes it for these parameters"
        raise InputError(expected, differs, "pass that of init, or of the step before")


def _take(
    optimizer: Optimizer,
    gradient_at: GradientAt,
    params: Params,
    state: OptState,
    objective: GradientAt,
) -> Taken:
    """Take a step; `objective` is the gradient as it was before any optimizer changed it."""
    step = getattr(optimizer, "step", None)
    if step is not None:
        taken: Taken = step(gradient_at, params, state)
        return check.returned(taken, "value_and_aux, updates, state", "the optimizer's step")
    value_and_aux, grads = gradient_at(params)
    extra: dict[str, PyTree] = {}
    if _asked_for(optimizer):
        (value, _), raw = (value_and_aux, grads) if objective is gradient_at else objective(params)
        extra = {
            "value": value,
            "grad": raw,
            "value_fn": _differentiable(objective),
            "grad_fn": lambda params, *_: objective(params)[1],
        }
    updates, state = update_with(optimizer, grads, state, params, extra)
    return value_and_aux, updates, state


def _differentiable(gradient_at: GradientAt) -> Callable[[Params], Scalar]:
    """Return the value as a function whose derivative in JAX is the gradient that goes with it."""

    @jax.custom_vjp
    def value(params: Params) -> Scalar:
        return gradient_at(params)[0][0]

    def forward(params: Params) -> tuple[Scalar, Grads]:
        (value, _), grads = gradient_at(params)
        return value, grads

    def backward(grads: Grads, dy: Scalar) -> tuple[Grads]:
        return (jax.tree.map(lambda g: dy.astype(g.dtype) * g, grads),)

    value.defvjp(forward, backward)
    # Optax reads what else a function takes off its signature.
    return lambda params: value(params)


def _asked_for(optimizer: Unchecked) -> tuple[str, ...]:
    """Return the names of the extra arguments that `update` takes; ``*`` for any.

    >>> _asked_for(Optimizer(lambda params: (), lambda grads, state, params, *, value: (grads, ())))
    ('value',)
    """
    if getattr(optimizer, "step", None) is not None:
        return ()
    found = inspect.signature(optimizer.update).parameters.values()
    return (*_by_name(optimizer.update), *("*" for one in found if one.kind is one.VAR_KEYWORD))


def _by_name(function: Callable[..., Unchecked]) -> tuple[str, ...]:
    """Return the names of the arguments that a function takes by name alone, as far as it tells."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(one.name for one in found if one.kind is one.KEYWORD_ONLY)


def update_with(
    optimizer: Unchecked,
    grads: Grads,
    state: OptState,
    params: Params,
    extra: Mapping[str, PyTree],
) -> tuple[Updates, OptState]:
    """Return what an optimizer's `update` does, handed those extra arguments that it takes.

    Args:
        optimizer: the optimizer, or a transformation of optax.
        grads: the gradient.
        state: the optimizer's state.
        params: the parameters.
        extra: the extra arguments there are, by name.
    """
    names = _asked_for(optimizer) if extra else ()
    # What takes any is given any by fnn; a line search of optax's is an error with one too many.
    anything = ("value", "grad", "value_fn", *(extra if isinstance(optimizer, Optimizer) else ()))
    wanted = {
        name: extra[name] for name in extra if name in names or ("*" in names and name in anything)
    }
    made: Unchecked = optimizer.update(grads, state, params, **wanted)
    updates, state = check.returned(made, "updates, state", "the optimizer's update")
    return updates, state


def from_step(init: OptimizerInit, step: OptimizerStep) -> Optimizer:
    """Make an optimizer of a `step` function: its `update`, which cannot do that, is an error.

    Args:
        init: ``params -> state``.
        step: ``(gradient_at, params, state) -> ((value, aux), updates, state)``.
    """

    def update(*_: PyTree) -> tuple[Updates, OptState]:
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
    averages = [
        node for node in jax.tree.leaves(opt_state, is_leaf=_is_average) if _is_average(node)
    ]
    for node in averages:
        params = node.eval_params(params)
    return params


def _is_average(node: PyTree) -> bool:
    """Say whether a part of a state holds better parameters than those in training."""
    return hasattr(node, "eval_params")


@constructor
def chain(*optimizers: Optimizer) -> Optimizer:
    """Chain of optimizers: the updates of one are the gradients of the next.

    The state is the tuple of theirs. Optax's transformations may stand among them; the extra
    arguments that they ask for are those of the objective, whatever stands before.

    Update:    u_0 = g, u_i = update_i(u_{i-1}); the last one scales by the learning rate

    Args:
        optimizers: the optimizers in their order, none for the gradient as it is.
    Raises:    InputError for what is no optimizer.

    >>> import fnn, jax.numpy as jnp
    >>> optimizer = chain(fnn.optim.clip_by_global_norm(1.0), fnn.optim.sgd(0.5))
    >>> optimizer
    chain(clip_by_global_norm(1.0), sgd(0.5))
    >>> params = jnp.array([0.0, 0.0])
    >>> optimizer.update(jnp.array([3.0, 4.0]), optimizer.init(params), params)[0]
    Array([-0.3, -0.4], dtype=float32)

    """
    for optimizer in optimizers:
        check_optimizer("optimizers", optimizer)

    def init(params: Params, /) -> OptState:
        return separate(tuple(optimizer.init(params) for optimizer in optimizers))

    def update(
        grads: Grads, state: OptState, params: Params, /, **extra: PyTree
    ) -> tuple[Updates, OptState]:
        states = []
        for optimizer, opt_state in zip(optimizers, state, strict=True):
            grads, opt_state = update_with(optimizer, grads, opt_state, params, extra)
            states.append(opt_state)
        return grads, tuple(states)

    def step(gradient_at: GradientAt, params: Params, state: OptState, /) -> Taken:
        # What one optimizer gives at some parameters is the gradient there for the next.
        objective = gradient_at
        for optimizer, opt_state in zip(optimizers, state, strict=True):
            gradient_at = _given(optimizer, opt_state, gradient_at, objective)
        (value, aux), updates = gradient_at(params)
        states = []
        for _ in optimizers:
            aux, opt_state = aux
            states.append(opt_state)
        return (value, aux), updates, tuple(reversed(states))

    needed = any(getattr(optimizer, "step", None) is not None for optimizer in optimizers)
    return Optimizer(init, update, step if needed else None)


def _given(
    optimizer: Optimizer, state: OptState, gradient_at: GradientAt, objective: GradientAt
) -> GradientAt:
    """Return the updates of an optimizer as a function of parameters, its new state beside aux."""

    def updates_at(params: Params, /) -> tuple[tuple[Scalar, State], Updates]:
        taken = _take(optimizer, gradient_at, params, state, objective)
        (value, aux), updates, new_state = taken
        return (value, (aux, new_state)), updates

    return updates_at


def check_optimizer(expected: str, optimizer: Unchecked, plain: bool = False) -> None:
    """Raise `InputError` for what is no optimizer; if `plain`, for one that has a `step` too.

    Args:
        expected: what an error says was expected.
        optimizer: what is checked.
        plain: whether one that has a `step` is refused too.
    """
    if not hasattr(optimizer, "init") or not hasattr(optimizer, "update"):
        raise InputError(expected, describe(optimizer), "pass some, as in fnn.optim.sgd(0.1)")
    if plain and getattr(optimizer, "step", None) is not None:
        raise InputError(
            f"{expected} that the gradient suffices",
            describe(optimizer),
            "take out the part that needs more, and chain it before or after this one",
        )


def tree_map_like(function: Callable[..., Array], *trees: PyTree) -> PyTree:
    """Apply a function of one array to every leaf, in the dtype of the leaves of the first tree.

    Args:
        function: of a leaf of each tree, to an array.
        trees: trees of arrays of one structure, at least one; the first gives the dtypes.

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


def stateless_transform(change: Callable[..., Updates], *hypers: Hyperparameter) -> Optimizer:
    """Make an optimizer of ``(grads, params, *values) -> updates``, which remembers no gradient.

    `values` are those of the hyper-parameters at the step.

    Args:
        change: ``(grads, params, *values) -> updates``.
        hypers: the hyper-parameters, numbers or schedules, in the order of `values`.

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

    def init(params: Params, /) -> StepState:
        del params
        return StepState(first_step(*hypers))

    def update(grads: Grads, state: StepState, params: Params, /) -> tuple[Updates, StepState]:
        values = (resolve(hyper, state.step) for hyper in hypers)
        return change(grads, params, *values), StepState(next_step(state.step))

    return Optimizer(init, update)
