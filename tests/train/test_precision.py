"""Mixed precision: products in 16 bits, all that is kept in 32, and gradients that stay finite."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

import fnn
from fnn import losses, optim
from fnn.gradient.objective import value_and_grad
from fnn.lab.check import normal_like
from fnn.train import precision as room
from tests.tolerance import rounding
from tests.train.test_checkpoint import bits

KEY = jax.random.key(2)
halves = pytest.mark.parametrize("name", ["bfloat16", "float16"])
X = jax.random.normal(jax.random.key(0), (6, 5))
TIMES = jax.random.normal(jax.random.key(1), (2, 4, 3))
LAYERS = {
    "dense": (lambda: fnn.dense(3), X),
    "network": (
        lambda: fnn.serial(fnn.dense(4), fnn.batch_norm(), fnn.gelu(), fnn.dropout(0.3)), X,
    ),
    "lstm": (lambda: fnn.lstm(3), TIMES),
    "embedding": (lambda: fnn.embedding(7, 3), jnp.array([[1, 2], [6, 0]])),
    "auto": (lambda: fnn.use_auto(fnn.dense(3)), X),
    "linear_head": (lambda: fnn.linear_head(3), X),
}  # fmt: skip


def floats(tree):
    return [a for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.floating)]


def dtypes(tree):
    return {str(a.dtype) for a in floats(tree)}


def there_and_back(layer, x, key=KEY):
    params, state = layer.init(key, x)
    y, state, residuals = layer.forward(params, state, x, key=key, train=True)
    dy = normal_like(jax.random.key(8), y)
    return y, state, residuals, *layer.backward(params, residuals, dy)


@halves
@pytest.mark.parametrize("case", LAYERS)
def test_what_goes_out_has_32_bits_and_what_is_saved_16(case, name):
    make, x = LAYERS[case]
    layer = fnn.mixed_precision(make(), name)
    y, state, residuals, dparams, dx = jax.eval_shape(lambda x: there_and_back(layer, x), x)
    assert dtypes((y, state, dparams, dx)) <= {"float32"}
    params, before = jax.eval_shape(layer.init, KEY, x)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), (params, before)) == jax.tree.map(
        lambda a: (a.shape, a.dtype), (dparams, state)
    )
    # Statistics may be kept wider than x; everything as large as x is in half precision.
    large = [a for a in floats(residuals) if a.size >= x.size]
    assert {str(a.dtype) for a in large} <= {name}


@pytest.mark.parametrize(("name", "scale"), [("bfloat16", 1.0), ("float16", 2.0**10)])
@pytest.mark.parametrize("case", LAYERS)
def test_the_gradient_by_hand_is_that_of_autodiff_in_the_same_precision(case, name, scale):
    make, x = LAYERS[case]
    fnn.check_layer(fnn.mixed_precision(make(), name, scale), x)


def test_the_checker_sees_a_wrong_gradient_in_half_precision():
    wrong = fnn.stateless(
        lambda key, x: (), lambda p, x: (x**2, x), lambda p, x, dy: ((), 3 * x * dy)
    )
    right = fnn.stateless(
        lambda key, x: (), lambda p, x: (x**2, x), lambda p, x, dy: ((), 2 * x * dy)
    )
    fnn.check_layer(fnn.mixed_precision(right), X)
    with pytest.raises(fnn.GradientError, match=r"ratio 1\.5"):
        fnn.check_layer(fnn.mixed_precision(wrong), X)


def test_a_loss_scale_that_is_not_taken_out_is_seen(monkeypatch):
    like, into = room._like, iter([True, False, False])

    def careless(cotangents, others, factor):
        return like(cotangents, others, factor if next(into) else 1.0)

    monkeypatch.setattr(room, "_like", careless)
    with pytest.raises(fnn.GradientError, match="ratio 4"):
        fnn.check_layer(fnn.mixed_precision(fnn.softplus(), "bfloat16", 4.0), X)


def products(function, *args):
    """The dtypes of what is multiplied in the matrix products of a function."""
    found = set()

    def look(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                found.update(str(v.aval.dtype) for v in equation.invars)
            for inside in jaxprs_in_params(equation.params):
                look(inside)

    look(jax.make_jaxpr(function)(*args).jaxpr)
    return found


def task():
    """A small regression, its model with running state."""
    x = jax.random.normal(jax.random.key(1), (32, 4))
    batch = x, jnp.sin(x[:, :1]) + x[:, 1:2]
    model = fnn.serial(fnn.dense(8), fnn.batch_norm(), fnn.tanh(), fnn.dropout(0.1), fnn.dense(1))
    return model, losses.squared_error(), optim.adam(0.03), batch


@functools.cache
def trained(precision, steps=60):
    """The train state after some steps, and the losses."""
    model, loss, optimizer, batch = task()
    start = fnn.init_train_state(model, optimizer, batch[0], key=KEY, precision=precision)
    step = fnn.train_step(model, loss, optimizer, precision=precision)
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s, batch), s, length=steps))
    return run(start)


@halves
def test_training_learns_the_same_in_half_precision(name):
    state, metrics = trained(name)
    wide, expected = trained(None)
    assert metrics["loss"].dtype == jnp.float32
    assert dtypes(state) == {"float32"}
    assert jax.tree.structure(state.params) == jax.tree.structure(wide.params)
    assert metrics["loss"][-10:].mean() < 0.25 * metrics["loss"][:5].mean()
    # The first loss is that of the same parameters, but for the rounding of a sum.
    bound = rounding(name, 8)
    np.testing.assert_allclose(metrics["loss"][0], expected["loss"][0], rtol=bound)


def test_the_products_of_a_step_are_in_half_precision():
    model, loss, optimizer, batch = task()
    for precision, expected in (
        (None, {"float32"}),
        ("bfloat16", {"bfloat16"}),
        ("float16", {"float16"}),
        ({"0": "bfloat16", "*": "float32"}, {"bfloat16", "float32"}),
    ):
        start = fnn.init_train_state(model, optimizer, batch[0], key=KEY, precision=precision)
        step = fnn.train_step(model, loss, optimizer, precision=precision)
        assert products(step, start, batch) == expected


def test_small_gradients_survive_float16_by_the_loss_scale():
    model, loss, x = fnn.dense(1), losses.squared_error(), jnp.full((4, 2), 1e-5)
    batch = x, jnp.full((4, 1), -1e-4)
    params = {"weight": jnp.zeros((2, 1)), "bias": jnp.zeros(1)}

    def gradient(layer, gradient):
        run = jax.jit(value_and_grad(layer, loss, gradient))
        return run(params, (), batch)[1]["weight"]

    expected = gradient(model, "manual")
    for way in ("manual", "auto"):
        lost = gradient(fnn.mixed_precision(model, "float16"), way)
        kept = gradient(fnn.mixed_precision(model, "float16", 2.0**15), way)
        assert not np.allclose(lost, expected, rtol=0.1, atol=0)
        # x itself is near the smallest number of float16, which has a few digits left.
        np.testing.assert_allclose(kept, expected, rtol=0.02)


def overflowing(optimizer):
    """A step whose gradient is infinite in float16, and finite in float32."""
    model, loss = fnn.serial(fnn.batch_norm(), fnn.dense(1)), losses.squared_error()
    batch = jax.random.normal(KEY, (4, 2)), jnp.full((4, 1), 1e4)
    start = fnn.init_train_state(model, optimizer, batch[0], key=KEY, precision="float16")
    step = fnn.train_step(model, loss, optimizer, precision="float16")
    return start, jax.jit(step)(start, batch)[0]


OPTIMIZERS = {
    "adam": optim.adam(0.1),
    "ema": optim.chain(optim.gradient_noise(0.1, key=KEY), optim.sgd(0.1, 0.9), optim.ema(0.9)),
    "sam": optim.chain(optim.sam(0.05), optim.sgd(0.1, 0.9)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_overflows_is_left_out_and_halves_the_scale(name):
    before, after = overflowing(OPTIMIZERS[name])
    for one, other in (
        (before.params, after.params),
        (before.state, after.state),
        (before.opt_state.inner, after.opt_state.inner),
    ):
        assert bits(one) == bits(other)
    assert float(after.opt_state.scale) == float(before.opt_state.scale) / 2
    assert (int(after.opt_state.skipped), int(after.opt_state.good_steps)) == (1, 0)
    assert int(after.step) == 1


@pytest.mark.parametrize(
    ("scale", "good", "grads", "expected"),
    [
        (8.0, 1999, 1.0, (16.0, 0)),
        (8.0, 5, 1.0, (8.0, 6)),
        (8.0, 1999, np.inf, (4.0, 0)),
        (8.0, 3, np.nan, (4.0, 0)),
        (1.0, 3, np.inf, (1.0, 0)),
        (2.0**24, 1999, 1.0, (2.0**24, 0)),
    ],
)
def test_the_scale_doubles_after_2000_good_steps_and_halves_after_a_bad_one(
    scale, good, grads, expected
):
    optimizer, params = room.dynamic_loss_scale(optim.sgd(0.1)), jnp.ones(1)
    state = optimizer.init(params)
    state = state._replace(scale=jnp.float32(scale), good_steps=jnp.int32(good))
    _, after = optimizer.update(jnp.array([grads], "float32"), state, params)
    assert (float(after.scale), int(after.good_steps)) == expected


def test_a_train_state_in_float16_is_saved_with_its_scale(tmp_path):
    state, _ = trained("float16")
    fnn.save_train_state(tmp_path / "m", state)
    loaded = fnn.load_train_state(tmp_path / "m", like=state)
    assert bits(loaded) == bits(state)


def test_an_average_is_found_behind_the_scale():
    optimizer, params = room.dynamic_loss_scale(OPTIMIZERS["ema"]), jnp.ones(2)
    _, state = optimizer.update(jnp.ones(2), optimizer.init(params), params)
    found = optim.eval_params(state, jnp.full(2, 7.0))
    assert found.tolist() != [7.0, 7.0]


def test_a_train_state_of_another_precision_is_refused():
    model, loss, optimizer, batch = task()
    start = fnn.init_train_state(model, optimizer, batch[0], key=KEY)
    step = fnn.train_step(model, loss, optimizer, precision="float16")
    with pytest.raises(fnn.InputError, match="an optimizer's state with a loss scale"):
        step(start, batch)


@halves
def test_metrics_are_not_averaged_in_half_precision(name):
    n = 3001
    scores = jnp.zeros((n, 2), name).at[: n // 3, 0].set(1)
    labels = jnp.zeros(n, int).at[: n // 2].set(0)
    found = fnn.evaluate(
        fnn.identity(), losses.cross_entropy(), (), (), (scores, 1 - labels),
        metrics={"half": lambda p, t: p[:, 0]}, batch_size=n,
    )  # fmt: skip
    np.testing.assert_allclose(found["half"], (n // 3) / n, rtol=rounding("float32", n))


def test_generation_goes_through_a_layer_in_half_precision():
    layer = fnn.mixed_precision(fnn.rnn(3))
    params, state = layer.init(KEY, TIMES)
    y, cache = layer.prefill(params, state, TIMES[:, :3], window=4)
    last, _ = layer.decode(params, state, cache, TIMES[:, 3:], jnp.int32(3))
    whole, _ = layer.apply(params, state, TIMES)
    found = jnp.concatenate([y, last], axis=1)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, whole, atol=rounding("bfloat16", 4))


BAD = {
    "name": ("float8", "precision of 'bfloat16', 'float16'"),
    "float32": ("float32", "precision of 'bfloat16', 'float16'"),
    "dtype": (jnp.bfloat16, "precision of 'bfloat16', 'float16'"),
    "empty": ({}, "a pattern or more"),
    "no-text": ({0: "bfloat16"}, "patterns over paths"),
    "value": ({"*": "half"}, r"precision of '\*' of 'bfloat16', 'float16', 'float32'"),
    "no-layer": ({"head": "bfloat16"}, "a pattern that matches a layer, got 'head'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_precision_is_refused(name):
    precision, message = BAD[name]
    model, loss, optimizer, batch = task()
    for call in (
        lambda: fnn.mixed_precision(model, precision),
        lambda: fnn.train_step(model, loss, optimizer, precision=precision),
        lambda: fnn.init_train_state(model, optimizer, batch[0], key=KEY, precision=precision),
    ):
        with pytest.raises(fnn.InputError, match=message):
            call()


def test_a_loss_scale_is_above_0_and_a_layer_is_asked_for():
    with pytest.raises(fnn.InputError, match="loss_scale above 0"):
        fnn.mixed_precision(fnn.dense(2), "float16", 0.0)
    with pytest.raises(fnn.InputError, match="a layer"):
        fnn.mixed_precision(len)


@functools.cache
def fitted(steps, start=None, **options):
    """A run of `fnn.fit` in float16, on batches of which the last is smaller."""
    model, loss, optimizer, batch = task()
    options |= {"key": KEY} if start is None else {"start": fitted(start)[0]}
    data = batch[0][:11], batch[1][:11]
    return fnn.fit(
        model, loss, optimizer, data, steps=steps, batch_size=4, precision="float16",
        validation=batch, **options,
    )  # fmt: skip


def test_fit_in_float16_goes_on_bit_for_bit_with_its_loss_scale():
    (whole, history), (end, rest) = fitted(8), fitted(3, start=5)
    assert bits(end) == bits(whole)
    assert float(end.opt_state.scale) > 0
    np.testing.assert_array_equal(rest.loss, history.loss[5:])


def test_validation_is_in_float32_and_that_of_evaluate():
    model, loss, _, batch = task()
    end, history = fitted(9)
    found = fnn.evaluate(model, loss, end.params, end.state, batch, batch_size=4)
    assert history.validation["loss"][-1] == found["loss"]
