"""The contract of an update rule, and their composition.

A rule turns a gradient into an update, which is added to the parameters::

    init   :: params                    -> state
    update :: (grads, state, params)    -> (updates, state)

These are the signatures of optax's gradient transformations, and a rule is a tuple of the two, so
rules of both kinds mix in `chain`. A hyper-parameter is a number, a schedule (a function of the
step, counted from 0) or a traced array: a rule can be built inside a function under `jax.vmap`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from fnn.errors import InputError, describe
from fnn.layer import Array, PyTree
from fnn.origin import Made, constructor

Hyper: TypeAlias = float | Array | Callable[[Any], Any]


class RuleInit(Protocol):
    """``params -> state``."""

    def __call__(self, params: PyTree, /) -> PyTree: ...


class RuleUpdate(Protocol):
    """``(grads, state, params) -> (updates, state)``."""

    def __call__(
        self, grads: PyTree, state: PyTree, params: PyTree, /
    ) -> tuple[PyTree, PyTree]: ...


class _Functions(NamedTuple):
    init: RuleInit
    update: RuleUpdate


class UpdateRule(Made, _Functions):
    """Two pure functions, ``(init, update)``; see the module's docstring."""


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
        if not hasattr(rule, "init") or not hasattr(rule, "update"):
            raise InputError(
                "optim.chain", "update rules", describe(rule), "pass some, as in fnn.optim.sgd(0.1)"
            )

    def init(params: PyTree, /) -> PyTree:
        return tuple(rule.init(params) for rule in rules)

    def update(grads: PyTree, state: PyTree, params: PyTree, /) -> tuple[PyTree, PyTree]:
        states = []
        for rule, rule_state in zip(rules, state, strict=True):
            grads, rule_state = rule.update(grads, rule_state, params)
            states.append(rule_state)
        return grads, tuple(states)

    return UpdateRule(init, update)


def at_step(hyper: Hyper, step: Any) -> Any:
    """Return the value of a hyper-parameter at a step: a schedule is called, a number is itself.

    >>> at_step(0.1, 7), at_step(lambda step: 0.1 * step, 10)
    (0.1, 1.0)
    """
    return hyper(step) if callable(hyper) else hyper


def each(function: Callable[..., Any], *trees: PyTree) -> PyTree:
    """Apply a rule for one array to every leaf, keeping the dtype of the leaves of the first tree.

    >>> import jax.numpy as jnp
    >>> each(lambda g: g.astype("float32"), {"a": jnp.ones(1, "bfloat16")})["a"].dtype.name
    'bfloat16'
    """
    return jax.tree.map(
        lambda leaf, *others: jnp.asarray(function(leaf, *others)).astype(leaf.dtype), *trees
    )


def cast(value: Any, leaf: Any) -> Any:
    """Give a hyper-parameter the dtype of the array that it meets; a plain number needs none."""
    return value.astype(leaf.dtype) if hasattr(value, "astype") else value


def check_number(where: str, name: str, value: Hyper, least: float = 0.0) -> None:
    """Raise `InputError` for a plain number below `least`; a schedule or an array may be any."""
    if isinstance(value, int | float):
        valid = value >= least
    else:
        valid = callable(value) or hasattr(value, "dtype")
    if not valid:
        raise InputError(
            where,
            f"{name} of {least:g} or more",
            describe(value),
            "pass a number, a schedule or an array",
        )
