"""What a gradient costs by hand and by autodiff: time, memory and operations, measured alike.

Both ways get the same inputs and the same cotangent in the same precision, and return the same
values; both are compiled, compilation is timed apart, and they are run in turns. Autodiff is
`jax.vjp` of the layer's `apply`, the plain formula.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.tree import combine, inexact_leaves
from fnn._core.types import Array, PyTree
from fnn.lab.summary import residual_bytes, unique_bytes
from fnn.layer import Layer

ROUNDS = 15
# A turn repeats what takes less: a clock and a scheduler have a grain.
_TURN = 5e-4
_MARGIN = 0.05

By: TypeAlias = Literal["time", "bytes"]


class Way(NamedTuple):
    """What one way of going forward and backward costs.

    `seconds` of every round; `compile_seconds` apart; `temporary_bytes` that the compiled program
    takes beside its inputs and outputs; `kept_bytes` of residuals between forward and backward;
    `flops` as the compiler counts them, of one turn of a loop.
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
    """One layer or model measured both ways."""

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


def choose(ways: Measurement, by: By) -> Literal["manual", "auto"]:
    """Choose the way that costs less: by hand, unless autodiff is better by more than chance.

    By time, autodiff must save 5 percent in the median of all rounds, and save something in three
    rounds of four: a difference within the spread of the rounds decides nothing. By bytes, the
    temporary bytes of the compiled programs are compared, and those kept where they are equal.

    >>> slow, fast = (Way((t, t, t), 0.0, 0, 0, 0.0) for t in (1.1, 1.0))
    >>> choose(Measurement(slow, fast), "time"), choose(Measurement(fast, slow), "time")
    ('auto', 'manual')
    """
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


def measure(layer: Layer, x: Any, key: Array, *, rounds: int = ROUNDS) -> Measurement:
    """Measure a layer both ways in training, at new parameters, for a random cotangent.

    `x` is an array, or its `jax.ShapeDtypeStruct` for random numbers of its shape.
    """

    def apply(params: PyTree, state: PyTree, x: Any, key: Array) -> Any:
        return layer.apply(params, state, x, key=key, train=True)

    def transposed(params: PyTree, state: PyTree, x: Any, key: Array) -> Any:
        def function(params: PyTree, floats: Any) -> Any:
            y, new_state = apply(params, state, combine(floats, x), key)
            return inexact_leaves(y), (y, new_state)

        return jax.vjp(function, params, inexact_leaves(x), has_aux=True)

    def manual(params: PyTree, state: PyTree, x: Any, key: Array, dy: Any) -> Any:
        y, new_state, residuals = layer.forward(params, state, x, key=key, train=True)
        return y, new_state, layer.backward(params, residuals, dy)

    def auto(params: PyTree, state: PyTree, x: Any, key: Array, dy: Any) -> Any:
        _, pull_back, (y, new_state) = transposed(params, state, x, key)
        return y, new_state, pull_back(dy)

    def saved(*args: Any) -> list[Any]:
        return jax.tree.leaves(transposed(*args)[1])

    random = np.random.default_rng(0)
    x = _drawn(random, x)
    params, state = _start(random, layer, x, key)
    dy = _drawn(
        random, jax.eval_shape(lambda *args: inexact_leaves(apply(*args)[0]), params, state, x, key)
    )
    args = (params, state, x, key)
    kept = {
        "manual": sum(residual_bytes(layer, *args).values()),
        "auto": sum(unique_bytes(saved, *args)),
    }
    ways = both_ways({"manual": manual, "auto": auto}, (*args, dy), kept, rounds)
    return Measurement(**ways)


def both_ways(
    functions: Mapping[str, Callable[..., Any]],
    args: tuple[Any, ...],
    kept: Mapping[str, int],
    rounds: int = ROUNDS,
) -> dict[str, Way]:
    """Compile functions of the same arguments, and run them in turns."""
    programs, compiling = {}, {}
    for name, function in functions.items():
        began = time.perf_counter()
        programs[name] = jax.jit(function).lower(*args).compile()
        compiling[name] = time.perf_counter() - began

    def turn(program: Any) -> Callable[[], float]:
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

    seconds = interleaved({name: turn(program) for name, program in programs.items()}, rounds)
    ways = {}
    for name, program in programs.items():
        memory, operations = program.memory_analysis(), program.cost_analysis() or {}
        temporary = memory.temp_size_in_bytes if memory else 0
        flops = operations.get("flops", 0.0)
        ways[name] = Way(tuple(seconds[name]), compiling[name], temporary, kept[name], flops)
    return ways


def interleaved(
    functions: Mapping[str, Callable[[], float | None]], rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of every call: all functions once unmeasured, then in turns.

    Taking turns spreads whatever else the machine does over all of them; every round starts with
    the next function, so that none always comes after the same other. A function that returns a
    float has timed itself.
    """
    for function in functions.values():
        function()
    names = list(functions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
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
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown processor"


def _start(random: np.random.Generator, layer: Layer, x: Any, key: Array) -> Any:
    """Return parameters of the size that an initializer gives them, and the layer's own state.

    Drawn here, since every draw in JAX is a program to compile. What is no floating number, such as
    an index, is not up to chance.
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


def _drawn(random: np.random.Generator, specs: Any) -> Any:
    """Return arrays for shapes: random numbers, and 1 for integers, which any index may be."""

    def draw(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return jnp.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(random.normal(size=leaf.shape), leaf.dtype)
        return jnp.ones(leaf.shape, leaf.dtype)

    return jax.tree.map(draw, specs)
