"""Weights: an example of weight 0 is left out, whatever it holds, wherever means are taken."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import losses, optim
from fnn.gradient.objective import auto_gradients, manual_gradients
from tests.core.test_errors import Bad, assert_complains, parametrize
from tests.layers.test_laws import assert_close
from tests.tolerance import rounding

N, INPUTS, CLASSES = 12, 4, 3
random = np.random.default_rng(5)
X = random.normal(size=(N, INPUTS)).astype("float32")
LABELS = random.integers(0, CLASSES, N).astype("int32")
WEIGHTS = np.array([1, 0, 2, 0.5, 1, 0, 0, 3, 1, 1, 0, 2], "float32")
USED = WEIGHTS > 0
KEY = jax.random.key(3)


def network(name="tanh"):
    # The derivative of exp at a large x is infinite: 0 times it is NaN.
    bend = {"tanh": fnn.tanh(), "exp": fnn.from_function(jnp.exp)}[name]
    return fnn.serial(fnn.dense(5), bend, fnn.dense(CLASSES))


def spoiled(value):
    """Data that is unusable wherever the weight is 0."""
    x, labels = X.copy(), LABELS.copy()
    x[~USED], labels[~USED] = value, -7
    return x, labels, WEIGHTS


def rest():
    return X[USED], LABELS[USED], WEIGHTS[USED]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("gradient", ["manual", "auto"])
@pytest.mark.parametrize("bend", ["tanh", "exp"])
def test_the_gradient_of_a_batch_is_that_of_the_examples_that_count(bend, gradient, value):
    model = network(bend)
    params, state = model.init(KEY, X)
    run = jax.jit(fnn.value_and_grad(model, losses.cross_entropy(), gradient))
    assert_close(
        run(params, state, spoiled(value)), run(params, state, rest()), jnp.float32, X.size
    )


def test_the_gradient_in_x_is_that_of_the_examples_that_count():
    model = network()
    params, state = model.init(KEY, X)
    run = params, state, jnp.asarray(spoiled(np.nan)[0]), LABELS, WEIGHTS, None
    by_hand, auto = (f(model, losses.cross_entropy(), *run)[1][1] for f in
                     (manual_gradients, auto_gradients))  # fmt: skip
    assert_close(by_hand, auto, jnp.float32, X.size)
    assert (by_hand[~USED] == 0).all()


@pytest.mark.parametrize("gradient", ["manual", "auto", "numeric"])
def test_a_batch_of_weight_0_has_a_value_and_a_gradient_of_0(gradient):
    model = network()
    params, state = model.init(KEY, X)
    of = fnn.value_and_grad(model, losses.cross_entropy(), gradient)
    x = X.copy()
    x[0] = np.nan
    (value, _), grads = of(params, state, (x, LABELS, np.zeros(N)))
    assert value == 0
    assert all((g == 0).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("gradient", ["manual", "auto"])
def test_where_nothing_counts_a_model_without_a_derivative_has_a_gradient_of_0(gradient):
    # The logarithm of the zeros that stand in is infinite.
    model = fnn.serial(fnn.from_function(jnp.log), fnn.dense(CLASSES))
    params, state = model.init(KEY, X)
    of = fnn.value_and_grad(model, losses.cross_entropy(), gradient)
    (value, _), grads = of(params, state, (-np.abs(X), LABELS, np.zeros(N)))
    assert value == 0
    assert all((g == 0).all() for g in jax.tree.leaves(grads))


def test_weights_of_sequences_leave_out_steps_that_are_nan():
    y = jnp.asarray(random.normal(size=(2, 3, CLASSES)), "float32")
    labels, weights = jnp.array([[0, 1, -3], [2, 5, 1]]), jnp.array([[1.0, 2, 0], [1, 0, 0]])
    spoiled = jnp.where(weights[..., None] > 0, y, jnp.nan)
    model, loss = fnn.dense(CLASSES), losses.cross_entropy()
    params = {"weight": jnp.eye(CLASSES), "bias": jnp.zeros(CLASSES)}
    used = weights > 0
    part = y[used], labels[used], weights[used]
    expected = fnn.value_and_grad(model, loss)(params, (), part)
    # The layers see what the steps hold, and the loss does not: predictions may be NaN.
    only = fnn.from_function(lambda x: x)
    for gradient in ("manual", "auto"):
        run = jax.jit(fnn.value_and_grad(model, loss, gradient))
        assert_close(run(params, (), (y, labels, weights)), expected, jnp.float32, 18)
        value = jax.jit(fnn.value_and_grad(only, loss, gradient))(
            (), (), (spoiled, labels, weights)
        )
        assert_close(value[0][0], expected[0][0], jnp.float32, 18)


def test_evaluate_leaves_out_what_has_the_weight_0():
    model, loss = network(), losses.cross_entropy()
    params, state = model.init(KEY, X)
    metrics = {
        "accuracy": fnn.accuracy,
        "nll": losses.nll(),
        "right": lambda p, t: p.argmax(-1) == t,
    }
    one, other = (
        fnn.evaluate(model, loss, params, state, data, metrics=metrics, batch_size=5)
        for data in (spoiled(np.nan), rest())
    )
    for name, value in other.items():
        np.testing.assert_allclose(one[name], value, rtol=rounding("float32", N))


@pytest.mark.parametrize("value", [np.nan, 1e30])
def test_fit_on_examples_of_weight_0_is_fit_on_other_examples_of_weight_0(value):
    ends = [
        fnn.fit(
            network("exp"), losses.cross_entropy(), optim.adam(0.01), data,
            epochs=3, batch_size=1, key=KEY,
        )
        for data in (spoiled(value), (X, LABELS, WEIGHTS))
    ]  # fmt: skip
    for one, other in zip(
        *map(jax.tree.leaves, (ends[0][0].params, ends[1][0].params)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(ends[0][1].loss, ends[1][1].loss)
    assert (ends[0][1].loss == 0).sum() == 3 * (~USED).sum()


def test_a_last_batch_of_one_example_is_trained_on():
    x, t = np.zeros((5, 1), "float32"), np.arange(1, 6, dtype="float32")[:, None]
    model, loss = fnn.dense(1), losses.squared_error()
    end, history = fnn.fit(model, loss, optim.sgd(0.0), (x, t), epochs=1, batch_size=2, key=KEY)
    # Without a step to speak of the prediction stays 0: each example adds t^2, once.
    assert history.loss.shape == (3,)
    np.testing.assert_allclose(
        history.loss @ np.array([2, 2, 1]), (t**2).sum(), rtol=rounding("float32", 5)
    )
    result = fnn.evaluate(model, loss, end.params, end.state, (x, t), batch_size=4)
    np.testing.assert_allclose(result["loss"], (t**2).mean(), rtol=rounding("float32", 5))


def fit(data, **options):
    options = {"epochs": 1, "batch_size": 4, "key": KEY} | options
    return fnn.fit(fnn.dense(CLASSES), losses.cross_entropy(), optim.sgd(0.1), data, **options)


def evaluate(data):
    params, state = fnn.dense(CLASSES).init(KEY, X)
    return fnn.evaluate(fnn.dense(CLASSES), losses.cross_entropy(), params, state, data)


def with_x(change):
    return lambda call: call((change(X), LABELS))


@parametrize(
    [
        Bad(f"{name}-{where}", lambda run=run, call=call: run(call), place or where, expected, got)
        for where, call in (("fit", fit), ("evaluate", evaluate))
        for name, run, expected, got, place in (
            ("negative", lambda call: call((X, LABELS, -WEIGHTS)), "finite weights of 0 or more",
             r"-1\.0 at weights\[0\]", ""),
            ("all-zero", lambda call: call((X, LABELS, 0 * WEIGHTS)), "a weight above 0", "none",
             ""),
            ("column", lambda call: call((X, LABELS, WEIGHTS[:, None])),
             r"weights of shape \(\d+,\), one for each value", r"\(\d+, 1\)", "losses.mean"),
            ("row-of-examples", lambda call: call(
                (X.reshape(4, 3, INPUTS).repeat(2, 1)[:, :4], np.zeros((4, 4), int),
                 np.array([1, 0, 0, 0]))), r"weights of shape \(4, 4\), one for each value",
             r"\(4,\)", "losses.mean"),
            ("overflow", with_x(lambda x: np.where(x == x[1, 2], 1e300, x.astype("float64"))),
             "finite data", r"1e\+300 at x\[1, 2\]", ""),
            ("int64", lambda call: call((X, LABELS.astype("int64") + 2**32)), "finite data",
             r"\d+ at target\[0\]", ""),
            ("masked", with_x(lambda x: np.ma.masked_array(x, x == x[0, 0])),
             "x without masked entries", "1 of 48 masked", ""),
            ("objects", with_x(lambda x: x.astype(object)), "x of numbers",
             r"object of shape \(12, 4\)", ""),
        )
    ]
)  # fmt: skip
def test_the_door_refuses(bad):
    assert_complains(bad, bad.call)


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.astype(x.dtype.newbyteorder(">")),
        np.ma.masked_array,
        lambda x: x.astype(np.longdouble) if x.dtype.kind == "f" else x.astype("int64"),
    ],
    ids=["big-endian", "masked-nothing", "wide"],
)
def test_arrays_of_other_kinds_are_converted(convert):
    expected, _ = fit((X, LABELS, WEIGHTS))
    end, _ = fit(tuple(convert(part) for part in (X, LABELS, WEIGHTS)))
    jax.tree.map(np.testing.assert_array_equal, end.params, expected.params)
    predictions = fnn.predict(fnn.relu(), (), (), convert(X))
    np.testing.assert_array_equal(predictions, np.maximum(X, 0))


def test_tensors_of_pytorch_are_converted_or_refused():
    torch = pytest.importorskip("torch")
    expected, _ = fit((X, LABELS))
    end, _ = fit((torch.tensor(X, requires_grad=True), torch.tensor(LABELS)))
    jax.tree.map(np.testing.assert_array_equal, end.params, expected.params)
    with pytest.raises(fnn.InputError, match=r"fnn\.fit: expected x of arrays, got a PyTorch"):
        fit((torch.tensor(X).bfloat16(), torch.tensor(LABELS)))
