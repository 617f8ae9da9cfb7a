"""What flows through a model, forwards and backwards."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from tests.cases.compound import wave
from tests.layers.test_laws import assert_close
from tests.train.test_fit import compiled

X = np.random.default_rng(1).normal(size=(8, 6)).astype(np.float32)
LOSS = fnn.losses.squared_error()


def traced(model, x=X, change=lambda params: params, target=X):
    params, state = model.init(jax.random.key(0), x)
    key = jax.random.key(1)
    return fnn.trace_activations(model, LOSS, change(params), state, (x, target), key=key)


def test_values_and_cotangents_are_those_of_a_chain_written_out():
    model = fnn.serial(fnn.dense(4), fnn.tanh(), fnn.dense(6))
    params, _ = model.init(jax.random.key(0), X)
    hidden = X @ params[0]["weight"]
    squashed = jnp.tanh(hidden)
    y = squashed @ params[2]["weight"]
    last = 2 * (y - X) / len(X)
    middle = last @ params[2]["weight"].T
    trace = traced(model)
    for row, value, cotangent in zip(
        trace.layers,
        (hidden, squashed, y),
        (middle * (1 - squashed**2), middle, last),
        strict=True,
    ):
        for flow, array in ((row.y, value), (row.dy, cotangent)):
            found = np.array([flow.norm, flow.mean, flow.deviation])
            expected = np.array([jnp.linalg.norm(array), array.mean(), array.std()])
            assert_close(found, expected, np.float32, X.size)
    assert trace.loss == pytest.approx(float(((y - X) ** 2).sum(1).mean()), rel=1e-6)


def test_every_layer_has_a_row_in_the_order_of_the_run():
    model = fnn.serial(
        zeta=fnn.dense(6),
        alpha=fnn.repeat(fnn.remat(fnn.residual(fnn.serial(fnn.dense(6), fnn.dropout(0.5)))), 2),
        both=fnn.serial(fnn.parallel(wave(), fnn.use_auto(fnn.tanh())), fnn.add()),
        back=fnn.reversible(fnn.dense(3), fnn.tanh(), 2),
    )
    trace = traced(model)
    assert [row.path for row in trace.layers] == [
        "zeta", "alpha/0[0]", "alpha/1[0]", "alpha/0[1]", "alpha/1[1]", "both/0/0", "both/0/1",
        "both/1", "back/f[0]", "back/g[0]", "back/f[1]", "back/g[1]",
    ]  # fmt: skip
    assert {len(column) for column in trace.to_dict().values()} == {12}
    assert all(row.y.norm > 0 and row.dy.norm > 0 for row in trace.layers)
    assert max(map(len, str(trace).splitlines())) <= 80
    assert str(trace).endswith("all values and cotangents are finite")


def test_a_second_look_at_the_same_model_and_at_other_numbers_compiles_nothing(caplog):
    def model(rate):
        return fnn.serial(fnn.dense(6), fnn.dropout(rate), fnn.tanh())

    first = traced(model(0.5))
    place = *model(0.1).init(jax.random.key(0), X), (X, X)
    again, programs = compiled(
        caplog, lambda: fnn.trace_activations(model(0.1), LOSS, *place, key=jax.random.key(1))
    )
    assert not programs
    assert again.layers[1].y.norm < first.layers[1].y.norm


def test_the_gradient_of_a_deep_stack_of_sigmoids_is_seen_to_vanish():
    stack = fnn.repeat(fnn.serial(fnn.dense(6), fnn.sigmoid()), 6)
    plain = [row.dy.norm for row in traced(stack).layers[::2]]
    assert all(before < 0.5 * after for before, after in itertools.pairwise(plain))


def test_a_unit_that_is_zero_for_all_examples_is_dead():
    def change(params):
        bias = params[0]["bias"].at[:3].set(-100.0)
        return ({**params[0], "bias": bias}, *params[1:])

    dense, relu, _ = traced(
        fnn.serial(fnn.dense(4), fnn.relu(), fnn.dense(6)), change=change
    ).layers
    assert (dense.y.dead, relu.y.dead, dense.dy.dead) == (0.0, 0.75, 0.75)


def test_the_first_entry_that_is_not_finite_is_found():
    log = fnn.from_function(jnp.log)
    model = fnn.serial(fnn.dense(6), log, fnn.dense(6))
    trace = traced(model)
    (_, wrong, after) = trace.layers
    params, _ = model.init(jax.random.key(0), X)
    expected = int(np.argmax((X @ params[0]["weight"]).ravel() <= 0))
    assert wrong.y.wrong == expected
    assert after.y.wrong == 0
    assert trace.first_wrong() == f"y of 1 {wrong.name}, entry {expected}"
    assert "first not finite: y of 1" in str(trace)


@pytest.mark.parametrize(
    ("change", "x", "found"),
    [
        (
            lambda params: params,
            np.where(np.arange(48).reshape(8, 6) == 10, np.inf, X),
            "x, entry 10",
        ),
        (
            lambda params: (params[0] | {"bias": params[0]["bias"].at[2].set(np.nan)},),
            X,
            "params/0/bias, entry 2",
        ),
    ],
    ids=["x", "a parameter"],
)
def test_what_is_given_and_not_finite_is_named_before_what_comes_of_it(change, x, found):
    trace = traced(fnn.serial(fnn.dense(6)), x=x.astype(np.float32), change=change)
    assert trace.first_wrong() == trace.given == found
    assert trace.layers[0].y.wrong >= 0


def test_a_float64_value_beyond_float32_is_finite():
    model = fnn.serial(fnn.identity(), fnn.from_function(lambda x: 1e100 * x))
    with jax.enable_x64(True):
        x = jnp.asarray(X, "float64")
        trace = fnn.trace_activations(
            model, fnn.losses.absolute_error(), *model.init(jax.random.key(0), x), (x, 0 * x),
            key=jax.random.key(1),
        )  # fmt: skip
    assert trace.first_wrong() == ""
    assert 1e99 < trace.loss < np.inf


def test_a_cotangent_that_is_not_finite_is_found_where_all_values_are():
    # The slope of a root at 0 is infinite.
    root = fnn.from_function(jnp.sqrt)
    trace = traced(fnn.serial(fnn.relu(), root, fnn.dense(6)), x=np.zeros_like(X), target=X)
    assert trace.first_wrong() == "dy of 0 relu, entry 0"


def test_what_is_no_model_is_refused():
    with pytest.raises(fnn.InputError, match="expected a layer"):
        fnn.trace_activations(fnn.dense, LOSS, (), (), (X, X), key=jax.random.key(0))
