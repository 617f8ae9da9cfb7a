"""The contract of an update rule, and their composition.

A rule turns a gradient into an update, which is added to the parameters::

    init   :: params                    -> state
    update :: (grads, state, params)    -> (updates, state)

These are the signatures of optax's gradient transformations, and a rule is a tuple of the two, so
rules of both kinds mix in `chain`. A hyper-parameter is a number, a schedule (a function of the
step, counted from 0) or a traced array: a rule can be built inside a function under `jax.vmap`.

A few rules want more than the gradient at the parameters: the gradient elsewhere, a second one,
the value of the objective, a product with its Hessian. They have a third function, which is handed
the gradient as a function::

    step   :: (gradient_at, params, state)     -> ((value, aux), updates, state)
    gradient_at :: params                      -> ((value, aux), grads)

`take_step` takes a step with any rule; `fnn.train_step` goes through it. `update` of such a rule,
which cannot do its work, is an error. `aux` is what else the objective gives, such as the running
state of a model.

A rule that keeps better parameters than those it moves, such as an average, says so by a method of
its state, ``averaged(params) -> params``; `averaged` finds it wherever it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from fnn.errors import InputError, describe
from fnn.layer import PyTree
from fnn.optim.hyper import Hyper, at_step, first_step, next_step
from fnn.origin import Made, constructor


class RuleInit(Protocol):
    """``params -> state``."""

    def __call__(self, params: PyTree, /) -> PyTree: ...


class RuleUpdate(Protocol):
    """``(grads, state, params) -> (updates, state)``."""

    def __call__(
        self, grads: PyTree, state: PyTree, params: PyTree, /
    ) -> tuple[PyTree, PyTree]: ...


class GradientAt(Protocol):
    """``params -> ((value, aux), grads)``."""

    def __call__(self, params: PyTree, /) -> tuple[tuple[Any, PyTree], PyTree]: ...


class RuleStep(Protocol):
    """``(gradient_at, params, state) -> ((value, aux), updates, state)``."""

    def __call__(
        self, gradient_at: GradientAt, params: PyTree, state: PyTree, /
    ) -> tuple[tuple[Any, PyTree], PyTree, PyTree]: ...


class _Functions(NamedTuple):
    init: RuleInit
    update: RuleUpdate


class UpdateRule(Made, _Functions):
    """Two pure functions, ``(init, update)``; see the module's docstring.

    `step` is the third, of a rule that the gradient at the parameters does not satisfy; else None.
    """

    step: RuleStep | None = None


def take_step(
    rule: UpdateRule, gradient_at: GradientAt, params: PyTree, state: PyTree
) -> tuple[tuple[Any, PyTree], PyTree, PyTree]:
    """Take one step with any rule, or with a transformation of optax.

    Returns the value and the rest that the objective gave at `params` (or where the rule looked
    first), the updates to be added, and the new state.

    >>> import fnn, jax, jax.numpy as jnp
    >>> rule = fnn.optim.chain(fnn.optim.sam(0.5), fnn.optim.sgd(0.1))
    >>> params = jnp.array([1.0])
    >>> def gradient_at(params):
    ...     value, grads = jax.value_and_grad(lambda p: (p**2).sum())(params)
    ...     return (value, ()), grads
    >>> (value, _), updates, state = take_step(rule, gradient_at, params, rule.init(params))
    >>> value, updates
    (Array(1., dtype=float32), Array([-0.3], dtype=float32))
    """
    step = getattr(rule, "step", None)
    if step is not None:
        return step(gradient_at, params, state)
    value_and_aux, grads = gradient_at(params)
    updates, state = rule.update(grads, state, params)
    return value_and_aux, updates, state


def stepping(where: str, init: RuleInit, step: RuleStep) -> UpdateRule:
    """Make a rule of a `step` function: its `update`, which cannot do the same, is an error."""

    def update(*_: PyTree) -> tuple[PyTree, PyTree]:
        raise InputError(
            where,
            "to be handed the gradient as a function",
            "the gradient at the parameters",
            "train with fnn.fit or fnn.train_step, or take the step with fnn.optim.take_step",
        )

    rule = UpdateRule(init, update)
    rule.step = step
    return rule


def averaged(params: PyTree, state: PyTree) -> PyTree:
    """Return the parameters to evaluate: those that a rule averaged, or else `params` themselves.

    `state` is the rule's, in which `ema`, `lookahead` or a schedule-free rule may stand anywhere;
    of two averages the later one counts. `fnn.fit` evaluates there, and trains on with `params`.

    >>> import fnn, jax.numpy as jnp
    >>> rule = fnn.optim.chain(fnn.optim.sgd(0.1), fnn.optim.ema(0.5))
    >>> params = jnp.array([1.0])
    >>> state = rule.init(params)
    >>> for _ in range(2):
    ...     updates, state = rule.update(jnp.array([15.0]), state, params)
    ...     params = params + updates
    >>> params, averaged(params, state)
    (Array([-2.], dtype=float32), Array([-1.5], dtype=float32))
    """

    def keeps(node: Any) -> bool:
        return hasattr(node, "averaged")

    for node in jax.tree.leaves(state, is_leaf=keeps):
        if keeps(node):
            params = node.averaged(params)
    return params


@constructor
def chain(*rules: UpdateRule) -> UpdateRule:
    """Apply rules one after the other: the updates of one are the gradients of the next.

    ``u_0 = g``, ``u_i = update_i(u_{i-1})``; the last one scales by the learning rate. The state is
    the tuple of theirs. Optax's transformations may stand among them.

    Raises `fnn.InputError` for what is no rule.

    >>> import fnn, jax.numpy as jnp
    >>> rule = chain(fnn.optim.clip_by_global_norm(1.0), fnn.optim.sgd(0.5))
    >>> rule
    chain(clip_by_global_norm(1.0), sgd(0.5))
    >>> params = jnp.array([0.0, 0.0])
    >>> rule.update(jnp.array([3.0, 4.0]), rule.init(params), params)[0]
    Array([-0.3, -0.4], dtype=float32)
    """
    for rule in rules:
        check_rule("optim.chain", "update rules", rule)

    def init(params: PyTree, /) -> PyTree:
        return tuple(rule.init(params) for rule in rules)

    def update(grads: PyTree, state: PyTree, params: PyTree, /) -> tuple[PyTree, PyTree]:
        states = []
        for rule, rule_state in zip(rules, state, strict=True):
            grads, rule_state = rule.update(grads, rule_state, params)
            states.append(rule_state)
        return grads, tuple(states)

    def step(
        gradient_at: GradientAt, params: PyTree, state: PyTree, /
    ) -> tuple[tuple[Any, PyTree], PyTree, PyTree]:
        # What one rule gives at some parameters is the gradient there for the next.
        for rule, rule_state in zip(rules, state, strict=True):
            gradient_at = _given(rule, rule_state, gradient_at)
        (value, aux), updates = gradient_at(params)
        states = []
        for _ in rules:
            aux, rule_state = aux
            states.append(rule_state)
        return (value, aux), updates, tuple(reversed(states))

    chained = UpdateRule(init, update)
    if any(getattr(rule, "step", None) is not None for rule in rules):
        chained.step = step
    return chained


def _given(rule: UpdateRule, state: PyTree, gradient_at: GradientAt) -> GradientAt:
    """Return the updates of a rule as a function of the parameters, its new state beside aux."""

    def updates_at(params: PyTree, /) -> tuple[tuple[Any, PyTree], PyTree]:
        (value, aux), updates, new_state = take_step(rule, gradient_at, params, state)
        return (value, (aux, new_state)), updates

    return updates_at


def check_rule(where: str, expected: str, rule: Any, plain: bool = False) -> None:
    """Raise `InputError` for what is no rule; if `plain`, for one that has a `step` too."""
    if not hasattr(rule, "init") or not hasattr(rule, "update"):
        raise InputError(where, expected, describe(rule), "pass some, as in fnn.optim.sgd(0.1)")
    if plain and getattr(rule, "step", None) is not None:
        raise InputError(
            where,
            f"{expected} that the gradient suffices",
            describe(rule),
            "take out the part that needs more, and chain it before or after this one",
        )


def each(function: Callable[..., Any], *trees: PyTree) -> PyTree:
    """Apply a rule for one array to every leaf, keeping the dtype of the leaves of the first tree.

    >>> import jax.numpy as jnp
    >>> each(lambda g: g.astype("float32"), {"a": jnp.ones(1, "bfloat16")})["a"].dtype.name
    'bfloat16'
    """
    return jax.tree.map(
        lambda leaf, *others: jnp.asarray(function(leaf, *others)).astype(leaf.dtype), *trees
    )


class StepState(NamedTuple):
    """The step count, ``()`` without a schedule."""

    step: PyTree


def memoryless(change: Callable[..., PyTree], *hypers: Hyper) -> UpdateRule:
    """Make a rule of ``(grads, params, *values) -> updates``, which remembers no gradient.

    `values` are those of the hyper-parameters at the step.

    >>> import jax.numpy as jnp
    >>> rule = memoryless(lambda grads, params, share: share * grads, lambda step: 0.5**step)
    >>> state = rule.init(())
    >>> for _ in range(2):
    ...     updates, state = rule.update(jnp.array([6.0]), state, ())
    ...     print(updates)
    [6.]
    [3.]
    """

    def init(params: PyTree, /) -> StepState:
        del params
        return StepState(first_step(*hypers))

    def update(grads: PyTree, state: StepState, params: PyTree, /) -> tuple[PyTree, StepState]:
        values = (at_step(hyper, state.step) for hyper in hypers)
        return change(grads, params, *values), StepState(next_step(state.step))

    return UpdateRule(init, update)
