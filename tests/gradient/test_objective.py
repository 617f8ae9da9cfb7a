"""Manual, automatic and numeric gradients of whole models, and the comparison of them."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.gradient.numeric import numeric_gradient
from tests.cases.compound import block, wave
from tests.layers.test_laws import assert_close
from tests.tolerance import difference

X = np.random.default_rng(1).normal(size=(8, 5)).astype(np.float32)
LABELS = np.arange(8) % 3
WEIGHTS = np.array([1, 0, 2, 1, 0.5, 1, 0, 3], np.float32)
LOSS = fnn.losses.cross_entropy(0.1)
KEY = jax.random.key(1)
WAYS = ["manual", "auto", "numeric"]


def model():
    return fnn.serial(
        enter=fnn.dense(5),
        deep=fnn.repeat(fnn.residual(block()), 2),
        leave=fnn.serial(fnn.dropout(0.2), fnn.dense(3)),
    )


def gradients(ways, weights=None, dtype="float64"):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(X, dtype)
        params, state = model().init(jax.random.key(0), x)
        batch = (x, LABELS) if weights is None else (x, LABELS, jnp.asarray(weights, dtype))
        return [
            jax.jit(fnn.value_and_grad(model(), LOSS, way))(
                params, state, batch, key=jax.random.key(1)
            )
            for way in ways
        ]


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_manual_auto_and_numeric_are_one_gradient_in_float64(weights):
    manual, auto, numeric = gradients(WAYS, weights)
    assert_close(manual, auto, np.float64, X.size)
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(auto[1]))
    for one, other in zip(jax.tree.leaves(numeric[1]), jax.tree.leaves(auto[1]), strict=True):
        assert np.abs(one - other).max() <= difference(np.float64, X.size) * scale


def test_manual_is_auto_in_float32():
    manual, auto = gradients(WAYS[:2], WEIGHTS, "float32")
    assert_close(manual, auto, np.float32, X.size)


def test_a_model_without_parameters_has_a_gradient_without_any():
    x = jnp.ones((2, 3))
    for way in WAYS:
        (value, _), grads = fnn.value_and_grad(fnn.relu(), fnn.losses.squared_error(), way)(
            (), (), (x, 0 * x)
        )
        assert (float(value), grads) == (3.0, ())


def test_a_batch_without_examples_is_refused():
    for way in WAYS:
        of = fnn.value_and_grad(fnn.relu(), fnn.losses.squared_error(), way)
        with pytest.raises(fnn.InputError, match=r"losses\.mean: expected at least one value"):
            of((), (), (jnp.ones((0, 3)), jnp.ones((0, 3))))


def test_an_example_of_weight_zero_does_not_matter():
    # Without batch norm, where examples see each other.
    net = fnn.serial(fnn.dense(4), fnn.tanh(), fnn.dense(3))
    params, state = net.init(jax.random.key(0), X)
    run = fnn.value_and_grad(net, LOSS)
    used = WEIGHTS > 0
    part = run(params, state, (X[used], LABELS[used], WEIGHTS[used]))
    assert_close(run(params, state, (X, LABELS, WEIGHTS)), part, np.float32, X.size)


def test_manual_calls_no_differentiation_of_jax(monkeypatch):
    def forbidden(*args, **kwargs):
        raise RuntimeError("differentiation")

    for name in ("grad", "value_and_grad", "vjp", "jvp", "linearize", "jacfwd", "jacrev"):
        monkeypatch.setattr(jax, name, forbidden)
    gradients(["manual"])
    with pytest.raises(RuntimeError, match="differentiation"):
        gradients(["auto"])
    # And a layer without a manual gradient does call it, so the test above would have seen it.
    with pytest.raises(RuntimeError, match="differentiation"):
        wave().forward({"a": 1.0}, {"seen": 0.0}, jnp.ones((2, 3)))


def comparison(net, **options):
    params, state = net.init(jax.random.key(0), X)
    return fnn.compare(net, LOSS, params, state, (X, LABELS), key=KEY, **options)


def test_compare_finds_manual_equal_to_auto_and_float64_and_numeric():
    result = comparison(model())
    assert result.agrees
    assert "manual equals auto" in str(result)
    assert len(result.leaves) == 2 + 4 + 2 + 1
    assert max(row.error for row in result.directions) > 0


@pytest.mark.parametrize("factor", [1.001, -1])
def test_compare_says_so_when_a_backward_is_wrong(factor):
    wrong = fnn.stateless(
        lambda key, x: (), lambda p, x: (x, ()), lambda p, r, dy: ((), factor * dy)
    )
    result = comparison(fnn.serial(fnn.dense(4), wrong, fnn.dense(3)))
    assert not result.agrees
    assert "manual DIFFERS FROM auto" in str(result)
    right = {leaf.name for leaf in result.leaves if leaf.manual.error <= result.bound}
    assert right == {"params/2/bias", "params/2/weight"}


def test_compare_shows_every_layer_and_marks_those_without_a_manual_gradient():
    result = comparison(fnn.serial(fnn.dense(4), wave(), fnn.relu(), fnn.dense(3)), costs=True)
    *layers, whole = result.costs
    assert [cost.name for cost in layers] == ["dense", "autodiff (auto)", "relu", "dense"]
    assert "autodiff (auto)" in str(result)
    assert all(way.milliseconds > 0 for cost in result.costs for way in cost.ways)
    assert all(way.compile_seconds > 0 for cost in result.costs for way in cost.ways)
    assert [way.kept_bytes for way in layers[0].ways] == [X.nbytes, X.nbytes]
    # A product forward and two backward, a multiplication and an addition each.
    assert layers[0].ways.manual.flops >= 3 * 2 * 8 * 5 * 4
    assert whole.ways.manual.flops > sum(cost.ways.manual.flops for cost in (layers[0], layers[3]))


def test_compare_fits_a_terminal_80_columns_wide():
    wide = fnn.serial(a_name_as_long_as_those_of_large_models=fnn.serial(inside=fnn.dense(3)))
    for net in (model(), wide):
        assert max(map(len, str(comparison(net)).splitlines())) <= 80


def test_compare_names_the_worst_place_of_a_wrong_leaf_and_guesses_why():
    wrong = fnn.stateless(lambda key, x: (), lambda p, x: (x, ()), lambda p, r, dy: ((), -dy))
    result = comparison(fnn.serial(fnn.dense(4), wrong, fnn.dense(3)))
    lines = " ".join(str(result).split())
    found = re.findall(
        r"params/0/weight is (\S+) at \[(\d), (\d)\], and (\S+) by auto in float64", lines
    )
    ((value, row, column, reference),) = found
    assert float(value) == -float(reference)
    assert lines.count("ratio -1; guess: sign") == 3
    leaves = result.to_dict()["leaves"]
    assert leaves["float64_place"][leaves["leaf"].index("params/0/weight")] == (
        int(row), int(column),
    )  # fmt: skip
    assert max(map(len, str(result).splitlines())) <= 80


def test_a_comparison_is_columns_of_equal_length():
    # Two leaves of the dense layer and x; the layer and the whole.
    plain = comparison(fnn.serial(fnn.dense(3)), costs=True).to_dict()
    assert {len(column) for column in plain["leaves"].values()} == {3}
    assert {len(column) for column in plain["costs"].values()} == {2}
    assert plain["costs"]["layer"] == ["dense", "the whole"]
    assert plain["leaves"]["manual_guess"] == ["", "", ""]
    assert plain["directions"]["of"] == ["params"] * 3 + ["x"] * 3
    assert {len(column) for column in plain["directions"].values()} == {6}
    value, reference, ratio = (
        plain["leaves"][f"auto_{c}"] for c in ("value", "reference", "ratio")
    )
    assert ratio == [v / r for v, r in zip(value, reference, strict=True)]
    assert "jax" in plain["machine"]


def test_the_checker_names_leaf_index_and_ratio_of_a_mistake():
    def backward(params, x, dy):
        dparams, dx = right.backward(params, x, dy)
        weight = dparams["weight"].at[1, 2].multiply(2)
        return {**dparams, "weight": weight}, dx

    right = fnn.dense(3)
    wrong = fnn.Layer(right.init, right.apply, right.forward, backward)
    with pytest.raises(fnn.GradientError, match=r"dparams/weight is .* at \[1, 2\], .* ratio 2\b"):
        fnn.check_layer(wrong, X)


def test_the_checker_refuses_gradients_of_another_shape_or_structure():
    right = fnn.dense(3)
    for backward, message in (
        (lambda p, x, dy: ({"weight": p["weight"]}, x), "structure"),
        (lambda p, x, dy: ({"weight": p["weight"].T, "bias": p["bias"]}, x), "shape"),
    ):
        wrong = fnn.Layer(right.init, right.apply, right.forward, backward)
        with pytest.raises(fnn.GradientError, match=message):
            fnn.check_layer(wrong, X)


def test_the_checker_catches_nan():
    nan = fnn.stateless(
        lambda key, x: (), lambda p, x: (x, ()), lambda p, r, dy: ((), dy.at[0, 0].set(jnp.nan))
    )
    with pytest.raises(fnn.GradientError, match=r"dx is nan at \[0, 0\]"):
        fnn.check_layer(nan, X)


def temporary_bytes(net, x):
    params, state = net.init(jax.random.key(0), x)
    run = fnn.value_and_grad(net, fnn.losses.squared_error())
    program = jax.jit(run).lower(params, state, (x, x)).compile()
    return program.memory_analysis().temp_size_in_bytes


def test_remat_saves_memory_in_the_compiled_program():
    x = jnp.ones((256, 64))
    plain = fnn.serial(*[fnn.serial(fnn.dense(64), fnn.gelu(), fnn.tanh()) for _ in range(8)])
    thrifty = fnn.serial(*[fnn.remat(fnn.serial(fnn.dense(64), fnn.gelu(), fnn.tanh()))] * 8)
    assert temporary_bytes(thrifty, x) < 0.75 * temporary_bytes(plain, x)


def arrays_of_gelus(depth):
    """What some dense layers with a GELU keep, in arrays as large as x."""
    x = jnp.ones((256, 64))
    net = fnn.serial(*[fnn.serial(fnn.dense(64), fnn.gelu()) for _ in range(depth)])
    return temporary_bytes(net, x) / x.nbytes


def test_a_gelu_keeps_its_input_alone_in_the_compiled_program():
    # And its output, which is the input of the next layer, and what one needs for the moment.
    assert arrays_of_gelus(8) <= 2 * 8 + 2


def test_what_a_gelu_would_keep_beside_its_input_is_seen(monkeypatch):
    monkeypatch.setattr(jax.lax, "optimization_barrier", lambda x: x)
    assert arrays_of_gelus(8) > 2 * 8 + 2


def test_the_program_of_many_copies_of_a_repeat_does_not_grow_with_their_number():
    def size(times):
        net = fnn.repeat(fnn.serial(fnn.dense(5), fnn.tanh()), times)
        params, state = net.init(jax.random.key(0), X)
        run = fnn.value_and_grad(net, fnn.losses.squared_error())
        return len(jax.jit(run).lower(params, state, (X, X)).as_text().splitlines())

    assert size(40) == size(5)


def test_few_copies_of_a_repeat_are_written_out():
    net = fnn.repeat(fnn.serial(fnn.dense(5), fnn.tanh()), 4)
    params, state = net.init(jax.random.key(0), X)
    run = fnn.value_and_grad(net, fnn.losses.squared_error())
    assert "while" not in jax.jit(run).lower(params, state, (X, X)).as_text()


def test_repeat_is_serial_with_stacked_parameters():
    repeated = fnn.repeat(block(), 3)
    params, state = repeated.init(jax.random.key(0), X)
    single = [jax.tree.map(lambda a, i=i: a[i], (params, state)) for i in range(3)]
    x = X
    for p, s in single:
        x, _ = block().apply(p, s, x)
    assert_close(repeated.apply(params, state, X)[0], x, np.float32, X.size)


def test_differences_at_kinks_are_left_out_of_a_comparison():
    model = fnn.serial(fnn.reshape(4, 4, 1), fnn.conv(3, 3), fnn.max_pool(2), fnn.flatten())
    x = jnp.zeros((2, 16)).at[:, 5].set(jnp.array([1.0, 0.5]))
    params, state = model.init(jax.random.key(0), x)
    target = jax.random.normal(jax.random.key(1), (2, 12))
    # Where all is background the numbers of a window are equal: the slopes on the two sides differ.
    found = fnn.compare(model, fnn.losses.squared_error(), params, state, (x, target), key=KEY)
    assert found.agrees, str(found)
    assert {row.of for row in found.directions if row.kink} == {"x"}
    assert "At a kink in x: differences say nothing" in str(found)


def test_what_a_model_keeps_counts_the_loss_in_both_ways():
    x, labels = jnp.ones((8, 4)), jnp.zeros(8, jnp.int32)
    dense, loss = fnn.dense(1000), fnn.losses.cross_entropy()
    params, state = dense.init(jax.random.key(0), x)
    whole = fnn.compare(dense, loss, params, state, (x, labels), key=KEY, costs=True).costs[-1]
    # By hand the slope at the logits is kept, by autodiff as much or more.
    assert whole.ways.manual.kept_bytes >= 8 * 1000 * 4
    assert whole.ways.auto.kept_bytes >= 8 * 1000 * 4


def test_central_differences_step_on_the_scale_of_their_parameter():
    params = jnp.array([3e6, -2e6], "float32")
    found = numeric_gradient(lambda p: (p * jnp.abs(p)).sum(), params)
    error = jnp.abs(found / (2 * jnp.abs(params)) - 1)
    assert jnp.max(error) < difference(np.float32, params.size)
