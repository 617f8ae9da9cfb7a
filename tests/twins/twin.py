"""What a twin is: the layer of PyTorch that a case must agree with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp


def channels_first(x: Any) -> Any:
    """Move the channels from the last axis to the second."""
    return jnp.moveaxis(x, -1, 1)


def channels_last(x: Any) -> Any:
    """Move the channels from the second axis to the last."""
    return jnp.moveaxis(x, 1, -1)


class Twin(NamedTuple):
    """A layer in PyTorch, and how its weights, inputs and outputs are those of a case.

    `module` makes it for the case's x (in numpy). `convert` maps the layer and the module's
    state_dict (of jnp arrays) to params and state; `into` maps x to the tuple of the module's
    arguments, `out` maps y to the module's output, or to the tuple of its first outputs. All three
    are of jnp functions, since the gradients are compared through their transposes. `call` runs
    the module, and `train` says in which modes the two agree.
    """

    case: str
    module: Callable[[Any], Any]
    convert: Callable[[Any, dict[str, Any]], tuple[Any, Any]] = lambda layer, weights: ((), ())
    into: Callable[[Any], tuple[Any, ...]] = lambda x: (x,)
    out: Callable[[Any], Any] = lambda y: y
    call: Callable[..., Any] = lambda module, *x: module(*x)
    train: tuple[bool, ...] = (True, False)


class LossTwin(NamedTuple):
    """A loss in PyTorch: ``(prediction, target) -> values`` of tensors, for the case of a name."""

    case: str
    function: Callable[[Any, Any], Any]
