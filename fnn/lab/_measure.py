"""Costs of a gradient, manual and automatic: time, memory and operations, measured alike.

Both ways get the same inputs and the same cotangent in the same precision, and return the same
values; both are compiled, compilation is timed apart, and they are run in turns. Autodiff is
`jax.vjp` of the layer's `apply`, the plain formula.
"""

from __future__ import annotations

import functools
import math
import os
import platform
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core import check
from fnn._core.arrays import require_arrays
from fnn._core.errors import InputError, describe, entry
from fnn._core.tree import combine, inexact_leaves
from fnn._core.types import (
    Array,
    Cotangent,
    Input,
    Output,
    Params,
    PyTree,
    Residuals,
    State,
    Unchecked,
)
from fnn.lab.summary import residual_bytes, unique_bytes
from fnn.layer import Layer, require_layer

ROUNDS = 15
# A turn repeats what takes less: a clock and a scheduler have a grain.
_TURN = 5e-4
_MARGIN = 0.05

By: TypeAlias = Literal["time", "bytes"]


class Way(NamedTuple):
    """Cost of one way of going forward and backward.

    Args:
        seconds: the time of every round.
        compile_seconds: the time of compilation, apart.
        temporary_bytes: what the compiled program takes beside its inputs and outputs.
        kept_bytes: the residuals between forward and backward.
        flops: operations as the compiler counts them, of one turn of a loop.

    """

    seconds: tuple[float, ...]
    compile_seconds: float
    temporary_bytes: int
    kept_bytes: int
    flops: float

    @property
    def milliseconds(self) -> float:
        """The median time of all rounds."""
        return 1e3 * median(self.seconds)


class Measurement(NamedTuple):
    """Measurement of one layer or model, both ways.

    Args:
        manual: the cost of its manual gradient.
        auto: the cost of the automatic one.

    """

    manual: Way
    auto: Way

    @property
    def time_ratio(self) -> float:
        """The time by hand over that of autodiff, the median over rounds: below 1 hand is faster.

        Both of a round ran right after each other, so that a slow moment of the machine is in both.
        """
        return median(self.time_ratios())

    def time_ratios(self) -> list[float]:
        """Return the ratio of times of every round."""
        pairs = zip(self.manual.seconds, self.auto.seconds, strict=True)
        return [manual / auto for manual, auto in pairs]

    @property
    def memory_ratio(self) -> float:
        """The temporary bytes by hand over those of autodiff."""
        return ratio(self.manual.temporary_bytes, self.auto.temporary_bytes)


@entry
def choose(ways: Measurement, by: By) -> Literal["manual", "auto"]:
    """Choose the way that costs less: by hand, unless autodiff is better by more than chance.

    By time, autodiff must save 5 percent in the median of all rounds, and save something in three
    rounds of four: a difference within the spread of the rounds decides nothing. By bytes, the
    temporary bytes of the compiled programs are compared, and those kept where they are equal.

    Args:
        ways: what `measure` found.
        by: ``"time"`` or ``"bytes"``.
    Raises:    InputError for another `by`, and what `measure` did not find.

    >>> slow, fast = (Way((t, t, t), 0.0, 0, 0, 0.0) for t in (1.1, 1.0))
    >>> choose(Measurement(slow, fast), "time"), choose(Measurement(fast, slow), "time")
    ('auto', 'manual')

    """
    check.one_of(by, "by", get_args(By))
    if not isinstance(ways, Measurement):
        raise InputError("a Measurement", describe(ways), "pass what fnn.lab.measure returns")
    if by == "bytes":
        manual, auto = ((way.temporary_bytes, way.kept_bytes) for way in ways)
        return "auto" if auto < manual else "manual"
    ratios = sorted(ways.time_ratios())
    saves = median(ratios) > 1 + _MARGIN and ratios[len(ratios) // 4] > 1
    return "auto" if saves else "manual"


def ratio(one: float, other: float) -> float:
    """Divide, where nothing over nothing is as much: 1.

    >>> ratio(1, 4), ratio(0, 0), ratio(2, 0)
    (0.25, 1.0, inf)
    """
    if other:
        return one / other
    return float("inf") if one else 1.0


@entry
def measure(layer: Layer, x: Input, *, key: Array, rounds: int = ROUNDS) -> Measurement:
    """Measure a layer both ways in training, at new parameters, for a random cotangent.

    Args:
        layer: any layer or model.
        x: an example input, or its `jax.ShapeDtypeStruct` for random values of its shape.
        key: of the parameters and of the layer's randomness.
        rounds: how many times both ways are run in turns.
    Raises:    InputError for what is no layer, array or key, and for rounds below 1.

    """
    require_layer(layer)
    x = require_arrays(x, shapes=True)
    check.key(key)
    check.count(rounds, "rounds")
    random = np.random.default_rng(0)
    x = _drawn(random, x)
    params, state = start_of(random, layer, x, key)
    args = (params, state, x, key)
    y, _ = jax.eval_shape(functools.partial(_apply, layer), *args)
    dy = _drawn(random, inexact_leaves(y))
    saved = functools.partial(_saved, layer)
    kept = {
        "manual": sum(residual_bytes(layer, *args).values()),
        "auto": sum(unique_bytes(saved, *args)),
    }
    functions = {
        "manual": functools.partial(_manual, layer),
        "auto": functools.partial(_auto, layer),
    }
    return Measurement(**both_ways(functions, (*args, dy), kept, rounds))


_Returned: TypeAlias = tuple[Output, State, tuple[Params, Cotangent]]


def _apply(
    layer: Layer, params: Params, state: State, x: Input, key: Array
) -> tuple[Output, State]:
    """Run a layer in training."""
    return layer.apply(params, state, x, key=key, train=True)


def _manual(
    layer: Layer, params: Params, state: State, x: Input, key: Array, dy: Cotangent
) -> _Returned:
    """Run a layer forwards, and backwards by hand."""
    y, new_state, residuals = layer.forward(params, state, x, key=key, train=True)
    return y, new_state, layer.backward(params, residuals, dy)


def _auto(
    layer: Layer, params: Params, state: State, x: Input, key: Array, dy: Cotangent
) -> _Returned:
    """Run a layer forwards, and backwards by autodiff."""
    pull_back, (y, new_state) = _transposed(layer, params, state, x, key)
    return y, new_state, pull_back(dy)


def _transposed(
    layer: Layer, params: Params, state: State, x: Input, key: Array
) -> tuple[Residuals, tuple[Output, State]]:
    """Return the vector-Jacobian product of a layer by autodiff, its output and new state."""

    def function(params: Params, floats: Input) -> tuple[Output, tuple[Output, State]]:
        y, new_state = _apply(layer, params, state, combine(floats, x), key)
        return inexact_leaves(y), (y, new_state)

    _, pull_back, returned = jax.vjp(function, params, inexact_leaves(x), has_aux=True)
    return pull_back, returned


def _saved(layer: Layer, params: Params, state: State, x: Input, key: Array) -> list[Array]:
    """Return what autodiff keeps for the backward pass."""
    return jax.tree.leaves(_transposed(layer, params, state, x, key)[0])


def _check_functions(functions: Unchecked) -> None:
    """Raise unless these are functions by name."""
    if not isinstance(functions, Mapping) or not functions:
        raise InputError("functions by name", describe(functions), "pass a dict of them")
    for name, function in functions.items():
        check.text(name, "the name of a function")
        check.function(function, f"functions[{name!r}]")


@entry
def both_ways(
    functions: Mapping[str, Callable[..., PyTree]],
    args: tuple[PyTree, ...],
    kept: Mapping[str, int],
    rounds: int = ROUNDS,
) -> dict[str, Way]:
    """Compile functions of the same arguments, and run them in turns.

    Args:
        functions: the ways, by name.
        args: the arguments of each.
        kept: the bytes that each keeps between forward and backward, by name.
        rounds: how many times all are run in turns.
    Raises:    InputError for what is no function, arguments that one does not take, bytes of other
        names and no round.

    """
    _check_functions(functions)
    check.count(rounds, "rounds")
    args = tuple(check.several(args, "args"))
    if not isinstance(kept, Mapping) or set(kept) != set(functions):
        raise InputError(f"kept of {', '.join(functions)}", describe(kept), "name bytes for each")
    for name, count in kept.items():
        check.count(count, f"the bytes of {name}", 0)
    programs, compiling = {}, {}
    for name, function in functions.items():
        began = time.perf_counter()
        try:
            lowered = jax.jit(function).lower(*args)
        except (TypeError, ValueError) as error:
            got, remedy = f"{type(error).__name__} of JAX", "pass those of all functions"
            raise InputError(f"args that {name} takes", got, remedy) from error
        programs[name] = lowered.compile()
        compiling[name] = time.perf_counter() - began
    turns = {name: _turn(program, args) for name, program in programs.items()}
    seconds = interleaved(turns, rounds)
    ways = {}
    for name, program in programs.items():
        memory, operations = program.memory_analysis(), program.cost_analysis() or {}
        temporary = memory.temp_size_in_bytes if memory else 0
        flops = operations.get("flops", 0.0)
        ways[name] = Way(tuple(seconds[name]), compiling[name], temporary, kept[name], flops)
    return ways


def _turn(program: Callable[..., PyTree], args: tuple[PyTree, ...]) -> Callable[[], float]:
    """Return what runs a program often enough for the clock, and returns the seconds of one run."""
    jax.block_until_ready(program(*args))
    began = time.perf_counter()
    jax.block_until_ready(program(*args))
    times = int(_TURN / (time.perf_counter() - began)) + 1

    def run() -> float:
        began = time.perf_counter()
        for _ in range(times):
            jax.block_until_ready(program(*args))
        return (time.perf_counter() - began) / times

    return run


@entry
def interleaved(
    functions: Mapping[str, Callable[[], float | None]], rounds: int
) -> dict[str, list[float]]:
    """Time functions in turns: return the seconds of every call, after one that is not counted.

    Taking turns spreads whatever else the machine does over all of them; every round has an order
    of its own, so that none mostly comes after the same other, whose data then fills the caches.

    Args:
        functions: what is timed, by name; one that returns a float has timed itself.
        rounds: how many times each is called.
    Raises:    InputError for what is no function, and no round.

    """
    _check_functions(functions)
    check.count(rounds, "rounds")
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    orders = random.Random(0)
    for _ in range(rounds):
        for name in orders.sample(list(functions), len(functions)):
            began = time.perf_counter()
            own = functions[name]()
            wall = time.perf_counter() - began
            seconds[name].append(wall if own is None else own)
    return seconds


def machine() -> str:
    """Name processor, cores, platform and versions in one line."""
    device = jax.devices()[0]
    accelerator = "" if device.platform == "cpu" else f" {device.device_kind}"
    return (
        f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"jax {jax.__version__} on {device.platform}{accelerator}, "
        f"python {platform.python_version()}"
    )


def _processor() -> str:
    """Name the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown processor"


def start_of(
    random: np.random.Generator, layer: Layer, x: Input, key: Array
) -> tuple[Params, State]:
    """Return parameters of the size that an initializer gives them, and the layer's own state.

    Drawn here, since every draw in JAX is a program to compile. What is no floating number, such as
    an index, is not up to chance.

    Args:
        random: draws the parameters.
        layer: any layer or model.
        x: an example input.
        key: of what is not drawn.
    """
    specs, state = jax.eval_shape(layer.init, key, x)
    leaves = jax.tree.leaves(specs)
    if any(not jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        return layer.init(key, x)
    params = _drawn(random, specs)
    scaled = jax.tree.map(lambda a: a / max(math.prod(a.shape[:-1]), 1) ** 0.5, params)
    if jax.tree.leaves(state):
        state = jax.jit(lambda key: layer.init(key, x)[1])(key)
    return scaled, state


def _drawn(random: np.random.Generator, specs: PyTree) -> PyTree:
    """Return arrays for shapes: random values, and 1 for integers, which any index may be."""

    def draw(leaf: Array | jax.ShapeDtypeStruct) -> Array:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return jnp.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(random.normal(size=leaf.shape), leaf.dtype)
        return jnp.ones(leaf.shape, leaf.dtype)

    return jax.tree.map(draw, specs)
