"""What the laboratory says of gradients that are not numbers, and of what it cannot compare."""

from __future__ import annotations

import functools
import importlib
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.lab import Agreement, difference, measure
from fnn.lab._directions import directions, draw_signs
from fnn.lab.agreement import agreements, largest
from tests.layers.test_laws import assert_close

X = np.random.default_rng(1).normal(size=(8, 6)).astype(np.float32)
KEY = jax.random.key(1)
LOSS = fnn.losses.squared_error()
DENSE = fnn.dense(6)
PARAMS, STATE = DENSE.init(KEY, X)


def compared(model, x=X, target=X, loss=LOSS, dtype="float32", **options):
    params, state = model.init(jax.random.key(0), x)
    params = jax.tree.map(lambda a: a.astype(dtype), params)
    return fnn.compare(model, loss, params, state, (x, target), key=KEY, **options)


def with_backward(backward):
    """A scale whose backward is that of the test."""
    return fnn.stateless(
        lambda key, x: {"scale": jnp.ones(x.shape[-1])},
        lambda params, x: (params["scale"][None] * x, x),
        backward,
    )


STRUCTURES = {
    "another key": lambda p, x, dy: ({"weight": (x * dy).sum(0)}, p["scale"][None] * dy),
    "a tuple": lambda p, x, dy: (((x * dy).sum(0),), p["scale"][None] * dy),
    "an array": lambda p, x, dy: ((x * dy).sum(0), p["scale"][None] * dy),
    "a leaf too many": lambda p, x, dy: ({"scale": p["scale"], "more": dy}, p["scale"][None] * dy),
    "dx in a list": lambda p, x, dy: ({"scale": (x * dy).sum(0)}, [p["scale"][None] * dy]),
    "no dx": lambda p, x, dy: ({"scale": (x * dy).sum(0)}, None),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_backward_of_another_structure_is_refused_with_both_structures(name):
    layer = with_backward(STRUCTURES[name])
    for check in (functools.partial(fnn.check_layer, layer, X), lambda: compared(layer)):
        with pytest.raises(fnn.GradientError, match=r"(dparams|dx) has the structure .* by auto"):
            check()


def stateful(forward, init=lambda key, x: ((), {"seen": jnp.zeros(())})):
    """A layer whose forward is that of the test, and whose apply passes x and counts."""
    apply = fnn.autodiff(
        init, lambda p, s, x, *, key=None, train=False: (x, {"seen": s["seen"] + 1})
    ).apply
    return fnn.Layer(init, apply, forward, lambda params, residuals, dy: ((), dy))


STATES = {
    "another structure": lambda p, s, x, **options: (x, (s["seen"] + 1,), ()),
    "another value": lambda p, s, x, **options: (x, {"seen": s["seen"] + 2}, ()),
}


@pytest.mark.parametrize("name", STATES)
def test_a_forward_that_returns_another_state_than_apply_is_refused(name):
    with pytest.raises(fnn.GradientError, match="state"):
        fnn.check_layer(stateful(STATES[name]), X)


def test_the_right_state_is_accepted_and_in_the_table():
    right = stateful(lambda p, s, x, **options: (x, {"seen": s["seen"] + 1}, ()))
    assert "state/seen" in str(fnn.check_layer(right, X))


def test_residuals_that_are_no_arrays_are_refused():
    layer = stateful(lambda p, s, x, **options: (x, {"seen": s["seen"] + 1}, True))
    with pytest.raises(fnn.InputError, match="residuals of arrays, got True"):
        fnn.check_layer(layer, X)


@pytest.mark.parametrize(("error", "bound"), [(np.nan, 1.0), (1.0, np.nan), (1.0, np.inf)])
def test_what_is_not_finite_agrees_with_nothing(error, bound):
    assert not Agreement("dx", "auto", error, bound, (), 0.0, 0.0).agrees


def test_a_nan_in_one_leaf_leaves_the_scale_of_the_others():
    tree = {"a": np.array([2.0, np.nan]), "b": np.array([4.0])}
    assert largest(tree) == 4
    right, wrong = ({"a": np.ones(1), "b": np.array([value])} for value in (1.0, np.nan))
    rows = agreements((right, np.ones(2)), (wrong, np.ones(2)), "auto", 1e-6)
    assert [row.agrees for row in rows] == [True, False, True]


def test_a_comparison_with_a_nan_does_not_agree_and_shows_it():
    nan = fnn.stateless(
        lambda key, x: (), lambda p, x: (x, ()), lambda p, r, dy: ((), dy.at[0, 0].set(jnp.nan))
    )
    result = compared(fnn.serial(DENSE, nan, DENSE))
    assert not result.agrees
    assert "DIFFERS FROM auto: they differ by nan at most" in str(result)


def wrong_by_hand(by):
    """A scale, one entry of whose gradient by hand is wrong."""
    return with_backward(
        lambda p, x, dy: ({"scale": (x * dy).sum(0).at[3].add(by)}, p["scale"][None] * dy)
    )


def wrong_both_ways(by):
    """A scale, one entry of whose gradient is wrong by hand and by autodiff alike."""

    @jax.custom_vjp
    def same(scale):
        return scale

    same.defvjp(lambda scale: (scale, ()), lambda _, dscale: (dscale.at[3].add(by),))
    return fnn.autodiff(
        lambda key, x: ({"scale": jnp.ones(x.shape[-1])}, ()),
        lambda p, s, x, *, key=None, train=False: (same(p["scale"])[None] * x, s),
    )


def told(result, way):
    """The leaves that do not agree, in one of the ways."""
    return [leaf.name for leaf in result.leaves if not getattr(leaf, way).agrees]


def test_a_mistake_in_one_entry_below_the_rounding_of_float32_shows_in_float64():
    result = compared(fnn.serial(DENSE, wrong_by_hand(1e-9), DENSE))
    assert not result.agrees
    assert [told(result, way) for way in ("manual_auto", "manual", "auto")] == [[], [], []]
    (wrong,) = told(result, "float64")
    assert wrong == "params/1/scale"
    assert result.leaves[2].float64.place == (3,)
    assert "dparams/1/scale is" in str(result)
    assert "by auto in float64" in str(result)


def test_a_mistake_that_manual_and_auto_share_shows_in_differences_and_by_leaf_where():
    model = fnn.serial(DENSE, wrong_both_ways(1e-5), DENSE)
    together, apart = compared(model), compared(model, by_leaf=True)
    for result in (together, apart):
        assert not any(told(result, way) for way in ("manual_auto", "manual", "float64"))
        assert not result.agrees
    assert {row.of for row in together.directions} == {"params", "x"}
    assert {row.of for row in together.directions if row.error > together.numeric_bound} == {
        "params"
    }
    assert {row.of for row in apart.directions} == {leaf.name for leaf in apart.leaves}
    assert {row.of for row in apart.directions if row.error > apart.numeric_bound} == {
        "params/1/scale"
    }
    assert "in params/1/scale;" in str(apart)


def test_differences_are_as_sharp_among_thousands_of_kinks():
    wide = fnn.serial(fnn.dense(512), fnn.relu(), fnn.dense(512), fnn.relu(), fnn.dense(6))
    x = np.random.default_rng(3).normal(size=(64, 6)).astype(np.float32)
    result = compared(wide, x, x)
    assert result.agrees
    assert result.numeric_bound < 1e-5
    assert not any(row.kink for row in result.directions)


def bent(p):
    return jnp.exp(3 * p["bent"][0]) + 5.0


KINKS = {
    "a kink": (lambda p: jnp.abs(p["kink"]).sum() + bent(p), {"kink"}),
    "a bend": (lambda p: p["kink"].sum() + bent(p), set()),
    "a line": (lambda p: 1e3 + p["kink"].sum() + p["bent"].sum(), set()),
    "a kink near by": (lambda p: jnp.abs(p["kink"] - 1e-6).sum() + bent(p), set()),
}


@pytest.mark.parametrize("name", KINKS)
def test_a_kink_is_told_from_a_bend_from_rounding_and_from_one_near_by(name):
    function, kinks = KINKS[name]
    with jax.enable_x64(True):
        place = {"bent": jnp.array([1.0]), "kink": jnp.array([0.0])}
        signs = draw_signs(KEY, place, 2)
        right = jax.grad(function)(place)
        rows = directions(function, place, right, signs, list(place), 1)
    assert {row.of for row in rows if row.kink} == kinks
    assert all(row.error <= difference("float64", 1, row.doubt) for row in rows if not row.kink)


def test_costs_are_measured_on_request():
    assert compared(DENSE).costs == ()
    assert [cost.name for cost in compared(DENSE, costs=True).costs] == ["dense", "the whole"]


@pytest.mark.parametrize(
    ("few", "way"), [(X.size, "_in_haste"), (X.size - 1, "_optimized")], ids=["little", "much"]
)
def test_what_computes_much_is_compiled_with_optimization(few, way, monkeypatch):
    # By the name of the module: the package has the function in its place.
    module = importlib.import_module("fnn.lab.compare")
    monkeypatch.setattr(module, "_FEW", few)
    other = ({"_in_haste", "_optimized"} - {way}).pop()
    monkeypatch.setattr(module, other, None)
    assert compared(DENSE).agrees


def test_models_that_are_equal_share_their_programs(caplog):
    def compiled():
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            caplog.clear()
            compared(fnn.serial(fnn.dense(7), fnn.tanh(), fnn.dense(6)))
        found = (re.search(r"XLA compilation of jit\((\w+)\)", text) for text in caplog.messages)
        return [match[1] for match in found if match]

    names = compiled()
    assert [names.count(name) for name in ("_gradients", "_value")] == [2, 1]
    assert compiled() == []


def test_an_infinite_difference_does_not_make_everything_agree():
    # Infinite on one side of 0, so that the difference is too.
    cliff = fnn.stateless(
        lambda key, x: (),
        lambda p, x: (jnp.where(x > 0, jnp.inf, x), ()),
        lambda p, r, dy: ((), dy),
    )
    with pytest.raises(fnn.GradientError, match="numeric"):
        fnn.check_layer(cliff, np.zeros((2, 3), "float32"))
    assert not compared(cliff, np.zeros_like(X)).agrees


def test_empty_batches_agree():
    assert fnn.check_layer(DENSE, X[:0]).agrees
    assert fnn.check_layer(fnn.relu(), X[:0]).agrees


def test_an_input_of_integers_has_no_dx_and_parameters_that_agree():
    tokens = np.array([[1, 2, 6], [0, 3, 3]], "uint8")
    assert fnn.check_layer(fnn.embedding(7, 4), tokens).agrees
    model = fnn.serial(fnn.embedding(7, 4), fnn.flatten(), fnn.dense(6))
    result = compared(model, tokens, X[:2])
    assert result.agrees
    assert [leaf.name.split("/")[0] for leaf in result.leaves] == ["params"] * 3
    params, state = model.init(KEY, tokens)
    rows = fnn.trace_activations(model, LOSS, params, state, (tokens, X[:2]), key=KEY).layers
    assert [row.name for row in rows] == ["embedding", "flatten", "dense"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_comparison_is_in_the_precision_of_the_parameters(dtype):
    x = jnp.asarray(X, dtype)
    result = compared(fnn.serial(DENSE, fnn.tanh()), x, x, dtype=dtype)
    assert (result.dtype, result.agrees) == (dtype, True)


def test_a_comparison_in_float64_is_sharp():
    with jax.enable_x64(True):
        x = X.astype("float64")
        result = compared(fnn.serial(DENSE, fnn.tanh()), x, x, dtype="float64")
    assert (result.dtype, result.agrees) == ("float64", True)
    assert result.bound < 1e-12


def trace(model, x, target, loss=LOSS):
    params, state = model.init(jax.random.key(0), x)
    return fnn.trace_activations(model, loss, params, state, (x, target), key=KEY)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_the_norm_of_activations_neither_overflows_nor_vanishes(size):
    # A linear loss, since the square of what is measured would overflow itself.
    loss = fnn.losses.Loss(
        lambda y, t: y.sum(-1),
        lambda y, t: (y.sum(-1), y),
        lambda y, dvalues: jnp.broadcast_to(dvalues[:, None], y.shape),
        lambda y, t: None,
    )
    (row,) = trace(fnn.identity(), size * X, X, loss).layers
    wide = size * X.astype("float64")
    found = np.array([row.y.norm, row.y.mean, row.y.deviation]) / size
    expected = np.array([np.linalg.norm(wide), wide.mean(), wide.std()]) / size
    assert_close(found, expected, "float32", X.size)


def test_steps_that_are_not_there_are_no_activations():
    values = np.random.default_rng(2).normal(size=(2, 3, 4)).astype("float32")
    values[1, 1:] = np.nan
    x = fnn.Sequence(jnp.asarray(values), jnp.array([3, 1]))
    model = fnn.serial(fnn.lstm(4), fnn.last_step())
    params, state = model.init(jax.random.key(0), x)
    rows, _ = trace(model, x, np.zeros((2, 4), "float32")).layers
    y = np.asarray(fnn.lstm(4).apply(params[0], state[0], x)[0].values)
    there = np.concatenate([y[0], y[1, :1]])
    found = np.array([rows.y.norm, rows.y.mean, rows.y.deviation])
    expected = np.array([np.linalg.norm(there), there.mean(), there.std()])
    assert_close(found, expected, "float32", there.size)
    assert rows.y.wrong == -1


def check(*args, **options):
    return fnn.check_layer(*args, **options)


def run(function, *args, **options):
    return function(*args, **{"key": KEY} | options)


compare = functools.partial(run, fnn.compare)
activations = functools.partial(run, fnn.trace_activations)
tune = functools.partial(run, fnn.tune)

BATCH = (X, X)
REFUSED = {
    "x of text": (lambda: check(DENSE, "a"), "x of arrays"),
    "x of python numbers": (lambda: check(DENSE, [1.0]), "x of arrays, got 1.0"),
    "no x": (lambda: check(DENSE, None), "x of arrays"),
    "complex x": (lambda: check(DENSE, X * 1j), "x of real numbers, got complex64"),
    "masked x": (lambda: check(DENSE, np.ma.masked_array(X, X > 0)), "x without masked entries"),
    "a negative seed": (lambda: check(DENSE, X, seed=-1), "seed of 0 or more, got -1"),
    "a key for a seed": (lambda: check(DENSE, X, seed=KEY), "seed of 0 or more"),
    "a flag of text": (lambda: check(DENSE, X, train="no"), "train of True or False, got 'no'"),
    "a flag of 0": (lambda: check(DENSE, X, numeric=0), "numeric of True or False"),
    "a summary of no layer": (lambda: fnn.summary(fnn.dense, X), "a layer"),
    "a summary of no array": (lambda: fnn.summary(DENSE, (6,)), "x of arrays, got 6"),
    "shapes of no layer": (lambda: fnn.lab.layer_shapes(fnn.dense, (), (), X), "a layer"),
    "a measurement of no layer": (lambda: measure(3, X, key=KEY), "a layer, got 3"),
    "no rounds": (lambda: measure(DENSE, X, key=KEY, rounds=0), "rounds of 1 or more"),
    "a choice by nothing": (lambda: fnn.lab.choose(None, "size"), "by of 'time', 'bytes'"),
    "compare: no layer": (lambda: compare(fnn.dense, LOSS, PARAMS, STATE, BATCH), "a layer"),
    "compare: no loss": (lambda: compare(DENSE, None, PARAMS, STATE, BATCH), "a Loss"),
    "compare: no batch": (lambda: compare(DENSE, LOSS, PARAMS, STATE, X), r"\(x, target\)"),
    "compare: no arrays": (lambda: compare(DENSE, LOSS, PARAMS, STATE, (X, "a")), "target of"),
    "compare: no key": (lambda: compare(DENSE, LOSS, PARAMS, STATE, BATCH, key=0), "a key, got 0"),
    "compare: a seed as flag": (
        lambda: compare(DENSE, LOSS, PARAMS, STATE, BATCH, costs="no"), "costs of True or False",
    ),
    "compare: other parameters": (
        lambda: compare(DENSE, LOSS, {"weight": PARAMS["weight"]}, STATE, BATCH),
        "params as layer.init makes them for this x, got nothing at bias",
    ),
    "compare: other shapes": (
        lambda: compare(fnn.dense(5), LOSS, PARAMS, STATE, BATCH), "params as layer.init makes",
    ),
    "compare: other state": (
        lambda: compare(DENSE, LOSS, PARAMS, {"mean": X}, BATCH), "state as layer.init makes",
    ),
    "compare: nothing": (
        lambda: compare(
            fnn.from_function(lambda x: x * 2), LOSS, (), (), (np.ones((2, 3), "int32"),) * 2
        ),
        "parameters or an x of floating values",
    ),
    "trace: other parameters": (
        lambda: activations(DENSE, LOSS, (), STATE, BATCH), "params as layer.init makes",
    ),
    "trace: several keys": (
        lambda: activations(DENSE, LOSS, PARAMS, STATE, BATCH, key=jax.random.split(KEY)),
        "one key, got 2 keys",
    ),
    "tune: no key": (lambda: tune(DENSE, LOSS, BATCH, key=None), "a key, got None"),
    "tune: no arrays": (lambda: tune(DENSE, LOSS, ("a", X)), "x of arrays"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_laboratory_cannot_work_on_is_refused_in_words(name):
    call, message = REFUSED[name]
    with pytest.raises(fnn.InputError, match=message):
        call()


def test_arrays_of_another_byte_order_are_converted():
    other = X.astype(">f4")
    assert str(check(DENSE, other)) == str(check(DENSE, X))
    assert str(fnn.summary(DENSE, other)) == str(fnn.summary(DENSE, X))
    traces = [activations(DENSE, LOSS, PARAMS, STATE, (x, x)) for x in (other, X)]
    assert traces[0] == traces[1]


@pytest.mark.parametrize("function", [fnn.compare, fnn.trace_activations, fnn.tune])
def test_a_key_is_required(function):
    arguments = (DENSE, LOSS, BATCH) if function is fnn.tune else (
        DENSE, LOSS, PARAMS, STATE, BATCH
    )  # fmt: skip
    with pytest.raises(TypeError, match="key"):
        function(*arguments)
