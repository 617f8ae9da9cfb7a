"""What a case is: a layer or a loss with non-neutral settings, and its formula in plain numpy."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import fnn

WIDTH = 5
SHAPES = {"plain": (4, WIDTH), "batch-1": (1, WIDTH), "leading-axes": (2, 3, WIDTH)}
ANY_SHAPE = SHAPES | {"width-1": (4, 1)}


class LayerCase(NamedTuple):
    """A layer to be made afresh, and its inputs.

    `formula` maps params, state and x to y out of training, in numpy; None where the layer has no
    formula of its own. `shapes` are those of x by name, the first being the one most laws take;
    `draw` makes x of a generator and a shape, where x is more than an array of normal numbers.
    `large` is the factor of the law of large inputs, small where they would saturate every unit and
    leave nothing but rounding of a gradient. `kink` says that x = 0 has no derivative, `bent` that
    the layer bends sharply where all inputs are equal, `surrogate` that the gradient is meant to be
    no derivative.
    """

    name: str
    make: Callable[[], fnn.Layer]
    formula: Callable[[Any, Any, Any], Any] | None = None
    shapes: Mapping[str, tuple[int, ...]] = SHAPES
    draw: Callable[[Any, tuple[int, ...]], Any] = lambda random, shape: random.normal(size=shape)
    large: float = 100
    kink: bool = False
    bent: bool = False
    surrogate: bool = False


class LossCase(NamedTuple):
    """A loss, a target for the predictions of 6 examples, and the loss in numpy.

    `draw` makes the predictions of a generator: (6, 4) normal numbers, or another tree, in which an
    array has a leading axis of 6 when it has one for examples, and no other of its axes is 6 long.
    `kink` is as for layers; `steep` says that the value overflows for large predictions.
    """

    name: str
    make: Callable[[], fnn.losses.Loss]
    target: Any
    formula: Callable[[Any, Any], Any]
    kink: bool = False
    steep: bool = False
    draw: Callable[[Any], Any] = lambda random: random.normal(size=(6, 4))


def public(module: Any, kind: type) -> set[str]:
    """Return the names of all public functions of a module that return layers or losses."""
    functions = {name: inspect.unwrap(getattr(module, name)) for name in module.__all__}
    return {
        name
        for name, function in functions.items()
        # Takes a model apart and puts it together again: no layer of its own.
        if name != "map_layers"
        and inspect.isfunction(function)
        and typing.get_type_hints(function).get("return") is kind
    }


def makers(made: Any) -> set[str]:
    """Return the names of all constructors that a layer or loss was made with."""
    inside = [*getattr(made, "children", {}).values(), getattr(made, "manual", None)]
    if made.call:
        inside += [*made.call.args, *made.call.kwargs.values()]
    names = [makers(part) for part in inside if hasattr(part, "call")]
    return {made.call.name if made.call else ""}.union(*names)
