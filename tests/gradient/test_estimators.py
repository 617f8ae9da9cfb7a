"""Gradients for noisy labels and private gradients: against their formulas, by every name."""

from __future__ import annotations

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import losses, optim
from fnn.gradient.estimators import label_noise as label_module
from fnn.gradient.estimators.dp_sgd import dp_sgd, privacy_spent
from fnn.gradient.estimators.label_noise import label_noise
from tests.core.test_errors import Bad, assert_complains, parametrize
from tests.tolerance import rounding

# Chance moves an estimate by more than K standard errors once in 1.7 million comparisons.
K = 5
KEY = jax.random.key(11)
LIMIT, NOISE = 2.8, 1.3


def shown(loss, target, outputs, **noise):
    """The gradient in the bias of one layer without inputs: the mean of what targets pull."""
    model = fnn.dense(outputs)
    x = jnp.zeros((len(target), 1))
    params = {"weight": jnp.zeros((1, outputs)), "bias": jnp.zeros(outputs)}
    gradient = label_noise(**noise)
    of = fnn.value_and_grad(model, loss, gradient)
    return np.asarray(of(params, (), (x, target), key=KEY)[1]["bias"], np.float64)


@pytest.mark.parametrize("flip", [0.0, 0.25, 1.0])
def test_labels_flip_to_each_other_class_as_often(flip):
    n, classes = 60_000, 4
    target = jnp.full(n, 2)
    pull = -shown(losses.cross_entropy(), target, classes, flip=flip) + 1 / classes
    expected = np.full(classes, flip / (classes - 1))
    expected[2] = 1 - flip
    deviation = np.sqrt(expected * (1 - expected) / n)
    assert (np.abs(pull - expected) <= K * deviation + rounding("float32", n)).all()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_signs_flip(dtype, sign):
    n, flip = 60_000, 0.3
    # At 0 the slope of the logistic loss is -t / 2.
    mean = -2 * shown(losses.logistic(), jnp.full((n, 1), sign, dtype), 1, flip=flip)[0]
    assert abs(sign * mean - (1 - 2 * flip)) <= K * 2 * math.sqrt(flip * (1 - flip) / n)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_labels_of_few_bits_flip_as_those_of_many(dtype):
    labels = jnp.arange(100) % 100
    flipped = [
        label_module._relabelled(label_module.as_labels(labels.astype(kind)), 0.5, 300, KEY)
        for kind in (dtype, "int32")
    ]
    np.testing.assert_array_equal(*flipped)
    assert int(flipped[0].max()) > 255


def test_labels_that_are_ignored_or_no_class_do_not_flip():
    labels = jnp.array([0, 1, -100, 1])
    x, model = jnp.zeros((4, 1)), fnn.dense(3)
    params = {"weight": jnp.zeros((1, 3)), "bias": jnp.array([0.0, 1.0, 2.0])}
    loss = losses.cross_entropy(ignore_index=-100)
    of = fnn.value_and_grad(model, loss, label_noise(flip=1.0))
    # Three labels become others; the mean stays over three, and that of 0 over all but it.
    values = {float(of(params, (), (x, labels), key=k)[0][0]) for k in jax.random.split(KEY, 20)}
    possible = -np.log(np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum())
    sums = {
        round((possible[a] + possible[b] + possible[c]) / 3, 4)
        for a in (1, 2) for b in (0, 2) for c in (0, 2)
    }  # fmt: skip
    assert {round(value, 4) for value in values} <= sums


def test_label_noise_inside_label_noise_is_other_noise():
    n = 60_000
    target = jnp.full(n, 0)
    twice = label_noise(flip=0.5)
    x, model = jnp.zeros((n, 1)), fnn.dense(2)
    params = {"weight": jnp.zeros((1, 2)), "bias": jnp.zeros(2)}
    of = fnn.value_and_grad(model, losses.cross_entropy(), label_noise(flip=0.5, gradient=twice))
    # The same flips twice would give every label back.
    share = -of(params, (), (x, target), key=KEY)[1]["bias"][1] + 0.5
    assert abs(float(share) - 0.5) <= K * 0.5 / math.sqrt(n)


def test_an_empty_batch_has_no_private_gradient():
    model = fnn.dense(2)
    params, state = model.init(KEY, jnp.ones((1, 1)))
    of = fnn.value_and_grad(model, losses.squared_error(), dp_sgd(1.0, 1.0))
    with pytest.raises(fnn.InputError, match="expected at least one example"):
        of(params, state, (jnp.zeros((0, 1)), jnp.zeros((0, 2))), key=KEY)


def test_numbers_get_a_deviation():
    n, deviation = 60_000, 0.4
    # With a prediction of 0 the loss is t^2: its mean tells the variance.
    model, x = fnn.dense(1), jnp.zeros((n, 1))
    params = {"weight": jnp.zeros((1, 1)), "bias": jnp.zeros(1)}
    of = fnn.value_and_grad(model, losses.squared_error(), label_noise(std=deviation))
    (value, _), grads = of(params, (), (x, jnp.zeros((n, 1))), key=KEY)
    assert abs(float(value) / deviation**2 - 1) <= K * math.sqrt(2 / n)
    assert abs(float(grads["bias"][0]) / 2) <= K * deviation / math.sqrt(n)


def problem(weights=False, seed=3):
    random = np.random.default_rng(seed)
    model = fnn.serial(fnn.dense(4), fnn.tanh(), fnn.dropout(0.4), fnn.dense(3))
    x = jnp.asarray(random.normal(size=(6, 5)), "float32")
    batch = (x, jnp.asarray(random.integers(0, 3, 6)))
    params, state = model.init(jax.random.key(seed), x)
    return model, params, state, batch + ((jnp.ones(6),) if weights else ())


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("gradient", ["manual", "auto"])
def test_no_noise_in_the_labels_is_the_plain_gradient_to_the_bit(gradient):
    model, params, state, batch = problem(weights=True)
    loss = losses.cross_entropy()
    for noise in ({}, {"flip": 0.0}, {"std": 0.0}):
        noisy = fnn.value_and_grad(model, loss, label_noise(**noise, gradient=gradient))
        plain = fnn.value_and_grad(model, loss, gradient)
        assert_same(noisy(params, state, batch, key=KEY), plain(params, state, batch, key=KEY))


def test_labels_are_noisy_in_another_way_at_every_step_and_the_same_from_the_same_key():
    x, target = jnp.zeros((40, 1)), jnp.arange(40) % 3
    options = {"epochs": 2, "batch_size": 40, "key": KEY}
    model, loss = fnn.dense(3), losses.cross_entropy()
    # A rate of 0: the loss changes by the labels alone.
    runs = [
        fnn.fit(
            model, loss, optim.sgd(0.0), (x, target), **options,
            gradient=label_noise(flip=0.5),
        )[1].loss
        for _ in range(2)
    ]  # fmt: skip
    np.testing.assert_array_equal(*runs)
    plain = fnn.fit(model, loss, optim.sgd(0.0), (x, target), **options)[1].loss
    np.testing.assert_allclose(plain, math.log(3), rtol=1e-5)
    params = {"weight": jnp.zeros((1, 3)), "bias": jnp.array([1.0, 0.0, -1.0])}
    of = fnn.value_and_grad(model, loss, label_noise(flip=0.5))
    values = {float(of(params, (), (x, target), key=k)[0][0]) for k in jax.random.split(KEY, 3)}
    assert len(values) == 3


def private_by_hand(model, loss, params, state, batch):
    """One gradient after the other: clipped, added, divided."""
    x, target = batch
    keys = jax.random.split(KEY, len(x))
    total, values = jax.tree.map(np.zeros_like, params), []
    for i in range(len(x)):
        (value, _), g = fnn.value_and_grad(model, loss, "auto")(
            params, state, (x[i : i + 1], target[i : i + 1]), key=keys[i]
        )
        norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(g)))
        share = min(1, LIMIT / norm)
        total = jax.tree.map(lambda t, a, s=share: t + s * np.asarray(a), total, g)
        values.append((float(value), norm))
    return values, jax.tree.map(lambda t: t / len(x), total)


@pytest.mark.parametrize(
    ("gradient", "at_once"), [("manual", 1), ("auto", 1), ("manual", 4), ("manual", 8)]
)
def test_a_private_gradient_without_noise_is_the_mean_of_the_clipped(gradient, at_once):
    model, params, state, batch = problem()
    loss = losses.cross_entropy()
    values, expected = private_by_hand(model, loss, params, state, batch)
    norms = [norm for _, norm in values]
    assert min(norms) < LIMIT < max(norms)
    private = dp_sgd(LIMIT, 0.0, at_once=at_once, gradient=gradient)
    of = fnn.value_and_grad(model, loss, private)
    (value, _), grads = jax.jit(of)(params, state, batch, key=KEY)
    bound = rounding("float32", 30)
    np.testing.assert_allclose(value, np.mean([v for v, _ in values]), rtol=bound)
    jax.tree.map(
        lambda g, e: np.testing.assert_allclose(g, e, rtol=0, atol=bound * LIMIT), grads, expected
    )


def test_many_private_gradients_in_half_precision_are_added_in_float32():
    params = {"weight": jnp.zeros((1, 1), "bfloat16"), "bias": jnp.zeros(1, "bfloat16")}
    x, target = jnp.zeros((512, 1), "bfloat16"), jnp.full((512, 1), 50, "bfloat16")
    of = fnn.value_and_grad(fnn.dense(1), losses.squared_error(), dp_sgd(1.0, 0.0))
    grads = of(params, (), (x, target), key=KEY)[1]
    # Every gradient is clipped to -1; in bfloat16 their sum would stop at -256.
    assert (grads["bias"].dtype, float(grads["bias"][0])) == (jnp.bfloat16, -1.0)


@pytest.mark.parametrize("generator", ["threefry", "counter"])
def test_a_private_gradient_has_noise_of_its_deviation_over_the_examples(generator):
    # A gradient of 0 in 120 000 weights: what is left is noise.
    n, examples = 60_000, 4
    model, x = fnn.dense(n), jnp.zeros((examples, 2))
    params = {"weight": jnp.zeros((2, n)), "bias": jnp.zeros(n)}
    of = fnn.value_and_grad(
        model, losses.squared_error(), dp_sgd(LIMIT, NOISE, generator=generator)
    )
    grads = of(params, (), (x, jnp.zeros((examples, n))), key=KEY)[1]
    deviation = NOISE * LIMIT / examples
    weight, bias = (np.asarray(grads[name], np.float64) for name in ("weight", "bias"))
    assert abs(weight.mean()) <= K * deviation / math.sqrt(2 * n)
    assert abs(weight.var() / deviation**2 - 1) <= K * math.sqrt(2 / (2 * n))
    assert abs((weight**4).mean() / deviation**4 - 3) <= K * math.sqrt(96 / (2 * n))
    r = np.corrcoef([weight[0], weight[1], bias])
    assert np.abs(r - np.eye(3)).max() <= K / math.sqrt(n)
    other = of(params, (), (x, jnp.zeros((examples, n))), key=jax.random.key(12))[1]
    assert abs(np.corrcoef(bias, other["bias"])[0, 1]) <= K / math.sqrt(n)


def test_private_training_learns_and_one_outlier_pulls_by_the_limit_at_most():
    x = jnp.linspace(-1, 1, 64)[:, None]
    outlier = (2 * x).at[0].set(1e4)
    ends = []
    for target in (2 * x, outlier):
        train_state, _ = fnn.fit(
            fnn.dense(1), losses.squared_error(), optim.sgd(0.1), (x, target),
            epochs=120, batch_size=64, key=KEY, gradient=dp_sgd(1.0, 0.5),
        )  # fmt: skip
        ends.append(float(train_state.params["weight"][0, 0]))
    assert abs(ends[0] - 2) < 0.5
    assert abs(ends[0] - ends[1]) <= 120 * 0.1 * 2 / 64


def test_estimators_compare_by_their_call_and_stand_in_each_other():
    assert label_noise(flip=0.1) == label_noise(flip=0.1) != label_noise(flip=0.2)
    assert str(dp_sgd(1.0, 1.1)) == "dp_sgd(1.0, 1.1)"
    model, params, state, batch = problem()
    both = label_noise(flip=0.5, gradient=dp_sgd(LIMIT, NOISE))
    of = fnn.value_and_grad(model, losses.cross_entropy(), both)
    grads = jax.eval_shape(lambda *a: of(*a, key=KEY), params, state, batch)[1]
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)


def test_privacy_needs_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ImportError, match=r"fnn\.privacy_spent.*pip install 'fnn\[private\]'"):
        privacy_spent(1.0, 10, 100, 5, 1e-5)


spent = {"noise": 1.0, "batch_size": 10, "examples": 100, "steps": 5, "delta": 1e-5}


def label(target, model=None, key=None, **noise):
    model = model or fnn.dense(2)
    x = jnp.zeros((3, 1))
    params, state = model.init(KEY, x)
    of = fnn.value_and_grad(model, losses.squared_error(), label_noise(**noise))
    return of(params, state, (x, target), key=key)


def private(model, *weights, key=KEY):
    x = jnp.zeros((3, 1))
    params, state = model.init(KEY, x)
    of = fnn.value_and_grad(model, losses.squared_error(), dp_sgd(1.0, 1.0))
    return of(params, state, (x, jnp.zeros((3, 2)), *weights), key=key)


LABEL, PRIVATE, SPENT = "label_noise", "dp_sgd", "privacy_spent"


@parametrize(
    [
        Bad("flip", lambda: label_noise(flip=1.5), LABEL, r"a flip in \[0, 1\]", r"1\.5"),
        Bad(
            "deviation",
            lambda: label_noise(std=-1.0),
            LABEL,
            "std of 0 or more",
            r"-1\.0",
        ),
        Bad(
            "both",
            lambda: label_noise(flip=0.1, std=0.1),
            LABEL,
            "a flip for labels or a std for numbers",
            r"flip=0\.1 and std=0\.1",
        ),
        Bad("key", lambda: label(jnp.zeros((3, 2)), std=0.1), LABEL, "a key", "None"),
        Bad(
            "distributions",
            lambda: label(jnp.full((3, 2), 0.5), key=KEY, flip=0.1),
            LABEL,
            r"labels of integers, or -1 and \+1, for a flip",
            r"0\.5 at target\[0, 0\]",
        ),
        *(
            Bad(
                f"{name}-{value!r}",
                lambda name=name, value=value: label_noise(**{name: value}),
                LABEL,
                f"{name} .*",
                ".*",
            )
            for name in ("flip", "std")
            for value in (np.float32(-1), jnp.array(np.nan), 1j, "1", True)
        ),
        Bad(
            "integers",
            lambda: label_module._shaken(jnp.zeros(3, int), 0.1, KEY),
            "",
            "targets of a floating dtype for a std",
            r"int32 of shape \(3,\)",
        ),
        Bad("limit", lambda: dp_sgd(0.0, 1.0), PRIVATE, "a limit above 0", r"0\.0"),
        Bad(
            "at-once",
            lambda: dp_sgd(1.0, 1.0, at_once=0),
            PRIVATE,
            "at_once of 1 or more",
            "0",
        ),
        Bad("noise", lambda: dp_sgd(1.0, -1.0), PRIVATE, "noise of 0 or more", r"-1\.0"),
        Bad("no-key", lambda: private(fnn.dense(2), key=None), PRIVATE, "a key", "None"),
        Bad(
            "state",
            lambda: private(fnn.serial(fnn.dense(2), fnn.batch_norm())),
            PRIVATE,
            "a model without running state",
            "2 arrays of it",
        ),
        Bad(
            "weights",
            lambda: private(fnn.dense(2), jnp.ones(3)),
            PRIVATE,
            "examples without weights",
            r"float32 of shape \(3,\)",
        ),
        *(
            Bad(
                f"spent-{name}",
                lambda name=name, value=value: privacy_spent(**spent | {name: value}),
                SPENT,
                expected,
                got,
            )
            for name, value, expected, got in (
                ("noise", 0.0, "noise above 0", r"0\.0"),
                ("steps", 0, "steps of 1 or more", "0"),
                ("batch_size", 101, "a batch_size of at most 100 examples", "101"),
                ("delta", 1.0, r"a delta in \(0, 1\)", r"1\.0"),
            )
        ),
    ]
)
def test_estimators_refuse(bad):
    assert_complains(bad, bad.call)


@pytest.mark.parametrize("size", [1e15, 1e-15])
def test_private_gradients_beyond_the_range_of_squares_are_clipped_as_in_float64(size):
    random = np.random.default_rng(2)
    x, target = (size * random.normal(size=(5, n)) for n in (3, 2))
    x, target = x.astype("float32"), target.astype("float32")
    model, params = fnn.dense(2, bias=False), {"weight": jnp.zeros((3, 2))}
    # Of the gradient of each example, -2 x t, of a size of 1e30 or 1e-30.
    wide = -2 * x.astype("float64")[:, :, None] * target.astype("float64")[:, None]
    norms = np.sqrt((wide**2).sum((1, 2)))
    limit = float(np.median(norms))
    expected = (wide * np.minimum(1, limit / norms)[:, None, None]).mean(0)
    private = fnn.value_and_grad(model, losses.squared_error(), dp_sgd(limit, 0.0, at_once=2))
    _, grads = private(params, (), (x, target), key=KEY)
    scale = abs(expected).max()
    bound = rounding("float32", 30) * scale
    np.testing.assert_allclose(grads["weight"], expected, rtol=0, atol=bound)
