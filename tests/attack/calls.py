"""Bad and odd arguments for every public constructor and function: refused in words, or right.

The law: a call raises `InputError`, or what it gives works, is finite, and is what the same call
computes in float64. Never another exception, and never silence: an argument that the signature does
not admit is refused.

    python -m tests.attack.calls --count 20000
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import enum
import inspect
import math
import random
import re
import tempfile
import types
import typing
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from fnn import landscapes, losses, optim
from fnn._core.description import Described
from fnn._core.tree import inexact_leaves
from fnn.cli import run as one_run
from fnn.cli.data import problem
from fnn.cli.settings import Settings
from fnn.lab.check import normal_like
from fnn.optim import distributions, schedule
from fnn.optim.transforms import constraint
from tests import cases
from tests.cases.optimizers import OPTIMIZERS
from tests.layers.test_laws import widen
from tests.optim.test_noise import CASES as NOISES
from tests.tolerance import rounding

KEY = jax.random.key(5)
X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
LABELS = np.array([0, 1, 1, 0, 1, 0])
MODEL = fnn.serial(fnn.dense(4), fnn.tanh(), fnn.dense(2))
LOSS, SGD = losses.cross_entropy(), optim.sgd(0.1)
PARAMS, STATE = MODEL.init(KEY, X)

ODD: dict[str, Any] = {
    "None": None, "True": True, "False": False, "numpy True": np.bool_(True),
    "no text": "", "text": "x", "number as text": "0.5", "bytes": b"x",
    "-1": -1, "0": 0, "1": 1, "2": 2, "3": 3, "7": 7, "10**400": 10**400,
    "-0.0": -0.0, "0.5": 0.5, "1.0": 1.0, "1.5": 1.5, "-0.5": -0.5, "nan": float("nan"),
    "inf": float("inf"), "-inf": float("-inf"), "1e300": 1e300, "1e-300": 1e-300, "1e6": 1e6,
    "complex": 1j, "complex of 0.5": 0.5 + 0j, "()": (), "(1,)": (1,), "(2, 2)": (2, 2),
    "(1, 2, 3)": (1, 2, 3), "(0,)": (0,), "(-1,)": (-1,), "(None,)": (None,), "(2.0,)": (2.0,),
    "('x',)": ("x",), "[]": [], "[2, 2]": [2, 2], "{}": {}, "{'a': 1}": {"a": 1}, "{1, 2}": {1, 2},
    "object": object(), "float32 0.5": np.float32(0.5), "float32 -1": np.float32(-1),
    "float32 nan": np.float32("nan"), "int64 2": np.int64(2), "int8 3": np.int8(3),
    "uint8 200": np.uint8(200), "float16 0.5": np.float16(0.5), "jax 0.5": jnp.float32(0.5),
    "jax 2": jnp.int32(2), "jax nan": jnp.float32("nan"), "bfloat16 0.5": jnp.bfloat16(0.5),
    "complex64": np.complex64(1j), "array of 1": np.array([0.5]), "array of 2": np.array([1, 2]),
    "matrix": np.ones((2, 2), "float32"), "jax array": jnp.ones(3), "empty array": jnp.zeros((0,)),
    "text array": np.array("x"), "object array": np.array([None, 1], object),
    "masked array": np.ma.masked_array([1.0, 2.0], [True, False]),
    "big-endian": np.ones(2, ">f4"), "datetime": np.datetime64("2020-01-01"),
    "a key": KEY, "two keys": jax.random.split(KEY), "old key": jax.random.PRNGKey(0),
    "class": int, "uncalled layer": fnn.relu, "layer": fnn.relu(), "optimizer": SGD,
    "loss": LOSS, "schedule": schedule.cosine(0.1, 5), "Ellipsis": ..., "slice": slice(1),
    "range": range(2), "module": types, "shape": jax.ShapeDtypeStruct((2, 3), "float32"),
}  # fmt: skip


class Verdict(enum.Enum):
    """What came of a call."""

    REFUSED = "refused"
    RIGHT = "right"
    OPAQUE = "another exception"
    SILENT = "accepted what the signature does not admit"
    NOT_FINITE = "not finite"
    WRONG = "not what float64 gives"


class Target(NamedTuple):
    """A function, arguments with which it works, and what to do with its result."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    exercise: Callable[[Any], None]
    # Arguments that are numbers of a user's data, which may be anything as long as it is said.
    data: tuple[str, ...] = ()

    def bound(self) -> dict[str, Any]:
        """The arguments by the names of the parameters, all that have a default included."""
        found = inspect.signature(self.function).bind(*self.args, **self.kwargs)
        found.apply_defaults()
        return dict(found.arguments)

    def call(self, changed: str, value: Any) -> Any:
        """Call the function with one argument changed."""
        kinds = {n: p.kind for n, p in inspect.signature(self.function).parameters.items()}
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for name, usual in self.bound().items():
            here = value if name == changed else usual
            if kinds[name] is inspect.Parameter.VAR_POSITIONAL:
                args += (here, *usual[1:]) if name == changed else usual
            elif kinds[name] is inspect.Parameter.VAR_KEYWORD:
                kwargs |= usual
            elif kinds[name] is inspect.Parameter.KEYWORD_ONLY:
                kwargs[name] = here
            else:
                args.append(here)
        return self.function(*args, **kwargs)


class WrongError(Exception):
    """A result that is not finite, or not that of float64."""

    def __init__(self, verdict: Verdict, text: str):
        super().__init__(text)
        self.verdict = verdict


def finite(tree: Any, what: str) -> None:
    for leaf in jax.tree.leaves(tree):
        known = isinstance(leaf, jax.Array | np.ndarray | np.generic | float)
        known = known and jnp.issubdtype(getattr(leaf, "dtype", float), jnp.floating)
        if known and not np.isfinite(np.asarray(leaf, np.float64)).all():
            raise WrongError(Verdict.NOT_FINITE, what)


def alike(narrow: Any, wide: Any, what: str) -> None:
    """Raise unless two trees agree to the rounding of float32, on the scale of the whole."""
    pairs = list(zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True))
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs]
    scale = max([np.abs(b).max(initial=0) for _, b in pairs], default=0) or 1
    # Below its smallest number float32 has 0: what 200 layers of a GRU make of x is as small.
    allowed = rounding(jnp.float32, 10_000) * scale + float(jnp.finfo(jnp.float32).tiny)
    for a, b in pairs:
        if np.abs(a - b).max(initial=0) > allowed:
            raise WrongError(Verdict.WRONG, what)


def run_layer(case: cases.LayerCase) -> Callable[[fnn.Layer], None]:
    """Return what runs a layer there and back in float32, and out of training in float64 too."""
    shape = next(iter(case.shapes.values()))
    drawn = jax.tree.map(np.asarray, case.draw(np.random.default_rng(3), shape))

    def narrow(a: Any) -> Any:
        kind = "float32" if np.issubdtype(a.dtype, np.floating) else "int32"
        return jnp.asarray(a, a.dtype if a.dtype == bool else kind)

    def exercise(layer: Any) -> None:
        x = jax.tree.map(narrow, drawn)
        params, state = layer.init(KEY, x)
        y, _, residuals = layer.forward(params, state, x, key=KEY, train=True)
        finite((y, layer.backward(params, residuals, normal_like(KEY, inexact_leaves(y)))), "y, dx")
        y = layer.apply(params, state, x)[0]
        with jax.enable_x64(True):
            alike(y, layer.apply(*map(widen, (params, state, x)))[0], "y")

    return exercise


def run_loss(case: cases.LossCase) -> Callable[[losses.Loss], None]:
    def exercise(loss: Any) -> None:
        drawn = case.draw(np.random.default_rng(3))
        y = jax.tree.map(lambda a: jnp.asarray(a, "float32"), drawn)
        value, residuals = loss.forward(y, case.target)
        finite((value, loss.backward(residuals, jnp.ones_like(value))), "value and gradient")
        with jax.enable_x64(True):
            alike(value, loss.apply(widen(y), case.target), "value")

    return exercise


TREE = {"weight": jnp.asarray(X[:4, :2]), "bias": jnp.array([0.3, -0.2])}
GRADS = {"weight": jnp.asarray(X[2:, 1:]), "bias": jnp.array([-0.1, 0.4])}


def quadratic(params: Any) -> Any:
    """The value of a toy objective, with nothing beside it, and its gradient."""
    value = sum(jnp.sum(a**2) for a in jax.tree.leaves(params))
    return (value, ()), jax.tree.map(lambda a: 2 * a, params)


def run_optimizer(optimizer: Any) -> None:
    state, params = optimizer.init(TREE), TREE
    for _ in range(2):
        if getattr(optimizer, "step", None) is None:
            updates, state = optimizer.update(GRADS, state, params)
        else:
            _, updates, state = optim.take_step(optimizer, quadratic, params, state)
            updates = jax.tree.map(jnp.negative, updates)
        params = jax.tree.map(lambda p, u: p - u, params, updates)
    finite(params, "parameters after two steps")


def run_schedule(made: Any) -> None:
    finite([jnp.asarray(made(jnp.int32(step))) for step in (0, 1, 5, 1000)], "values")


def nothing(result: Any) -> None:
    del result


def of_record(name: str, record: Described, exercise: Callable[[Any], None]) -> list[Target]:
    """Return the call that made a record, where it is one of fnn."""
    call = record.call
    if call is None or not call.make.__module__.startswith("fnn."):
        return []
    return [Target(name, call.make, tuple(call.args), dict(call.kwargs), exercise)]


def constructors() -> list[Target]:
    """Return every public constructor with the settings of its cases."""
    found: list[Target] = []
    for layer in cases.LAYERS:
        found += of_record(f"layer {layer.name}", layer.make(), run_layer(layer))
    for loss in cases.LOSSES:
        found += of_record(f"loss {loss.name}", loss.make(), run_loss(loss))
    for rule in OPTIMIZERS:
        found += of_record(f"optimizer {rule.name}", rule.make(rule.value), run_optimizer)
    for noisy in NOISES:
        with contextlib.suppress(TypeError):
            found += of_record(f"noise {noisy.name}", noisy.make(noisy.strength), run_optimizer)
    for made in SCHEDULES:
        found += of_record(f"schedule {made}", made, run_schedule)
    for rule in MORE_OPTIMIZERS:
        found += of_record(f"optimizer {rule}", rule, run_optimizer)
    for record in OTHERS:
        found += of_record(f"{type(record).__name__} {record}", record, nothing)
    return found


SCHEDULES = (
    schedule.constant(0.1), schedule.cosine(0.1, 10), schedule.exponential(0.1, 0.5, 3),
    schedule.step_decay(0.1, 0.5, 3), schedule.piecewise_constant([0.1, 0.01], [3]),
    schedule.polynomial(0.1, 0.0, 10), schedule.inverse_time(0.1, 10),
    schedule.one_cycle(0.1, 10), schedule.cyclic(0.01, 0.1, 4),
    schedule.warm_up(3, schedule.constant(0.1)),
    schedule.join([schedule.constant(0.1), schedule.constant(0.01)], [3]),
)  # fmt: skip
MORE_OPTIMIZERS = (
    *(optim.ema(0.9), optim.lookahead(3, 0.5), optim.sam(0.05), optim.reduce_on_plateau(0.5, 3)),
    *(optim.project(constraint.ball(1.0)), optim.perturbed(SGD, 0.1, key=KEY)),
    *(optim.weight_noise(0.1, key=KEY), optim.unstack(SGD, "weight")),
)
OTHERS = (
    *(fnn.parallel(fnn.relu(), fnn.tanh()), fnn.over_parts(fnn.relu(), fnn.tanh())),
    *(fnn.reversible(fnn.tanh(), fnn.relu(), 2), fnn.positionwise(fnn.relu())),
    *(fnn.use_auto(fnn.relu()), fnn.use_manual(fnn.relu()), fnn.mixed_precision(fnn.relu())),
    fnn.dp_sgd(1.0, 1.0, at_once=2),
    *(distributions.student(4.0), distributions.gaussian(), fnn.label_noise(std=0.1)),
    *(constraint.box(-1.0, 1.0), constraint.ball(1.0), constraint.max_norm(1.0)),
    *(constraint.sphere(1.0), constraint.simplex(1.0)),
    *(landscapes.quadratic(), landscapes.double_well(), landscapes.rastrigin()),
    landscapes.octopus(),
)


def finite_result(result: Any) -> None:
    finite(result, "result")


def of(function: Callable[..., Any], *args: Any, data: str = "", **kwargs: Any) -> Target:
    """Return the target of a call with arguments that work, those of the user's numbers named."""
    name = getattr(function, "__qualname__", type(function).__name__).partition(".<locals>")[0]
    return Target(name, function, args, kwargs, finite_result, tuple(data.split()))


def functions(folder: Path) -> list[Target]:
    """Return the public functions that make no record, with arguments that work."""
    found = training(folder) + looking() + others(folder) + pictures(folder) + running(folder)
    return found + records(folder) + kept(folder) + widely()


def training(folder: Path) -> list[Target]:
    """Return the functions that train and use a model, and keep what it learned."""
    batch, place = (X, LABELS), "params state"
    files = [folder / f"saved{i}.safetensors" for i in range(2)]
    train_state = fnn.init_train_state(MODEL, SGD, X, key=KEY)
    fnn.save_weights(files[0], PARAMS, STATE)
    fnn.save_train_state(files[1], train_state)
    normed = fnn.serial(fnn.batch_norm(), fnn.dense(2))
    words = fnn.serial(fnn.embedding(5, 4), fnn.dense(5))
    tokens = np.array([[0, 1, 2]])
    talk = words, *words.init(KEY, tokens), tokens, 2
    pairs = fnn.serial(
        fnn.over_memory(fnn.embedding(5, 4)),
        fnn.over_query(fnn.embedding(5, 4)),
        fnn.residual_cross(fnn.attention(2)),
        fnn.take_query(),
        fnn.dense(5),
    )
    told = pairs, *pairs.init(KEY, (tokens, tokens)), tokens, 2
    few = {"epochs": 1, "batch_size": 3, "key": KEY}
    return [
        of(fnn.fit, MODEL, LOSS, SGD, batch, **few, validation=batch, data="data validation"),
        of(fnn.evaluate, MODEL, LOSS, PARAMS, STATE, batch, data=f"{place} data"),
        of(fnn.predict, MODEL, PARAMS, STATE, X, data=f"{place} x"),
        of(fnn.generate, *talk, key=KEY, data=place),
        of(fnn.generate_stream, *talk, key=KEY, data=place),
        of(fnn.generate, *told, key=KEY, source=tokens, data=f"{place} source"),
        of(fnn.init_train_state, MODEL, SGD, X, key=KEY, data="x"),
        of(fnn.train_step, MODEL, LOSS, SGD),
        of(fnn.train_step(MODEL, LOSS, SGD), train_state, batch, data="train_state batch"),
        of(fnn.value_and_grad, MODEL, LOSS),
        of(fnn.value_and_grad(MODEL, LOSS), PARAMS, STATE, batch, data=place),
        of(fnn.update_batch_norm, normed, *normed.init(KEY, X), [X], data=f"{place} batches"),
        of(fnn.accuracy, X, LABELS, data="prediction target"),
        of(losses.mean, jnp.ones(4), jnp.ones(4), data="values weights"),
        of(fnn.save_weights, folder / "more.safetensors", PARAMS, STATE, data=place),
        of(fnn.load_weights, files[0], (PARAMS, STATE), data="like"),
        of(fnn.save_train_state, folder / "state.safetensors", train_state, data="train_state"),
        of(fnn.export_onnx, folder / "model.onnx", MODEL, PARAMS, STATE, X, data=f"{place} x"),
        of(fnn.load_train_state, files[1], train_state, data="like"),
        of(fnn.privacy_spent, 1.0, 10, 100, 10, 1e-5),
    ]


def looking() -> list[Target]:
    """Return the functions that look into a layer or a model."""
    batch, place, dense = (X, LABELS), "params state", fnn.dense(2)
    tensors = {"weight": np.ones((2, 3), "float32"), "bias": np.ones(2, "float32")}
    return [
        of(fnn.summary, MODEL, X, data="x"),
        of(fnn.lab.layer_shapes, MODEL, PARAMS, STATE, X, data=f"{place} x"),
        of(fnn.check_layer, dense, X, data="x"),
        of(fnn.compare, dense, LOSS, *dense.init(KEY, X), batch, key=KEY, costs=False, data=place),
        of(fnn.trace_activations, MODEL, LOSS, PARAMS, STATE, batch, key=KEY, data=place),
        of(fnn.tune, fnn.tanh(), losses.squared_error(), (X, X), key=KEY, by="bytes"),
        of(fnn.lab.measure, fnn.tanh(), X, key=KEY, rounds=1, data="x"),
        of(fnn.lab.rounding, "float32", 10),
        of(fnn.lab.difference, "float64", 10, data="doubt"),
        of(fnn.lab.in_bytes, 2048),
        of(fnn.from_torch, dense, tensors, X, names={"": ""}, data="weights x"),
        of(fnn.export_forward, MODEL, PARAMS, STATE, X, any_batch=False, data=f"{place} x"),
        of(fnn.children, MODEL),
        of(fnn.map_layers, lambda path, layer: layer, MODEL),
    ]


def others(folder: Path) -> list[Target]:
    """Return the functions of optimizers, landscapes, data and pictures."""
    history = fnn.History(np.array([2.3, 1.0]), np.array([1.5]), {}, 0.0, 0.0)
    state, numbers = SGD.init(TREE), folder / "numbers"
    numbers.write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 2, 5, 7)))
    return [
        of(optim.global_norm, TREE, data="tree"),
        of(optim.eval_params, state, TREE, data="opt_state params"),
        of(optim.take_step, SGD, quadratic, TREE, state, data="params state"),
        of(landscapes.descend, SGD, landscapes.saddle(), (0.1, 0.2), 3, data="start"),
        of(fnn.plot.curves, history, data="history"),
        of(fnn.plot.filters, np.ones((3, 3, 1, 4), "float32"), data="weight"),
        of(fnn.datasets.read_idx, numbers, data="path"),
        of(fnn.datasets.text, None, 100, data="file"),
        of(fnn.datasets.byte_pairs, None, 300, vocabulary=270, data="file"),
        of(fnn.datasets.spirals, 10, key=KEY),
        of(fnn.datasets.clouds, 10, key=KEY),
        of(fnn.datasets.xor, 10, key=KEY),
        of(fnn.datasets.sine, 10, key=KEY),
    ]


def pictures(folder: Path) -> list[Target]:
    """Return the functions that draw, each with something to draw."""
    import matplotlib as mpl
    import matplotlib.figure

    # A figure for every call: none of them is shown.
    mpl.use("Agg")
    batch, place, plot = (X, LABELS), "params state", fnn.plot
    history = fnn.History(
        np.array([2.3, 1.0]), np.array([1.5]), {"loss": np.array([1.2])}, 0.0, 0.0
    )
    drawn = fnn.graph(lambda w, x: jnp.tanh(w * x), 2.0, 3.0)
    trace = fnn.trace_activations(MODEL, LOSS, PARAMS, STATE, batch, key=KEY)
    image = np.ones((4, 4), "float32")
    flat = fnn.serial(fnn.dense(3), fnn.tanh(), fnn.dense(2))
    plane = X[:, :2]
    path = landscapes.descend(SGD, landscapes.saddle(), (0.1, 0.2), 3)

    def line(height: float) -> Any:
        figure = mpl.figure.Figure()
        figure.suptitle(f"{height}")
        return figure

    swept = fnn.train.Sweep(
        [{"rate": rate, "size": size} for rate in (0.1, 1.0) for size in (4, 8)],
        [history] * 4,
        [],
        1,
    )
    return [
        of(fnn.graph, MODEL, LOSS, PARAMS, STATE, batch, data="args"),
        of(fnn.check_loss, losses.huber(), X, X + 0.3, data="prediction target"),
        of(fnn.lab.check_answer, 1.0, 1.5, {"half": 0.5}, data="answer right mistakes"),
        of(plot.activation_functions, {"tanh": fnn.tanh()}, -2.0, 2.0),
        of(plot.activations, {"first": trace}, data="traces"),
        of(plot.batch_histograms, {"x": X}, data="values"),
        of(plot.confusion_matrix, LABELS, LABELS, ["a", "b"], data="labels predictions"),
        of(plot.descent, landscapes.saddle(), {"sgd": path}, (-1, -1), (1, 1), data="paths"),
        of(plot.dropout_masks, fnn.dropout(0.5), X[0], key=KEY, data="x"),
        of(plot.feature_maps, np.ones((4, 4, 2), "float32"), image, data="y image"),
        of(plot.graph, drawn),
        of(plot.graph_page, drawn, folder / "graph.html"),
        of(plot.loss_functions, {"squared": losses.squared_error()}),
        of(plot.predictions, np.stack([image] * 6), LABELS, np.full((6, 2), 0.5, "float32"),
           data="images labels probabilities"),
        of(plot.recurrence, {"rnn": X}, data="gradients"),
        of(plot.regions, flat, *flat.init(KEY, plane), plane, LABELS, data=f"{place} x labels"),
        of(plot.show, line, {"height": (0.1, 1.0)}, start={"height": 1.0}),
        of(plot.slider_page, line, "height", (0.1, 1.0), folder / "line.html", title="A line"),
        of(plot.sweep, {"one": history}, data="histories"),
        of(plot.parallel_coordinates, swept, "loss"),
        of(plot.heat_map, swept, "rate", "size", "loss"),
    ]  # fmt: skip


def running(folder: Path) -> list[Target]:
    """Return what goes on beside a run: sweeps, their points, and callbacks."""
    batch, train, calls = (X, LABELS), fnn.train, fnn.train.callbacks
    changes, images = train.transforms, (np.ones((2, 4, 4), "float32"), np.zeros(2))
    axes = {"learning_rate": train.between(0.1, 1.0, log=True)}
    few = {"epochs": 1, "batch_size": 3}
    train_state = fnn.init_train_state(MODEL, SGD, X, key=KEY)

    def build(learning_rate: float) -> Any:
        return MODEL, LOSS, optim.sgd(learning_rate)

    def fit_with(callback: Any) -> None:
        fnn.fit(MODEL, LOSS, SGD, batch, **few, validation=batch, key=KEY, callbacks=[callback])

    def called(target: Target) -> Target:
        return target._replace(exercise=fit_with)

    def transforming(target: Target) -> Target:
        return target._replace(exercise=lambda made: made(images, KEY, jnp.int32(0)))

    return [
        of(fnn.sweep, build, {"learning_rate": [0.1], "seed": [0]}, batch, **few, data="data"),
        of(train.between, 0.1, 1.0, log=True),
        of(train.grid, {"a": [1, 2]}, data="axes"),
        of(train.random_points, axes, 3, key=KEY),
        of(train.sobol_points, axes, 4, key=KEY),
        of(train.find_learning_rate, MODEL, LOSS, SGD, batch, key=KEY, batch_size=3, data="data"),
        called(of(calls.every, print_nothing, steps=1)),
        called(of(calls.early_stopping, metric="loss", patience=1)),
        called(of(fnn.plot.live_curves, folder / "curves.png", seconds=1)),
        called(of(calls.roll_back, factor=0.5)),
        called(of(calls.reduce_on_plateau, factor=0.5, patience=1)),
        called(of(calls.log_tensorboard, folder / "events")),
        called(of(calls.log_csv, folder / "log.csv")),
        called(of(calls.log_json, folder / "log.jsonl")),
        called(of(calls.checkpoint, folder / "checkpoints", steps=1)),
        transforming(of(changes.random_flip, 0.5, axis="height")),
        transforming(of(changes.random_crop, 1)),
        transforming(of(changes.cutout, 2)),
        transforming(of(changes.input_noise, 0.1)),
        transforming(of(changes.compose, changes.cutout(1), changes.input_noise(0.1))),
        of(calls.learning_rates, train_state, None),
        of(calls.scale_learning_rate, train_state, 0.5),
        of(fnn.merge_lora, fnn.lora(MODEL, 1).init(KEY, X)[0], data="params"),
        of(fnn.networks.resnet, (1, 1), 3, width=4, stem="cifar"),
        of(fnn.networks.vit, 3, image=8, patch=4, width=8, depth=1, heads=2),
    ]


def records(folder: Path) -> list[Target]:
    """Return the records that users make of functions of their own, and what writes for a run."""
    dense, sgd, hill = fnn.dense(2), optim.sgd(0.1), landscapes.saddle()
    loss = losses.squared_error()

    def closing(target: Target) -> Target:
        return target._replace(exercise=lambda made: made.close())

    return [
        of(fnn.Layer, *dense),
        of(losses.Loss, loss.apply, loss.forward, loss.backward, loss.check),
        of(optim.Optimizer, sgd.init, sgd.update),
        of(fnn.Estimator, fnn.dp_sgd(1.0, 1.0).of),
        of(landscapes.Landscape, hill.height, hill.minima, hill.low, hill.high),
        of(fnn.train.transforms.BatchTransform, fnn.train.transforms.cutout(1).change),
        of(schedule.Schedule, lambda step: 0.1)._replace(exercise=run_schedule),
        of(distributions.Distribution, 1, distributions.uniform().numbers, "free"),
        of(constraint.Constraint, constraint.ball(1.0).nearest),
        of(fnn.constructor, fnn.optim.sgd),
        of(fnn.eval_mode, fnn.dropout(0.5)),
        of(fnn.concatenate, -1),
        closing(of(fnn.train.Checkpoints, folder / "several", keep=1, model=dense)),
        closing(of(fnn.train.ShardedCheckpoints, folder / "sharded", keep=1)),
    ]


def made_run(folder: Path) -> Path:
    """Return the folder of a run of the command line that has ended, without running it."""
    chosen = Settings("xor", hidden=(2,), output=folder)
    job = one_run.assemble(problem("xor", None, 0), chosen)
    one_run.write_record(one_run.open_folder(job) / one_run.RECORD, job, {"loss": 0.5})
    fnn.save_weights(folder / one_run.WEIGHTS, *job.model.init(KEY, X[:, :2]))
    return folder


def kept(folder: Path) -> list[Target]:
    """Return what is asked of files and folders of a run, and of what was measured."""
    train, state = fnn.train, fnn.init_train_state(MODEL, SGD, X, key=KEY)
    with train.Checkpoints(folder / "kept", keep=1, best="lowest") as checkpoints:
        checkpoints.save(state, score=0.5)
    file = train.latest_checkpoint(folder / "kept")
    guarded = optim.skip_nonfinite(SGD)
    way = fnn.lab.Way((1.0,), 0.1, 8, 8, 1.0)
    compared = fnn.compare(MODEL, LOSS, PARAMS, STATE, (X, LABELS), key=KEY, costs=False)

    run = made_run(folder / "run")

    def written(target: Target) -> Target:
        return target._replace(exercise=write_nothing)

    return [
        of(fnn.load_run, run),
        of(fnn.load_run(run).predict, X[:, :2], data="x"),
        of(train.checkpoint_info, file),
        of(train.latest_checkpoint, folder / "kept"),
        of(train.best_checkpoint, folder / "kept"),
        of(train.output_folder, folder / "out"),
        written(of(train.atomic_write, folder / "whole.txt")),
        of(fnn.datasets.fashion_mnist, folder),
        of(optim.nonfinite_leaf, TREE, guarded.init(TREE), data="params state"),
        of(fnn.plot.gradients, compared, data="comparison"),
        of(fnn.plot.save, fnn.plot.curves(fnn.History(np.ones(2), np.ones(1), {}, 0.0, 0.0)),
           folder / "curves.svg"),
        of(fnn.lab.choose, fnn.lab.Measurement(way, way), "bytes"),
        of(fnn.lab.table, ["name", "size"], [["weight", "12"]], width=20),
        of(fnn.lab.interleaved, {"one": nothing_done}, 2),
        of(fnn.lab.both_ways, {"one": jnp.tanh}, (X,), {"one": 0}, 1),
    ]  # fmt: skip


def widely() -> list[Target]:
    """Return what concerns many devices, and programs for elsewhere."""
    mesh, batch, train = jax.make_mesh((1,), ("data",)), (X, LABELS), fnn.train
    step, state = fnn.train_step(MODEL, LOSS, SGD), fnn.init_train_state(MODEL, SGD, X, key=KEY)
    few = {"any_batch": False, "platforms": ("cpu",)}
    return [
        of(train.shard, PARAMS, mesh, "full", data="params"),
        of(train.tensor_parallel, fnn.transformer_block(2), "model"),
        of(fnn.lab.plan, MODEL, LOSS, SGD, batch, data="batch"),
        of(fnn.export_step, step, state, batch, **few, data="train_state batch"),
    ]


def write_nothing(made: Any) -> None:
    with made as temporary:
        temporary.write_text("whole")


def nothing_done() -> None:
    pass


def print_nothing(event: Any) -> None:
    del event


# Trees that are nearly those of a model, made of the right one.
ALTERED: dict[str, Callable[[Any], Any]] = {
    "lists for tuples": lambda tree: list(tree) if isinstance(tree, tuple) else tree,
    "a leaf of NumPy": lambda tree: change_leaf(tree, np.asarray),
    "a leaf short": lambda tree: change_leaf(tree, lambda leaf: None),
    "a leaf of one more axis": lambda tree: change_leaf(tree, lambda leaf: leaf[None]),
    "a leaf transposed": lambda tree: change_leaf(tree, lambda leaf: leaf.T),
    "a leaf of integers": lambda tree: change_leaf(tree, lambda leaf: leaf.astype(int)),
    "a leaf of text": lambda tree: change_leaf(tree, lambda leaf: "x"),
    "a leaf of complex numbers": lambda tree: change_leaf(
        tree, lambda leaf: leaf.astype("complex64")
    ),
    "a leaf in bfloat16": lambda tree: change_leaf(tree, lambda leaf: leaf.astype("bfloat16")),
    "a big-endian leaf": lambda tree: change_leaf(tree, lambda leaf: np.asarray(leaf, ">f4")),
    "a leaf of shape alone": lambda tree: change_leaf(
        tree, lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    ),
    "in another tree": lambda tree: {"inside": tree},
}


def is_tree_of_arrays(value: Any) -> bool:
    leaves = jax.tree.leaves(value) if isinstance(value, dict | tuple) else []
    return bool(leaves) and all(hasattr(leaf, "dtype") for leaf in leaves)


def change_leaf(tree: Any, change: Callable[[Any], Any]) -> Any:
    """Return a tree with its largest leaf changed."""
    leaves, structure = jax.tree.flatten(tree)
    if leaves:
        at = max(range(len(leaves)), key=lambda i: np.size(leaves[i]))
        leaves[at] = change(leaves[at])
    return jax.tree.unflatten(structure, leaves)


def admitted(hint: Any, value: Any) -> bool:
    """Say whether an annotation that is a flag, a count, a number or a choice admits a value."""
    if isinstance(value, jax.Array | np.generic | np.ndarray) and getattr(value, "shape", 1) == ():
        if not any(jnp.issubdtype(value.dtype, kind) for kind in (np.bool_, np.number)):
            return False
        value = np.asarray(value, np.float64).item() if _is_wide(value) else value.item()
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        known = isinstance(value, int | float) and not isinstance(value, bool)
        return known and abs(value) < np.finfo(np.float32).max
    if hint is str:
        return isinstance(value, str)
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint) if isinstance(value, str | int) else value is None
    return hint is type(None) and value is None


def _is_wide(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)


def plain(hint: Any) -> list[Any] | None:
    """Return the simple types that an annotation is made of, None where it has others."""
    if typing.get_origin(hint) is typing.Annotated:
        return plain(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [plain(part) for part in typing.get_args(hint)]
        known = [part for part in parts if part is not None]
        rest = [a for a, b in zip(typing.get_args(hint), parts, strict=True) if b is None]
        flat = [part for parts in known for part in parts]
        arrays = all(part is jax.Array for part in rest)
        return flat if arrays and flat != [type(None)] else None
    simple = hint in (bool, int, float, str, type(None)) or typing.get_origin(hint) is (
        typing.Literal
    )
    return [hint] if simple else None


def annotation(function: Callable[..., Any], parameter: str) -> Any:
    """Return the annotation of a parameter, None where it has none.

    That parameter's alone: others may name types that are imported for the type checker only.
    """
    inside = inspect.unwrap(function.__init__ if inspect.isclass(function) else function)
    inside = inside if hasattr(inside, "__globals__") else inspect.unwrap(type(function).__call__)
    written = {k: v for k, v in inside.__annotations__.items() if k == parameter}
    one = types.SimpleNamespace(__annotations__=written)
    return typing.get_type_hints(one, inside.__globals__, include_extras=True).get(parameter)


def endless(function: Callable[..., Any], parameter: str, value: Any) -> bool:
    """Say whether a value is infinite where the docstring names infinity for a parameter."""
    doc = inspect.getdoc(function) or ""
    said = re.search(rf"^ +{parameter}: [^:]*math\.inf", doc, re.MULTILINE)
    return said is not None and isinstance(value, float) and math.isinf(value)


class Attack(NamedTuple):
    """One argument of one call, and what stands in its place."""

    target: Target
    parameter: str
    odd: str

    def value(self) -> Any:
        """Return what stands there."""
        if self.odd in ODD:
            return ODD[self.odd]
        return ALTERED[self.odd](self.target.bound()[self.parameter])

    def __str__(self) -> str:
        return f"{self.target.name}: {self.parameter}={self.odd}"


def attacks(targets: list[Target]) -> Iterator[Attack]:
    """Yield every odd value in every place."""
    for target in targets:
        usual = target.bound()
        for parameter in inspect.signature(target.function).parameters:
            # What `constructor` writes on a record.
            if inspect.isclass(target.function) and parameter == "call":
                continue
            is_tree = parameter in target.data and is_tree_of_arrays(usual.get(parameter))
            for odd in (*ODD, *(ALTERED if is_tree else ())):
                yield Attack(target, parameter, odd)


def attempt(attack: Attack) -> tuple[Verdict, str]:
    """Return what comes of a value in the place of an argument."""
    target, value = attack.target, attack.value()
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            target.exercise(target.call(attack.parameter, value))
    except fnn.InputError as error:
        return Verdict.REFUSED, str(error)
    except WrongError as error:
        # What is not finite comes of what the user's numbers are.
        mine = error.verdict is Verdict.NOT_FINITE and attack.parameter in target.data
        return (Verdict.RIGHT if mine else error.verdict), str(error)
    except Exception as error:
        return Verdict.OPAQUE, f"{type(error).__name__}: {str(error)[:90]}"
    if attack.parameter not in target.data:
        hint = annotation(target.function, attack.parameter)
        # A number at run time may be a schedule where the docstring says so.
        scheduled = typing.get_origin(hint) is typing.Annotated and callable(value)
        simple = None if hint is None or scheduled else plain(hint)
        if endless(target.function, attack.parameter, value):
            return Verdict.RIGHT, ""
        if simple is not None and not any(admitted(part, value) for part in simple):
            return Verdict.SILENT, repr(value)[:60]
    return Verdict.RIGHT, ""


BAD = (Verdict.OPAQUE, Verdict.SILENT, Verdict.NOT_FINITE, Verdict.WRONG)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--count", type=int, default=20_000, help="calls (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of their choice (%(default)s)")
    parser.add_argument("--only", default="", help="targets with this in their name")
    options = parser.parse_args()
    # Names of files are attacked too: what is written stays in there.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        targets = [t for t in constructors() + functions(Path(folder)) if options.only in t.name]
        every = list(attacks(targets))
        chosen = random.Random(options.seed).sample(every, min(options.count, len(every)))
        counts: collections.Counter[Verdict] = collections.Counter()
        # A run that is stopped reports what it has.
        with contextlib.suppress(KeyboardInterrupt):
            for attack in chosen:
                verdict, text = attempt(attack)
                counts[verdict] += 1
                if verdict in BAD:
                    print(f"{attack}: {verdict.value}: {text}", flush=True)
                if counts.total() % 500 == 0:
                    jax.clear_caches()
    print(f"{counts.total()} calls of {len(every)} on {len(targets)} targets")
    for verdict in Verdict:
        print(f"{counts[verdict]:7d} {verdict.value}")


if __name__ == "__main__":
    main()
