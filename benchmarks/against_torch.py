"""Time every layer and loss that PyTorch has too against PyTorch, beside what the machine can do.

A row is one layer at one size, in one of four modes: ``training`` is forward and backward, by hand
here and by autograd there, ``inference`` the output alone; ``call`` is one call that returns all of
it, ``loop`` one step of a loop of them: `jax.lax.scan`, whose memory is taken once, against a
Python loop in PyTorch; in training the parameters take a step of SGD each time. Neither loop
changes x: an `optimization_barrier` keeps XLA from computing anything before the loop, and costs
nothing. A loss is its mean over the examples, and the gradient of that. Left out is what moves or
does nothing: identity, flatten, reshape, and dropout out of training, where PyTorch returns x
itself and a compiled program of JAX has to copy what is not donated to it.

PyTorch is at its best in eager mode: all cores, images in the faster of its two layouts, fused
attention, one call for the gradients, `inference_mode`. On a CPU JAX computes in the thread that
calls, as PyTorch does (``JAX_CPU_ENABLE_ASYNC_DISPATCH=true``, the default of JAX, hands every
program to another thread, which a call that waits for its result pays for). Both have the same
weights, and a layer whose outputs differ is an error. All take turns; a turn begins after a pause,
in which the threads of the other library come to rest. time_ratio is the median of fnn over that of
PyTorch, below 1 where fnn is faster; memory_ratio is that of bytes beyond inputs and parameters:
temporary ones and results here, the peak of tensors there.

roofline_ms is the least that the machine takes: to read each input and write each result once, at
the speed of a copy of as many bytes, or to do the products, at the speed of a large one, whichever
is longer; both speeds are measured, the products counted by formula, training as three forward
passes. It knows nothing of exponentials or random numbers, nor of Winograd, which needs fewer
products. of_roofline is its share of the time of fnn, other_of_roofline of PyTorch. floor_ms is
what the time of fnn has in it whatever is computed: a call of a program of nothing, and for each
kernel that XLA shares among cores what sharing costs; both are measured, and printed beside
PyTorch's call.
On an accelerator the larger of the two sizes has 16 times the batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from measure import Row, arguments, compared, interleaved, machine, picked, report, watched, write
from torch_cases import CASES, Case, Shape, x_of
from torch_side import DEVICE, at_its_best, cores, on_device, peak_bytes, synchronize

import fnn
from fnn.losses import Loss

COLUMNS = (
    "family", "name", "size", "mode", "time_ratio", "ours_ms", "other_ms", "floor_ms",
    "roofline_ms", "of_roofline", "memory_ratio",
)  # fmt: skip
MODES = ("training call", "training loop", "inference call", "inference loop")
# Seconds of a turn, and of the pause before it.
TURN, PAUSE = 0.01, 0.005
# Steps of a loop, by whether the size is the larger one; small ones cost less than their dispatch.
STEPS = {False: 16, True: 4}
ACCELERATOR_BATCH = 16
RATE = 1e-6
WORDS = 1.5
# What XLA for CPUs writes at a kernel that it shares among cores.
SHARED = "outer_dimension_partitions"
CLOSE = 0.02


class Ours(NamedTuple):
    """A layer, or a loss as one, in pure functions.

    ``train`` is ``(params, state, x, dy, key) -> (y, state, dparams, dx)``, and ``infer``
    ``(params, state, x) -> y``.
    """

    init: Callable[..., Any]
    train: Callable[..., Any]
    infer: Callable[..., Any]


def of_layer(layer: fnn.Layer) -> Ours:
    def train(params: Any, state: Any, x: Any, dy: Any, key: Any) -> Any:
        y, state, residuals = layer.forward(params, state, x, key=key, train=True)
        dparams, dx = layer.backward(params, residuals, dy)
        return y, state, dparams, floats(dx)

    return Ours(layer.init, train, lambda params, state, x: layer.apply(params, state, x)[0])


def of_loss(loss: Loss, head: fnn.Layer) -> Ours:
    """Make the mean of a loss of what a head predicts."""

    def train(params: Any, state: Any, x: Any, dy: Any, key: Any) -> Any:
        del dy, key
        prediction, state, inside = head.forward(params, state, x[0], train=True)
        values, residuals = loss.forward(prediction, x[1])
        dprediction = loss.backward(residuals, jnp.full(values.shape, 1 / values.size))
        dparams, dx = head.backward(params, inside, dprediction)
        return values.mean(), state, dparams, floats(dx)

    def infer(params: Any, state: Any, x: Any) -> Any:
        return loss.apply(head.apply(params, state, x[0])[0], x[1]).mean()

    return Ours(lambda key, x: head.init(key, x[0]), train, infer)


def ours_of(case: Case) -> Ours:
    if isinstance(case.layer, Loss):
        return of_loss(case.layer, case.head or fnn.identity())
    return of_layer(case.layer)


def floats(tree: Any) -> list[Any]:
    """Return the leaves that a gradient is for: an index has none."""
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def training_loop(ours: Ours, steps: int) -> Callable[..., Any]:
    def step(carry: Any, key: Any) -> Any:
        params, state, x, dy, _, _ = carry
        # To XLA they are others in every turn, so that nothing is computed before the loop.
        x, dy = jax.lax.optimization_barrier((x, dy))
        y, state, dparams, dx = ours.train(params, state, x, dy, key)
        params = jax.tree.map(lambda p, dp: p - RATE * dp, params, dparams)
        return (params, state, x, dy, y, dx), None

    return lambda carry, key: jax.lax.scan(step, carry, jax.random.split(key, steps))[0]


def inference_loop(ours: Ours, steps: int) -> Callable[..., Any]:
    def step(carry: Any, _: None) -> Any:
        inputs = jax.lax.optimization_barrier(carry[0])
        return (inputs, ours.infer(*inputs)), None

    return lambda carry: jax.lax.scan(step, carry, length=steps)[0]


class Programs(NamedTuple):
    """The four programs of a layer at a size, and shapes of what they take and return."""

    modes: dict[str, Any]
    y: Any
    dx: Any


def programs_of(case: Case, shape: Shape, steps: int) -> Programs:
    ours, key = ours_of(case), jax.random.key(0)
    x = jax.eval_shape(lambda x: x, x_of(case, shape))
    params, state = jax.eval_shape(ours.init, key, x)
    y = jax.eval_shape(ours.infer, params, state, x)
    dy = () if isinstance(case.layer, Loss) else y
    _, _, _, dx = jax.eval_shape(ours.train, params, state, x, dy, key)
    lowered = (
        jax.jit(ours.train).lower(params, state, x, dy, key),
        jax.jit(training_loop(ours, steps), donate_argnums=0).lower(
            (params, state, x, dy, y, dx), key
        ),
        jax.jit(ours.infer).lower(params, state, x),
        jax.jit(inference_loop(ours, steps), donate_argnums=0).lower(((params, state, x), y)),
    )
    return Programs({m: low.compile() for m, low in zip(MODES, lowered, strict=True)}, y, dx)


class Theirs:
    """The twin in PyTorch, on tensors in a layout."""

    def __init__(self, case: Case, module: Any, x: Any, dy: Any, steps: int, layout: str):
        self.case, self.steps, self.layout = case, steps, layout
        self.module = module if module is None else self.laid_out(module)
        self.x = [self.tensor(leaf) for leaf in jax.tree.leaves(x)]
        self.dy = [self.tensor(leaf) for leaf in jax.tree.leaves(dy)] or None
        # Of a loss x is the prediction, or what its head takes, and a target.
        inputs = self.x[:1] if isinstance(case.layer, Loss) else self.x
        self.leaves = [leaf for leaf in inputs if leaf.is_floating_point()]
        self.params = [] if module is None else list(module.parameters())

    def laid_out(self, thing: Any) -> Any:
        axes = max((t.ndim for t in self.tensors_of(thing)), default=0)
        last = {4: torch.channels_last, 5: torch.channels_last_3d}
        if axes not in last:
            return thing
        wanted = last[axes] if self.layout == "channels_last" else torch.contiguous_format
        return thing.to(memory_format=wanted)

    @staticmethod
    def tensors_of(thing: Any) -> list[torch.Tensor]:
        return [thing] if isinstance(thing, torch.Tensor) else list(thing.parameters())

    def tensor(self, leaf: Any) -> torch.Tensor:
        if channels_move(self.case, leaf):
            leaf = np.moveaxis(leaf, -1, 1)
        return self.laid_out(on_device(np.ascontiguousarray(leaf)))

    def forward(self) -> Any:
        return self.case.call(self.module, *self.x)

    def train(self) -> tuple[Any, Any]:
        for leaf in self.leaves:
            leaf.requires_grad_(True)
        y = self.forward()
        return y, torch.autograd.grad(y, [*self.leaves, *self.params], self.dy)

    def training_loop(self, steps: int | None = None) -> tuple[Any, Any]:
        for _ in range(steps or self.steps):
            y, grads = self.train()
            if self.params:
                with torch.no_grad():
                    own = grads[len(self.leaves) :]
                    torch._foreach_add_(self.params, own, alpha=-RATE)
        return y, grads

    def infer(self) -> Any:
        with torch.inference_mode():
            return self.forward()

    def inference_loop(self, steps: int | None = None) -> Any:
        with torch.inference_mode():
            for _ in range(steps or self.steps):
                y = self.forward()
            return y

    def runs(self, steps: int | None = None) -> dict[str, Callable[[], Any]]:
        """Return what is timed of every mode, in training and out of it."""
        functions = (
            self.train,
            lambda: self.training_loop(steps),
            self.infer,
            lambda: self.inference_loop(steps),
        )
        return {
            mode: self.in_mode(function, mode)
            for mode, function in zip(MODES, functions, strict=True)
        }

    def in_mode(self, function: Callable[[], Any], mode: str) -> Callable[[], Any]:
        def run() -> Any:
            if self.module is not None:
                self.module.train(mode.startswith("training"))
            result = function()
            synchronize()
            return result

        return run


def channels_move(case: Case, leaf: Any) -> bool:
    """Tell whether the channels of an array come second there."""
    return leaf.ndim > 3 or (leaf.ndim == 3 and case.family == "convolution")


def best_layout(case: Case, module: Any, x: Any, dy: Any, steps: int) -> Theirs:
    """Return the twin in the layout in which it trains faster, of those that there are."""
    layouts = ["channels_last"]
    if any(leaf.ndim > 3 for leaf in jax.tree.leaves(x)):
        layouts.append("contiguous")
    found = []
    for layout in layouts:
        theirs = Theirs(case, module, x, dy, steps, layout)
        run = theirs.runs()["training call"]
        seconds = [once(run) for _ in range(3 if len(layouts) > 1 else 0)]
        found.append((min(seconds, default=0.0), layout))
    return Theirs(case, module, x, dy, steps, min(found)[1])


def once(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def turn(run: Callable[[], Any], parts: int) -> Callable[[], float]:
    """Return what waits, runs often enough for the clock, and returns the seconds of one part."""
    run()
    times = int(TURN / once(run)) + 1

    def timed() -> float:
        time.sleep(PAUSE)
        began = time.perf_counter()
        for _ in range(times):
            run()
        return (time.perf_counter() - began) / times / parts

    return timed


def start(case: Case, module: Any, x: Any) -> tuple[Any, Any]:
    """Return parameters and state of ours, with the weights of the module."""
    model, of = (case.layer, x)
    if isinstance(model, Loss):
        model, of = case.head or fnn.identity(), x[0]
    if module is None or not module.state_dict():
        return model.init(jax.random.key(0), of)
    weights = {name: tensor.cpu() for name, tensor in module.state_dict().items()}
    return fnn.from_torch(model, weights, of)


def our_runs(
    programs: Programs, params: Any, state: Any, x: Any, dy: Any
) -> dict[str, Callable[[], Any]]:
    """Return what is timed of every mode; a loop goes on from where the last one ended."""
    key = jax.random.key(0)
    params, state, x, dy = jax.device_put((params, state, x, dy))
    zeros = jax.tree.map(lambda spec: jnp.zeros(spec.shape, spec.dtype), (programs.y, programs.dx))
    training = jax.tree.map(jnp.copy, (params, state, x, dy, *zeros))
    inference = jax.tree.map(jnp.copy, ((params, state, x), zeros[0]))

    def training_loop() -> None:
        nonlocal training
        training = jax.block_until_ready(programs.modes["training loop"](training, key))

    def inference_loop() -> None:
        nonlocal inference
        inference = jax.block_until_ready(programs.modes["inference loop"](inference))

    def train() -> Any:
        return jax.block_until_ready(programs.modes["training call"](params, state, x, dy, key))

    def infer() -> Any:
        return jax.block_until_ready(programs.modes["inference call"](params, state, x))

    return dict(zip(MODES, (train, training_loop, infer, inference_loop), strict=True))


def check_alike(case: Case, ours: Any, theirs: Any) -> None:
    """Raise an error unless both libraries computed the same."""
    theirs = theirs if isinstance(theirs, tuple) else (theirs,)
    for here, there in zip(jax.tree.leaves(ours), theirs, strict=True):
        there = there.cpu().numpy()
        there = np.moveaxis(there, 1, -1) if channels_move(case, there) else there
        worst = np.abs(np.asarray(here) - there).max()
        if here.shape != there.shape or not worst <= CLOSE * np.abs(there).max():
            raise SystemExit(f"{case.name}: fnn and PyTorch differ by {worst}")


class Roofline:
    """What the machine does at most: copies, and products of matrices."""

    def __init__(self) -> None:
        side = 8192 if DEVICE == "cuda" else 2048
        a = torch.ones(side, side, device=DEVICE)
        here = jnp.ones((side, side))
        product = jax.jit(jnp.matmul).lower(here, here).compile()
        seconds = min(
            fastest(lambda: (torch.mm(a, a), synchronize())),
            fastest(lambda: jax.block_until_ready(product(here, here))),
        )
        self.flops = 2 * side**3 / seconds
        self.copies: dict[int, float] = {}
        self.large = 2**28 / self.copying(2**28)

    def copying(self, size: int) -> float:
        """Return the seconds of a copy that reads and writes as many bytes together."""
        half = max(size // 2, 1)
        if half not in self.copies:
            source = torch.ones(half, dtype=torch.uint8, device=DEVICE)
            target = torch.empty_like(source)
            # Copies in a row, as a GPU takes them: waiting for each would be what is measured.
            count = int(1e-3 * 1e10 / size) + 1

            def run() -> None:
                for _ in range(count):
                    target.copy_(source)
                synchronize()

            self.copies[half] = fastest(run) / count
        return self.copies[half]

    def seconds(self, moved: int, operations: float) -> float:
        return max(self.copying(moved), operations / self.flops)

    def __str__(self) -> str:
        return f"{self.large / 1e9:.1f} GB/s copied, {self.flops / 1e9:.0f} GFLOP/s multiplied"


class Floor:
    """What a call costs, whatever it computes."""

    def __init__(self) -> None:
        self.call = self.calling(negative(1))
        sizes = (2**power for power in range(10, 21))
        least = next((size for size in sizes if SHARED in negative(size).as_text()), None)
        # Half of it, by one core, takes as long as the whole by two, less what sharing costs.
        self.shared = 0.0
        if least is not None:
            whole, half = self.calling(negative(least)), self.calling(negative(least // 2))
            self.shared = max(whole - half, 0.0)
        one = torch.ones(1, device=DEVICE)
        with torch.inference_mode():
            self.other = median_of(lambda: (one.neg(), synchronize()))

    @staticmethod
    def calling(program: Any) -> float:
        x = jnp.ones(program.in_avals[0][0].shape)
        return median_of(lambda: jax.block_until_ready(program(x)))

    def seconds(self, program: Any, parts: int) -> float:
        """Return the least of a part of a program, by the kernels in its text that are shared."""
        return self.call / parts + self.shared * program.as_text().count(SHARED)

    def __str__(self) -> str:
        here, shared, there = (1e6 * s for s in (self.call, self.shared, self.other))
        return (
            f"a call of nothing takes {here:.1f} us, {there:.1f} in PyTorch; to share a kernel"
            f" among cores takes {shared:.1f} us"
        )


def negative(size: int) -> Any:
    """Compile a program of one kernel."""
    return jax.jit(jnp.negative).lower(jax.ShapeDtypeStruct((size,), jnp.float32)).compile()


def median_of(run: Callable[[], Any]) -> float:
    timed = turn(run, 1)
    return median(timed() for _ in range(9))


def fastest(run: Callable[[], Any]) -> float:
    run()
    return min(once(run) for _ in range(5))


def in_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def moved(case: Case, mode: str, params: Any, x: Any, y: Any, dx: Any) -> int:
    """Count bytes that must be read or written: inputs, parameters, results, once each."""
    # Of an embedding only the rows that are asked for are read.
    weights = in_bytes(y) if case.family == "embedding" else in_bytes(params)
    read_and_written = in_bytes(x) + weights + in_bytes(y)
    if mode.startswith("training"):
        dy = 0 if isinstance(case.layer, Loss) else in_bytes(y)
        read_and_written += dy + in_bytes(dx) + in_bytes(params)
    return read_and_written


def rows_of(
    case: Case,
    shape: Shape,
    programs: Programs,
    steps: int,
    rounds: int,
    limits: tuple[Roofline, Floor],
) -> list[Row]:
    roofline, floor = limits
    module = case.module(shape)
    module = module if module is None else module.to(DEVICE)
    x = x_of(case, shape)
    params, state = start(case, module, x)
    random = np.random.default_rng(1)
    dy: Any = ()
    if not isinstance(case.layer, Loss):
        dy = jax.tree.map(lambda s: random.normal(size=s.shape).astype(s.dtype), programs.y)
    theirs = best_layout(case, module, x, dy, steps)
    here, there = our_runs(programs, params, state, x, dy), theirs.runs()
    check_alike(case, here["inference call"](), there["inference call"]())
    parts = dict(zip(MODES, (1, steps, 1, steps), strict=True))
    peaks = peak_bytes(theirs.runs(2))
    rows = []
    for mode in MODES[:2] if case.family == "noise" else MODES:
        turns = {"ours": turn(here[mode], parts[mode]), "other": turn(there[mode], parts[mode])}
        seconds = interleaved(turns, rounds)
        training = mode.startswith("training")
        least = roofline.seconds(
            moved(case, mode, params, x, programs.y, programs.dx),
            case.products(shape) * (3 if training else 1),
        )
        results = (
            (programs.y, programs.dx, params)
            if mode == MODES[0]
            else ((programs.y, programs.dx) if training else programs.y)
        )
        analysis = programs.modes[mode].memory_analysis()
        own = (analysis.temp_size_in_bytes if analysis else 0) + in_bytes(results)
        row = compared(case.name, "x".join(map(str, shape)), seconds["ours"], seconds["other"])
        rows.append(
            row
            | {
                "family": case.family, "mode": mode, "layout": theirs.layout,
                "floor_ms": 1e3 * floor.seconds(programs.modes[mode], parts[mode]),
                "roofline_ms": 1e3 * least,
                "of_roofline": least / median(seconds["ours"]),
                "other_of_roofline": least / median(seconds["other"]),
                "memory_ratio": own / peaks[mode] if peaks[mode] else None,
                "ours_bytes": own, "other_bytes": peaks[mode],
                "ours_seconds": seconds["ours"], "other_seconds": seconds["other"],
            }
        )  # fmt: skip
    return rows


def sized(case: Case) -> list[tuple[Case, Shape, int]]:
    """Return both sizes of a case, with the steps of their loops."""
    small, large = case.sizes
    if DEVICE != "cpu":
        large = (ACCELERATOR_BATCH * large[0], *large[1:])
    return [(case, small, STEPS[False]), (case, large, STEPS[True])]


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def summarize(rows: Sequence[Row]) -> None:
    for mode in MODES:
        own = [row for row in rows if row["mode"] == mode]
        if own:
            mean, share, other = (
                geometric_mean([row[column] for row in own])
                for column in ("time_ratio", "of_roofline", "other_of_roofline")
            )
            print(
                f"{mode}: geometric mean of time {mean:.3f} over {len(own)} rows; the roofline is"
                f" {share:.2f} of the time of fnn, {other:.2f} of that of PyTorch"
            )
    for row in sorted(rows, key=lambda row: -row["time_ratio"]):
        if row["time_ratio"] > WORDS:
            print(
                f"{row['name']} {row['size']}, {row['mode']}: {row['time_ratio']:.2f} times the"
                f" time; {row['of_roofline']:.2f} of the roofline, PyTorch"
                f" {row['other_of_roofline']:.2f}; {row['floor_ms'] / row['ours_ms']:.2f} of it"
                " is dispatch"
            )


def compiled(
    cases: Sequence[tuple[Case, Shape, int]],
) -> Mapping[tuple[str, Shape], Programs]:
    """Compile the programs of all cases, as many at a time as there are cores."""
    with ThreadPoolExecutor(cores()) as pool:
        programs = pool.map(lambda one: programs_of(*one), cases)
        names = [(case.name, shape) for case, shape, _ in cases]
        return dict(zip(names, watched(programs), strict=True))


def main() -> None:
    options = arguments(__doc__, rounds=5)
    at_its_best()
    roofline, floor = Roofline(), Floor()
    print(f"{machine()}, torch {torch.__version__} on {DEVICE}, {torch.get_num_threads()} threads")
    print(f"{roofline}; {floor}\n")
    cases = [one for case in CASES if picked(case.name, options) for one in sized(case)]
    began = time.perf_counter()
    programs = compiled(cases)
    print(f"compiled in {time.perf_counter() - began:.0f} s")
    rows: list[Row] = []
    try:
        for case, shape, steps in watched(cases):
            own = programs[case.name, shape]
            rows += rows_of(case, shape, own, steps, options.rounds, (roofline, floor))
    finally:
        # What has been measured is not lost by what fails.
        report(rows, COLUMNS)
        print()
        summarize(rows)
        write(rows, options.json)


if __name__ == "__main__":
    main()
