"""Bad input: every complaint says who found it, what was expected, what came, and what to do."""

from __future__ import annotations

import functools
import gzip
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import datasets, losses, optim
from fnn._core.atomic_write import output_folder
from fnn._core.errors import entry
from fnn.optim import schedule

KEY = jax.random.key(0)
N, INPUTS, CLASSES = 7, 5, 3
SGD, PARAMS = optim.sgd(0.1), ({"weight": jnp.ones(1), "bias": jnp.ones(1)},)


class Bad(NamedTuple):
    """A call that raises ``fnn.<where>: expected <expected>, got <got>; <what to do>``.

    `expected` and `got` are regular expressions for the whole of their part, `layer` the path.
    """

    name: str
    call: Callable[..., Any]
    where: str
    expected: str
    got: str
    layer: str = ""


def optimizer_of(name):
    """The constructor of an optimizer, of one with chance with a key."""
    make = getattr(optim, name)
    return functools.partial(make, key=KEY) if name == "sophia" else make


def parametrize(cases):
    return pytest.mark.parametrize("bad", cases, ids=lambda bad: bad.name)


def assert_complains(bad, function, *args):
    with pytest.raises(fnn.InputError) as raised:
        function(*args)
    place = rf" \(at layer '{re.escape(bad.layer)}'\)" if bad.layer else ""
    expected = re.sub(r"^an? ", "", bad.expected)
    where = rf"fnn\.{re.escape(bad.where)}" if bad.where else "fnn"
    pattern = rf"{where}: expected (?:an? )?{expected}, got {bad.got}; .+?{place}"
    message = str(raised.value)
    assert re.fullmatch(pattern, message), message
    assert ("at layer" in message) == bool(bad.layer)
    assert isinstance(raised.value, ValueError)


# Calls of constructors: wrong numbers and wrong parts.

# Options that are neither 0 nor 1.
OPEN = r"{} in \(0, 1\)"
OF_OPEN = {
    ("schedule_free_sgd", "beta"),
    ("schedule_free_adamw", "beta1"),
    ("backtracking", "shrink"),
    ("backtracking", "slope"),
    ("schedule.one_cycle", "rise"),
}
not_layer = r"<function relu at 0x\w+>"
CONSTRUCTORS = [
    Bad("dense-0", lambda: fnn.dense(0), "dense", "a width of 1 or more", "0"),
    Bad("dense-float", lambda: fnn.dense(2.0), "dense", "a width of 1 or more", r"2\.0"),
    Bad("dropout-1", lambda: fnn.dropout(1.0), "dropout", r"a rate in \[0, 1\)", r"1\.0"),
    Bad("dropout-negative", lambda: fnn.dropout(-0.1), "dropout", r"a rate in \[0, 1\)", r"-0\.1"),
    Bad("dropout-nan", lambda: fnn.dropout(np.nan), "dropout", r"a rate in \[0, 1\)", "nan"),
    Bad(
        "batch_norm-momentum",
        lambda: fnn.batch_norm(momentum=1.1),
        "batch_norm",
        r"a momentum in \[0, 1\]",
        r"1\.1",
    ),
    Bad(
        "batch_norm-epsilon",
        lambda: fnn.batch_norm(epsilon=-1e-5),
        "batch_norm",
        "an epsilon of 0 or more",
        "-1e-05",
    ),
    Bad(
        "lookahead-share",
        lambda: optim.lookahead(3, -0.1),
        "optim.lookahead",
        r"share in \[0, 1\]",
        r"-0\.1",
    ),
    Bad("elu", lambda: fnn.elu(-1.0), "elu", "alpha above 0", r"-1\.0"),
    Bad("leaky_relu", lambda: fnn.leaky_relu(-0.1), "leaky_relu", "slope of .*", r"-0\.1"),
    Bad("serial-none", fnn.serial, "serial", "at least one layer", "none"),
    Bad("parallel-none", fnn.parallel, "parallel", "at least one layer", "none"),
    Bad(
        "serial-mixed",
        lambda: fnn.serial(fnn.relu(), out=fnn.relu()),
        "serial",
        "all layers positional or all named",
        "both",
    ),
    Bad("serial-not-called", lambda: fnn.serial(fnn.relu), "serial", "layers", not_layer),
    Bad("serial-named-not-called", lambda: fnn.serial(a=fnn.relu), "serial", "layers", not_layer),
    Bad("parallel-string", lambda: fnn.parallel("relu"), "parallel", "layers", "'relu'"),
    Bad("serial-list", lambda: fnn.serial([fnn.relu()]), "serial", "layers", r"\[relu\(\)\]"),
    Bad(
        "repeat-0",
        lambda: fnn.repeat(fnn.relu(), 0),
        "repeat",
        "times of 1 or more",
        "0",
    ),
    Bad("huber", lambda: losses.huber(0.0), "losses.huber", "a delta above 0", r"0\.0"),
    Bad(
        "label_smoothing",
        lambda: losses.cross_entropy(1.0),
        "losses.cross_entropy",
        r"a label_smoothing in \[0, 1\)",
        r"1\.0",
    ),
    Bad("sgd", lambda: optim.sgd(-0.1), "optim.sgd", "learning_rate of 0 or more", r"-0\.1"),
    Bad("sgd-nan", lambda: optim.sgd(np.nan), "optim.sgd", "learning_rate of 0 or more", "nan"),
    Bad("beta-1", lambda: optim.adam(0.1, 1), "optim.adam", r"beta1 in \[0, 1\)", "1"),
    Bad("epsilon-0", lambda: optim.adam(0.1, epsilon=0), "optim.adam", "epsilon above 0", "0"),
    Bad("momentum-1", lambda: optim.sgd(0.1, 1), "optim.sgd", r"momentum in \[0, 1\)", "1"),
    Bad(
        "momentum-negative",
        lambda: optim.sgd(0.1, -0.5),
        "optim.sgd",
        r"momentum in \[0, 1\)",
        r"-0\.5",
    ),
    Bad(
        "weight_decay",
        lambda: optim.weight_decay(-0.1),
        "optim.weight_decay",
        "weight_decay of 0 or more",
        r"-0\.1",
    ),
    Bad(
        "clip",
        lambda: optim.clip_by_global_norm(-1),
        "optim.clip_by_global_norm",
        "max_norm of 0 or more",
        "-1",
    ),
    Bad(
        "variance",
        lambda: optim.gradient_noise(-0.1, key=KEY),
        "optim.gradient_noise",
        "variance of 0 or more",
        r"-0\.1",
    ),
    Bad(
        "noise-none",
        lambda: optim.gradient_noise(0.1, key=None),
        "optim.gradient_noise",
        "a key",
        "None",
    ),
    Bad(
        "noise-int",
        lambda: optim.gradient_noise(0.1, key=3),
        "optim.gradient_noise",
        "a key",
        "3",
    ),
    Bad(
        "noise-float-array",
        lambda: optim.gradient_noise(0.1, key=jnp.zeros(2)),
        "optim.gradient_noise",
        "a key",
        r"float32 of shape \(2,\)",
    ),
    *(
        Bad(
            f"{where}-{name}",
            lambda make=make: make(-0.1),
            f"optim.{where}",
            f"{name} of 0 or more",
            r"-0\.1",
        )
        for where, name, make in (
            *(
                (optimizer, "learning_rate", optimizer_of(optimizer))
                for optimizer in [
                    "adadelta",
                    "adafactor",
                    "adagrad",
                    "adam",
                    "adamax",
                    "adamw",
                    "amsgrad",
                    "lamb",
                    "lars",
                    "lbfgs",
                    "lion",
                    "muon",
                    "nadam",
                    "radam",
                    "rmsprop",
                    "schedule_free_adamw",
                    "schedule_free_sgd",
                    "sophia",
                ]
            ),
            ("adagrad", "start", lambda value: optim.adagrad(0.1, start=value)),
            ("adamw", "weight_decay", lambda value: optim.adamw(0.1, weight_decay=value)),
            ("lamb", "weight_decay", lambda value: optim.lamb(0.1, weight_decay=value)),
            ("lars", "weight_decay", lambda value: optim.lars(0.1, weight_decay=value)),
            ("lars", "trust", lambda value: optim.lars(0.1, trust=value)),
            ("lion", "weight_decay", lambda value: optim.lion(0.1, weight_decay=value)),
            ("muon", "weight_decay", lambda value: optim.muon(0.1, weight_decay=value)),
            (
                "sophia",
                "weight_decay",
                lambda value: optim.sophia(0.1, weight_decay=value, key=KEY),
            ),
            (
                "schedule_free_sgd",
                "weight_decay",
                lambda v: optim.schedule_free_sgd(0.1, weight_decay=v),
            ),
            (
                "schedule_free_adamw",
                "weight_decay",
                lambda v: optim.schedule_free_adamw(0.1, weight_decay=v),
            ),
            ("clip_by_value", "max_value", optim.clip_by_value),
            ("clip_by_norm", "max_norm", optim.clip_by_norm),
            ("clip_by_unit_norm", "ratio", optim.clip_by_unit_norm),
            ("sam", "radius", optim.sam),
            ("reduce_on_plateau", "cooldown", lambda v: optim.reduce_on_plateau(cooldown=v)),
            ("reduce_on_plateau", "least", lambda v: optim.reduce_on_plateau(least=v)),
            ("schedule.one_cycle", "start", lambda v: schedule.one_cycle(1, 9, start=v)),
            ("schedule.one_cycle", "final", lambda v: schedule.one_cycle(1, 9, final=v)),
        )
    ),
    *(
        Bad(
            f"{where}-{name}-1",
            lambda make=make, name=name: make(**{name: 1.0}),
            f"optim.{where}",
            (OPEN if (where, name) in OF_OPEN else r"{} in \[0, 1\)").format(name),
            r"1\.0",
        )
        for where, names, make in (
            *(
                (optimizer, "beta1 beta2", functools.partial(optimizer_of(optimizer), 0.1))
                for optimizer in [
                    "adam",
                    "adamax",
                    "adamw",
                    "amsgrad",
                    "lamb",
                    "lion",
                    "nadam",
                    "radam",
                    "schedule_free_adamw",
                    "sophia",
                ]
            ),
            ("adadelta", "decay", optim.adadelta),
            ("ema", "decay", optim.ema),
            ("lars", "momentum", functools.partial(optim.lars, 0.1)),
            ("muon", "momentum", functools.partial(optim.muon, 0.1)),
            ("rmsprop", "decay", functools.partial(optim.rmsprop, 0.1)),
            ("schedule_free_sgd", "beta", functools.partial(optim.schedule_free_sgd, 0.1)),
            ("reduce_on_plateau", "factor tolerance", optim.reduce_on_plateau),
            ("backtracking", "shrink slope", functools.partial(optim.backtracking, SGD)),
            ("schedule.one_cycle", "rise", functools.partial(schedule.one_cycle, 1, 9)),
        )
        for name in names.split()
    ),
    *(
        Bad(
            f"{where}-{name}-0",
            lambda make=make, name=name: make(**{name: 0.0}),
            f"optim.{where}",
            (OPEN if (where, name) in OF_OPEN else "{} above 0").format(name),
            r"0\.0",
        )
        for where, names, make in (
            *(
                (optimizer, "epsilon", functools.partial(optimizer_of(optimizer), 0.1))
                for optimizer in [
                    "adadelta",
                    "adagrad",
                    "adamax",
                    "adamw",
                    "amsgrad",
                    "lamb",
                    "muon",
                    "nadam",
                    "radam",
                    "rmsprop",
                    "schedule_free_adamw",
                    "sophia",
                ]
            ),
            ("adafactor", "decay limit epsilon1 epsilon2", optim.adafactor),
            ("clip_by_unit_norm", "least", optim.clip_by_unit_norm),
            ("schedule_free_sgd", "beta", functools.partial(optim.schedule_free_sgd, 0.1)),
            ("schedule_free_adamw", "beta1", functools.partial(optim.schedule_free_adamw, 0.1)),
            ("sophia", "gamma", functools.partial(optim.sophia, 0.1, key=KEY)),
            ("backtracking", "shrink slope", functools.partial(optim.backtracking, SGD)),
            ("schedule.one_cycle", "rise", functools.partial(schedule.one_cycle, 1, 9)),
            ("schedule.polynomial", "power", functools.partial(schedule.polynomial, 1, 0, 9)),
            ("schedule.inverse_time", "power", functools.partial(schedule.inverse_time, 1, 9)),
        )
        for name in names.split()
    ),
    *(
        Bad(
            f"{where}-{name}-{value}",
            lambda make=make, name=name, value=value: make(**{name: value}),
            f"optim.{where}",
            f"{name} of 1 or more",
            re.escape(repr(value)),
        )
        for value in (0, 2.5)
        for where, name, make in (
            ("lbfgs", "memory", optim.lbfgs),
            ("backtracking", "trials", functools.partial(optim.backtracking, SGD)),
            ("sophia", "every", functools.partial(optim.sophia, 0.1, key=KEY)),
            ("muon", "iterations", functools.partial(optim.muon, 0.1)),
            ("adafactor", "least", optim.adafactor),
            ("lookahead", "every", optim.lookahead),
            ("accumulate", "steps", functools.partial(optim.accumulate, SGD)),
            ("reduce_on_plateau", "patience", optim.reduce_on_plateau),
            ("reduce_on_plateau", "window", optim.reduce_on_plateau),
        )
    ),
    *(
        Bad(
            f"{where}-{name}",
            lambda make=make, optimizer=optimizer: make(optimizer),
            f"optim.{where}",
            f"{expected}{more}",
            got,
        )
        for where, expected, make in (
            ("masked", "an optimizer", lambda optimizer: optim.masked(optimizer, True)),
            ("by_path", "optimizers", lambda optimizer: optim.by_path({"*": optimizer})),
            ("by_path", "optimizers", lambda optimizer: optim.by_path({}, optimizer)),
            ("accumulate", "an optimizer", lambda optimizer: optim.accumulate(optimizer, 2)),
            ("skip_nonfinite", "an optimizer", optim.skip_nonfinite),
            ("backtracking", "an optimizer", optim.backtracking),
            ("muon", "an optimizer", lambda optimizer: optim.muon(0.1, otherwise=optimizer)),
        )
        for name, optimizer, more, got in (
            ("number", 0.1, "", r"0\.1"),
            ("sam", optim.sam(0.1), " that the gradient suffices", r"sam\(0\.1\)"),
        )
    ),
    Bad("sophia-key", lambda: optim.sophia(0.1, key=None), "optim.sophia", "a key", "None"),
    Bad("freeze-none", lambda: optim.freeze(SGD), "optim.freeze", "patterns", r"\(\)"),
    Bad("freeze-int", lambda: optim.freeze(SGD, 0), "optim.freeze", "patterns", r"\(0,\)"),
    Bad(
        "by_path-nothing",
        lambda: optim.by_path({"*/scale": SGD}, SGD).init(PARAMS),
        "optim.by_path",
        "a pattern that matches a parameter",
        r"'\*/scale'",
    ),
    Bad(
        "freeze-nothing",
        lambda: optim.freeze(SGD, "2/*").init(PARAMS),
        "optim.freeze",
        "a pattern that matches a parameter",
        r"'2/\*'",
    ),
    Bad(
        "by_path-shadowed",
        lambda: optim.by_path({"0/*": SGD, "*/bias": SGD}, SGD).init(PARAMS),
        "optim.by_path",
        r"an array left for the pattern '\*/bias'",
        "one that earlier patterns leave nothing for",
    ),
    Bad(
        "by_path-no-default",
        lambda: optim.by_path({"*/bias": SGD}).init(PARAMS),
        "optim.by_path",
        "a pattern for every array",
        "none for '0/weight'",
    ),
    Bad(
        "masked-numbers",
        lambda: optim.masked(SGD, {"weight": 1}).init({"weight": jnp.ones(1)}),
        "optim.masked",
        "a tree of True and False",
        r"\{'weight': 1\}",
    ),
    Bad(
        "masked-structure",
        lambda: optim.masked(SGD, {"bias": True}).init({"weight": jnp.ones(1)}),
        "optim.masked",
        "a mask in the structure of the parameters",
        r"PyTreeDef\(\{'bias': \*\}\)",
    ),
    Bad(
        "no-guard",
        lambda: optim.nonfinite_leaf(PARAMS, SGD.init(PARAMS)),
        "optim.nonfinite_leaf",
        "the state of an optimizer with a guard",
        "SgdState.*",
    ),
    Bad(
        "schedule-of-two",
        lambda: optim.sgd(schedule.constant(jnp.ones(2))).update(PARAMS, SGD.init(PARAMS), PARAMS),
        "optim.schedule.constant",
        "value of 0 or more",
        r"float32 of shape \(2,\)",
    ),
    Bad(
        "schedule-of-nothing",
        lambda: optim.sgd(lambda t: None).update(PARAMS, SGD.init(PARAMS), PARAMS),
        "optim.sgd",
        "learning_rate of 0 or more",
        "None at step 0",
    ),
    Bad(
        "hyper-of-two",
        lambda: optim.sgd(jnp.ones(2)).update(PARAMS, SGD.init(PARAMS), PARAMS),
        "optim.sgd",
        "learning_rate of 0 or more",
        r"float32 of shape \(2,\)",
    ),
    *(
        Bad(
            f"join-{boundaries}",
            lambda boundaries=boundaries: schedule.piecewise_constant([0.1, 0.2, 0.3], boundaries),
            "optim.schedule.piecewise_constant",
            "2 boundaries, rising from 1 or more",
            re.escape(repr(boundaries)),
        )
        for boundaries in ([3], [3, 3], [0, 3], [2.5, 3])
    ),
    Bad(
        "join-number",
        lambda: schedule.join([0.1, schedule.constant(0.2)], [3]),
        "optim.schedule.join",
        r"schedules\[0\], a schedule, to be a function",
        r"0\.1",
    ),
    Bad("chain", lambda: optim.chain(0.1), "optim.chain", "optimizers", r"0\.1"),
    Bad(
        "chain-not-called",
        lambda: optim.chain(optim.sgd),
        "optim.chain",
        "optimizers",
        r"<function sgd at 0x\w+>",
    ),
    *(
        Bad(
            f"schedule-{where}-{steps}",
            lambda make=make, steps=steps: make(steps),
            f"optim.schedule.{where}",
            f"{name} of 1 or more",
            re.escape(repr(steps)),
        )
        for steps in (0, -3, 2.5)
        for where, name, make in (
            ("step_decay", "every", lambda n: schedule.step_decay(0.1, 0.5, n)),
            ("exponential", "steps", lambda n: schedule.exponential(0.1, 0.5, n)),
            ("cosine", "steps", lambda n: schedule.cosine(0.1, n)),
            ("polynomial", "steps", lambda n: schedule.polynomial(0.1, 0.0, n)),
            ("inverse_time", "steps", lambda n: schedule.inverse_time(0.1, n)),
            ("one_cycle", "steps", lambda n: schedule.one_cycle(0.1, n)),
            ("cyclic", "steps", lambda n: schedule.cyclic(0.1, 0.2, n)),
            ("warm_up", "steps", lambda n: schedule.warm_up(n, schedule.constant(0.1))),
        )
    ),
    Bad(
        "warm_up-number",
        lambda: schedule.warm_up(3, 0.1),
        "optim.schedule.warm_up",
        "then, a schedule, to be a function",
        r"0\.1",
    ),
    *(
        Bad(
            f"value_and_grad-{name}",
            lambda call=call: call(fnn.value_and_grad),
            "value_and_grad",
            expected,
            got,
        )
        for name, call, expected, got in (
            ("model", lambda f: f(fnn.relu, losses.nll()), "a layer", not_layer),
            ("loss", lambda f: f(fnn.relu(), "nll"), "a Loss", "'nll'"),
            (
                "gradient",
                lambda f: f(fnn.relu(), losses.nll(), "symbolic"),
                "a gradient of 'manual', 'auto', 'numeric'",
                "'symbolic'",
            ),
        )
    ),
]


@parametrize(CONSTRUCTORS)
def test_constructors_refuse(bad):
    assert_complains(bad, bad.call)


# Functions of arrays: seen at once, and under jit when it traces.


class Applied(NamedTuple):
    """Initialize a layer for x of shape (2, 5), then apply it to another x."""

    layer: fnn.Layer
    train: bool = False

    def run(self, function, x):
        params, state = self.layer.init(KEY, jnp.ones((2, INPUTS)))
        return getattr(self.layer, function)(params, state, x, train=self.train)[0]

    def __call__(self, x):
        return self.run("apply", x)


def initialized(layer):
    return lambda x: layer.init(KEY, x)


def nested():
    return fnn.serial(
        hidden=fnn.serial(fnn.dense(4), fnn.batch_norm(), fnn.dropout(0.2)), out=fnn.dense(2)
    )


def positional():
    return fnn.serial(fnn.relu(), fnn.serial(fnn.tanh(), fnn.dense(4)))


def ones(*shape, dtype="float32"):
    return jnp.ones(shape, dtype)


# The call, its argument, and the complaint.
ARRAYS = [
    (
        ones(2, 6),
        Bad("dense", Applied(fnn.dense(4)), "dense", r"x of shape \(\.\.\., 5\)", r"\(2, 6\)"),
    ),
    (
        ones(),
        Bad("dense-rank", Applied(fnn.dense(4)), "dense", r"x of shape \(\.\.\., 5\)", r"\(\)"),
    ),
    (
        ones(),
        Bad("dense-init", initialized(fnn.dense(4)), "dense", r"x of shape \(\.\.\., I\)", ".*"),
    ),
    (
        ones(2, 6),
        Bad(
            "batch_norm",
            Applied(fnn.batch_norm()),
            "batch_norm",
            r"x of shape \(B, \.\.\., 5\)",
            r"\(2, 6\)",
        ),
    ),
    (
        ones(5),
        Bad(
            "batch_norm-rank",
            Applied(fnn.batch_norm()),
            "batch_norm",
            r"x of shape \(B, \.\.\., 5\)",
            r"\(5,\)",
        ),
    ),
    (ones(), Bad("flatten", Applied(fnn.flatten()), "flatten", r"x of shape \(B, \.\.\.\)", ".*")),
    *(
        (
            ones(2, 5, dtype="uint8"),
            Bad(
                f"integers-{where}",
                Applied(layer),
                where,
                "x of a floating dtype",
                r"uint8 of shape \(2, 5\)",
            ),
        )
        for where, layer in (
            ("dense", fnn.dense(4)),
            ("batch_norm", fnn.batch_norm()),
            ("dropout", fnn.dropout(0.2)),
            ("relu", fnn.relu()),
        )
    ),
    (
        ones(2, 6),
        Bad(
            "path-named",
            Applied(nested()),
            "dense",
            r"x of shape \(\.\.\., 5\)",
            r"\(2, 6\)",
            "hidden/0",
        ),
    ),
    (
        ones(2, 6),
        Bad(
            "path-positional",
            Applied(positional()),
            "dense",
            r"x of shape \(\.\.\., 5\)",
            r"\(2, 6\)",
            "1/1",
        ),
    ),
    (
        ones(5),
        Bad(
            "path-init",
            initialized(nested()),
            "batch_norm",
            r"x of shape \(B, \.\.\., C\)",
            r"\(4,\)",
            "hidden/1",
        ),
    ),
    (
        ones(2, 6),
        Bad(
            "path-wrapped",
            Applied(
                fnn.serial(a=fnn.use_manual(fnn.remat(fnn.residual(fnn.serial(fnn.dense(5))))))
            ),
            "dense",
            r"x of shape \(\.\.\., 5\)",
            r"\(2, 6\)",
            "a/0",
        ),
    ),
    (
        ones(2, 6),
        Bad(
            "path-parallel",
            Applied(fnn.parallel(fnn.relu(), fnn.serial(b=fnn.dense(4)))),
            "dense",
            r"x of shape \(\.\.\., 5\)",
            r"\(2, 6\)",
            "1/b",
        ),
    ),
    (
        ones(2, 5),
        Bad(
            "no-key",
            Applied(nested(), train=True),
            "dropout",
            "a key in training",
            "None",
            "hidden/2",
        ),
    ),
    (
        ones(2, 5),
        Bad(
            "residual",
            Applied(fnn.residual(fnn.dense(4))),
            "residual",
            r"shapes \(2, 5\) in and out",
            r"\(2, 4\)",
        ),
    ),
    (
        ones(2, 5),
        Bad(
            "repeat",
            initialized(fnn.repeat(fnn.dense(4), 2)),
            "repeat",
            r"shapes \(2, 5\) in and out",
            r"\(2, 4\)",
        ),
    ),
    (
        ones(2, 5),
        Bad(
            "add",
            Applied(fnn.serial(fnn.parallel(fnn.dense(4), fnn.relu()), fnn.add())),
            "add",
            r"shapes \(2, 4\) in and out",
            r"\(2, 5\)",
            "1",
        ),
    ),
    *(
        (
            ones(2, 5),
            Bad(
                f"{make.__name__}-alone",
                Applied(make(fnn.attention(2))),
                make.__name__,
                r"a pair \(x, memory\)",
                r"float32 of shape \(2, 5\)",
            ),
        )
        for make in (fnn.over_query, fnn.over_memory, fnn.residual_cross)
    ),
    (
        ones(2, 5),
        Bad(
            "concatenate",
            Applied(fnn.serial(fnn.parallel(fnn.dense(4), fnn.relu()), fnn.concatenate(0))),
            "concatenate",
            r"shapes \(4,\) in and out",
            r"\(5,\)",
            "1",
        ),
    ),
    *(
        (
            ones(*shape, dtype=dtype),
            Bad(
                f"{name}-target-{dtype}-{shape}",
                lambda target, loss=loss: loss.apply(jnp.zeros((N, CLASSES)), target),
                f"losses.{name}",
                r"integer labels of shape \(7,\) or distributions of shape \(7, 3\)",
                rf"a target {dtype} of shape {re.escape(str(shape))}",
            ),
        )
        for name, loss in (("cross_entropy", losses.cross_entropy()), ("nll", losses.nll()))
        for dtype, shape in (("float32", (N,)), ("int32", (N, 1)), ("int32", (N, 2)), ("int32", ()))
    ),
    *(
        (
            ones(*shape),
            Bad(
                f"{name}-target-{shape}",
                lambda target, name=name: getattr(losses, name)().apply(jnp.zeros((N, 1)), target),
                f"losses.{name}",
                r"prediction and target of one shape \(B, \.\.\.\), here \(7, 1\)",
                rf"a target of shape {re.escape(str(shape))}",
            ),
        )
        for name in ("squared_error", "absolute_error", "huber", "logistic", "hinge")
        for shape in ((N,), (N, 2), (1, N))
    ),
    *(
        (
            ones(*shape),
            Bad(
                f"weights-{shape}",
                lambda weights: losses.mean(jnp.zeros(N), weights),
                "losses.mean",
                r"weights of shape \(7,\), one for each value",
                re.escape(str(shape)),
            ),
        )
        for shape in ((N, 1), (N - 1,), ())
    ),
]
all_arrays = pytest.mark.parametrize(("x", "bad"), ARRAYS, ids=[bad.name for _, bad in ARRAYS])


RUNS = {
    "eager": lambda function, x: function(x),
    "jit": lambda function, x: jax.jit(lambda x: function(x))(x),
    "eval_shape": lambda function, x: jax.eval_shape(lambda x: function(x), x),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@all_arrays
def test_functions_refuse_arrays_at_once_and_when_traced(x, bad, run):
    assert_complains(bad, run, bad.call, x)


@pytest.mark.parametrize(
    ("x", "bad"),
    [case for case in ARRAYS if isinstance(case[1].call, Applied)],
    ids=[bad.name for _, bad in ARRAYS if isinstance(bad.call, Applied)],
)
def test_forward_refuses_what_apply_refuses(x, bad):
    assert_complains(bad, lambda x: bad.call.run("forward", x), x)


# Training, evaluation and prediction.


def data(**changes):
    random = np.random.default_rng(0)
    parts = {
        "x": random.normal(size=(N, INPUTS)).astype("float32"),
        "target": random.integers(0, CLASSES, N).astype("int32"),
    }
    return tuple((parts | changes).values())


def spoiled(value, index, part=0):
    arrays = list(data(weights=np.ones(N, "float32")))
    arrays[part] = arrays[part].astype("float32")
    arrays[part][index] = value
    return tuple(arrays)


def fit(parts=None, *, model=None, loss=None, **options):
    options = {"epochs": 1, "batch_size": 3, "key": KEY} | options
    optimizer = options.pop("optimizer", optim.sgd(0.1))
    return fnn.fit(
        model or fnn.dense(CLASSES), loss or losses.cross_entropy(), optimizer,
        data() if parts is None else parts, **options,
    )  # fmt: skip


def evaluate(parts=None, **options):
    model = fnn.dense(CLASSES)
    params, state = model.init(KEY, jnp.ones((1, INPUTS)))
    parts = data() if parts is None else parts
    return fnn.evaluate(model, losses.cross_entropy(), params, state, parts, **options)


def predict(x, **options):
    return fnn.predict(fnn.relu(), (), (), x, **options)


long_x = np.ones((N + 1, INPUTS), "float32")
out_of_range = data()[1].copy()
out_of_range[4] = CLASSES
FITS = [
    Bad("epochs", lambda: fit(epochs=-1), "fit", "epochs of 0 or more", "-1"),
    Bad("epochs-float", lambda: fit(epochs=1.0), "fit", "epochs of 0 or more", r"1\.0"),
    *(
        Bad(
            f"batch_size-{size}",
            lambda size=size: fit(batch_size=size),
            "fit",
            "a batch_size from 1 to 7, the number of examples",
            re.escape(repr(size)),
        )
        for size in (0, -1, N + 1, 2.0, None, "all")
    ),
    Bad("no-key", lambda: fit(key=None), "fit", "a key, or a TrainState to start from", "neither"),
    Bad(
        "both",
        lambda: fit(start=fit()[0]),
        "fit",
        "a key, or a TrainState to start from",
        "both",
    ),
    Bad("int-key", lambda: fit(key=0), "fit", "a key", "0"),
    Bad("model", lambda: fit(model=fnn.relu), "value_and_grad", "a layer", not_layer),
    Bad("loss", lambda: fit(loss="nll"), "value_and_grad", "a Loss", "'nll'"),
    Bad(
        "gradient",
        lambda: fit(gradient="hand"),
        "value_and_grad",
        "a gradient of 'manual', 'auto', 'numeric'",
        "'hand'",
    ),
    Bad(
        "x-only",
        lambda: fit(data()[0]),
        "fit",
        r"\(x, target\) or \(x, target, weights\)",
        r"float32 of shape \(7, 5\)",
    ),
    Bad(
        "validation-empty",
        lambda: fit(validation=data(x=long_x[:0])),
        "fit",
        "at least one example",
        r"float32 of shape \(0, 5\)",
    ),
    Bad(
        "validation-length",
        lambda: fit(validation=data(x=long_x)),
        "fit",
        "x and target of one length",
        "8 and 7",
    ),
    Bad(
        "model-width",
        lambda: fit(validation=data(x=data()[0][:, :4])),
        "dense",
        r"x of shape \(\.\.\., 5\)",
        r"\(7, 4\)",
    ),
    Bad(
        "weights-shape",
        lambda: fit(data(weights=np.ones((N, 1), "float32"))),
        "losses.mean",
        r"weights of shape \(3,\), one for each value",
        r"\(3, 1\)",
    ),
    *(
        Bad(f"{where}-{name}", lambda call=call, parts=parts: call(parts), place, expected, got)
        for where, call in (("fit", fit), ("evaluate", evaluate))
        for name, parts, place, expected, got in (
            ("length", data(x=long_x), where, "x and target of one length", "8 and 7"),
            ("weights", data(weights=np.ones(6)), where, "x and weights of one length", "7 and 6"),
            (
                "trees",
                data(x={"a": long_x, "b": long_x[1:]}),
                where,
                "arrays of one length",
                r"lengths \[7, 8\]",
            ),
            (
                "empty",
                (long_x[:0], np.zeros(0, "int32")),
                where,
                "at least one example",
                r"float32 of shape \(0, 5\)",
            ),
            ("list", ([[1.0] * 5] * N, data()[1]), where, "arrays", r"1\.0"),
            ("nan", spoiled(np.nan, (4, 2)), where, "finite data", r"nan at x\[4, 2\]"),
            ("inf", spoiled(-np.inf, (6, 0)), where, "finite data", r"-inf at x\[6, 0\]"),
            ("nan-target", spoiled(np.nan, 3, 1), where, "finite data", r"nan at target\[3\]"),
            ("nan-weight", spoiled(np.nan, 5, 2), where, "finite data", r"nan at weights\[5\]"),
            (
                "labels",
                data(target=out_of_range),
                "losses.cross_entropy",
                r"labels in 0\.\.2",
                r"3 at target\[4\]",
            ),
            (
                "negative-labels",
                data(target=out_of_range - CLASSES),
                "losses.cross_entropy",
                r"labels in 0\.\.2",
                r"-\d at target\[0\]",
            ),
            (
                "float-labels",
                data(target=np.ones(N, "float32")),
                "losses.cross_entropy",
                r"integer labels of shape \(7,\) or distributions of shape \(7, 3\)",
                r"a target float32 of shape \(7,\)",
            ),
        )
    ),
    Bad(
        "evaluate-batch_size",
        lambda: evaluate(batch_size=0),
        "evaluate",
        "a batch_size from 1 up",
        "0",
    ),
    Bad(
        "predict-batch_size",
        lambda: predict(long_x, batch_size=1.5),
        "predict",
        "a batch_size from 1 up",
        r"1\.5",
    ),
    Bad(
        "predict-empty",
        lambda: predict(long_x[:0]),
        "predict",
        "at least one example",
        r"float32 of shape \(0, 5\)",
    ),
    Bad(
        "predict-nan",
        lambda: predict(spoiled(np.nan, (1, 3))[0]),
        "predict",
        "finite data",
        r"nan at x\[1, 3\]",
    ),
    Bad("predict-list", lambda: predict([1.0]), "predict", "x of arrays", r"1\.0"),
]


@parametrize(FITS)
def test_training_and_evaluation_refuse(bad):
    assert_complains(bad, bad.call)


@pytest.mark.parametrize(
    ("loss", "target", "expected", "got"),
    [
        (losses.logistic(), [1, -1, 0], r"labels -1 and \+1", r"0 at target\[2\]"),
        (losses.hinge(), [1, 2, -1], r"labels -1 and \+1", r"2 at target\[1\]"),
        (losses.binary_cross_entropy(), [0.0, 0.5, 1.5], r"targets in \[0, 1\]",
         r"1\.5 at target\[2\]"),
        (losses.cross_entropy(), [0, 1, -1], r"labels in 0\.\.2", r"-1 at target\[2\]"),
        (losses.nll(), [3, 1, 1], r"labels in 0\.\.2", r"3 at target\[0\]"),
        (losses.zero_one(), [0, 1, 7], r"labels in 0\.\.2", r"7 at target\[2\]"),
    ],
    ids=lambda value: repr(value) if isinstance(value, fnn.losses.Loss) else "",
)  # fmt: skip
def test_losses_refuse_values_out_of_range_and_name_the_first(loss, target, expected, got):
    where = f"losses.{repr(loss).partition('(')[0]}"
    width = (CLASSES,) if "labels in" in expected else ()
    bad = Bad("", None, where, expected, got)
    assert_complains(bad, loss.apply, jnp.zeros((3, *width)), np.asarray(target))


# Files.

IDX = bytes((0, 0, 8, 1, 0, 0, 0, 3)) + b"abc"
BROKEN = {
    "missing": (None, "a readable idx file", ".*No such file.*"),
    "empty": (b"", "the header 00 00 08 and a number of axes", "an empty file in .*"),
    "short-header": (IDX[:6], "the header 00 00 08 and a number of axes", "00 00 08 01 in .*"),
    "magic": (b"\x89PNG" + IDX, "the header 00 00 08 and a number of axes", "89 50 4e 47 in .*"),
    "floats": (
        bytes((0, 0, 13, 1)) + IDX[4:],
        "the header 00 00 08 and a number of axes",
        "00 00 0d 01 in .*",
    ),
    "no-axes": (
        bytes((0, 0, 8, 0)),
        "the header 00 00 08 and a number of axes",
        "00 00 08 00 in .*",
    ),
    "truncated": (IDX[:-1], r"3 bytes for the shape \(3,\)", "2 in .*"),
    "too-long": (IDX + b"d", r"3 bytes for the shape \(3,\)", "4 in .*"),
    "huge": (
        bytes((0, 0, 8, 4)) + bytes((0, 1, 0, 0)) * 4,  # 2^64 numbers: 0 in 64 bits
        rf"{2**64} bytes for the shape .*",
        "0 in .*",
    ),
    "gz-truncated": (gzip.compress(IDX)[:-4], "a readable idx file", ".*end-of-stream.*"),
    "gz-garbage": (b"\x1f\x8b" + b"garbage" * 9, "a readable idx file", ".*"),
    "gz-checksum": (
        gzip.compress(IDX)[:-8] + bytes(8),
        "a readable idx file",
        ".*CRC.*",
    ),
    "gz-body": (
        gzip.compress(IDX)[:10] + b"\xff" * 20,
        "a readable idx file",
        ".*",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_idx_file_is_refused_by_name(tmp_path, name):
    content, expected, got = BROKEN[name]
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    assert_complains(
        Bad(name, None, "datasets.read_idx", expected, got), datasets.read_idx, tmp_path / "file"
    )
    with pytest.raises(fnn.InputError, match=re.escape(str(tmp_path / "file"))):
        datasets.read_idx(tmp_path / "file")


def test_fashion_mnist_refuses_a_folder_without_its_files(tmp_path):
    bad = Bad(
        "",
        None,
        "datasets.fashion_mnist",
        r"train-images-idx3-ubyte\[\.gz\] and its three companions",
        f"no such file in {re.escape(str(tmp_path))}",
    )
    assert_complains(bad, datasets.fashion_mnist, tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(IDX)
    bad = Bad("", None, "datasets.read_idx", "a readable idx file", ".*train-labels.*")
    assert_complains(bad, datasets.fashion_mnist, tmp_path)
    for name in ("train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"{name}-ubyte").write_bytes(IDX)
    bad = Bad(
        "",
        None,
        "datasets.fashion_mnist",
        r"images \(n, H, W\) and as many labels \(n,\)",
        r"\(3,\) and \(3,\) in .*",
    )
    assert_complains(bad, datasets.fashion_mnist, tmp_path)


def test_an_output_folder_below_a_file_is_refused_and_nothing_is_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        bad = Bad(
            "", None, "output_folder", "a folder to write to", rf"{re.escape(str(folder))} \(.+\)"
        )
        assert_complains(bad, lambda folder=folder: output_folder(folder))
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "in the way"


MISMATCHES = {
    "missing": (
        {"weight": np.ones((5, 3), "float32")},
        "the 2 arrays of the model",
        r"nothing at params/bias, where float32 of shape \(3,\) should be",
    ),
    "extra": (
        {"weight": np.ones((5, 3), "float32"), "bias": np.ones(3, "float32"), "scale": np.ones(1)},
        "the 2 arrays of the model",
        r"float64 of shape \(1,\) at params/scale, where nothing should be",
    ),
    "shape": (
        {"weight": np.ones((3, 5), "float32"), "bias": np.ones(3, "float32")},
        r"params/weight to be float32 of shape \(5, 3\)",
        r"float32 of shape \(3, 5\)",
    ),
    "dtype": (
        {"weight": np.ones((5, 3), "float32"), "bias": np.ones(3, "float16")},
        r"params/bias to be float32 of shape \(3,\)",
        r"float16 of shape \(3,\)",
    ),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_weights_of_another_model_are_refused(tmp_path, name):
    params, expected, got = MISMATCHES[name]
    fnn.save_weights(tmp_path / "file", params)
    like = fnn.dense(3).init(KEY, jnp.ones((1, 5)))
    assert_complains(
        Bad(name, None, "load_weights", expected, got), fnn.load_weights, tmp_path / "file", like
    )


@pytest.mark.parametrize(
    ("module", "where", "call"),
    [
        ("safetensors.numpy", "save_weights", lambda f: fnn.save_weights(f, {"a": jnp.ones(1)})),
        ("safetensors", "load_weights", lambda f: fnn.load_weights(f, ((), ()))),
        ("tqdm", "fit", lambda f: fit(progress=True)),
    ],
    ids=["save_weights", "load_weights", "fit"],
)
def test_a_missing_package_is_named_with_what_to_install(
    tmp_path, monkeypatch, module, where, call
):
    monkeypatch.setitem(sys.modules, module, None)
    package = module.partition(".")[0]
    message = rf"^fnn\.{where}: expected the package {package}, got none .*; .*'fnn\[run\]'$"
    with pytest.raises(ImportError, match=message):
        call(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_an_input_error_is_a_value_error_that_pickles():
    import pickle

    error = fnn.InputError("a width", "0", "pass an int")
    error.where, error.path = "fnn.dense", ("hidden", "0")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_what_users_call_counts_in_integers_of_python():
    @entry
    def doubled(count, *, again=0):
        return 2 * count, 2 * again

    assert doubled(np.uint8(200), again=np.int8(100)) == (400, 200)
