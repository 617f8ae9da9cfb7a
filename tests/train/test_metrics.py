"""Metrics: one value for each example, averaged by their weights, under a name of their own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import losses
from tests.core.test_errors import Bad, assert_complains, parametrize
from tests.tolerance import rounding

SCORES = jnp.array([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 2.0, 1.0]])
LABELS = jnp.array([0, 1, 0])
ONE_HOT = jax.nn.one_hot(LABELS, 3)
RUNS = pytest.mark.parametrize("run", [lambda f: f, jax.jit], ids=["eager", "jit"])


def evaluate(metrics, target=LABELS, scores=SCORES, loss=None, batch_size=2):
    loss = loss or losses.cross_entropy()
    return fnn.evaluate(
        fnn.identity(), loss, (), (), (scores, target), metrics=metrics, batch_size=batch_size
    )


@parametrize(
    [
        Bad(name, lambda metrics=metrics: evaluate(metrics), "evaluate", expected, got)
        for name, metrics, expected, got in (
            ("loss", {"loss": fnn.accuracy}, "metrics with names of their own", "'loss'"),
            ("number", {1: fnn.accuracy}, "metrics with names of their own", "1"),
            ("list", [fnn.accuracy], "metrics by name", r"\[<function .*"),
            ("function", fnn.accuracy, "metrics by name", "<function .*"),
            ("no-function", {"a": 3}, "metric 'a' to be a function", "3"),
            ("mean", {"a": lambda p, t: fnn.accuracy(p, t).mean()},
             "metric 'a' to give one value for each example", r"float32 of shape \(\)"),
            ("float", {"a": lambda p, t: 0.5},
             "metric 'a' to give one value for each example", r"0\.5"),
            ("classes", {"a": lambda p, t: p[:1].sum(0)},
             "metric 'a' to give one value for each example", r"float32 of shape \(3,\)"),
            ("complex", {"a": lambda p, t: p[:, 0].astype("complex64")},
             "metric 'a' to give one value for each example", r"complex64 of shape \(2,\)"),
        )
    ]
)  # fmt: skip
def test_metrics_are_refused(bad):
    assert_complains(bad, bad.call)


@RUNS
@pytest.mark.parametrize(
    "target",
    [LABELS, LABELS.astype("uint8"), ONE_HOT, 0.1 + 0.7 * ONE_HOT],
    ids=["labels", "uint8", "one-hot", "probabilities"],
)
def test_accuracy_is_the_fraction_of_right_answers_whatever_the_target(target, run):
    assert run(fnn.accuracy)(SCORES, target).tolist() == [1, 1, 0]


def test_accuracy_of_one_hot_targets_is_a_metric():
    result = evaluate({"accuracy": fnn.accuracy}, ONE_HOT)
    np.testing.assert_allclose(result["accuracy"], 2 / 3, rtol=rounding("float32", 3))


@RUNS
def test_a_single_example_is_judged_as_one_of_many(run):
    for target in (jnp.array([1]), jnp.array([[0.0, 1.0, 0.0]]), jnp.array([[0.2, 0.5, 0.3]])):
        assert run(fnn.accuracy)(jnp.array([[0.0, 2.0, 1.0]]), target).tolist() == [1]


@RUNS
@pytest.mark.parametrize("kind", ["int32", "float32", "bool"])
def test_accuracy_of_signs_is_the_fraction_of_right_outputs(kind, run):
    y = jnp.array([[1.0, -2.0], [3.0, 4.0], [-1.0, -1.0]])
    signs = np.array([[1, -1], [-1, 1], [1, 1]])
    target = jnp.asarray(signs > 0 if kind == "bool" else signs, kind)
    assert run(fnn.accuracy)(y, target).tolist() == [1, 0.5, 0]
    assert run(losses.zero_one().apply)(y, target).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "target",
    [jnp.array([0, 3, 0]), jnp.array([0, -1, 0]), jnp.array([[1, -1, 1], [1, 0, 1], [1, 1, 1]])],
    ids=["too-large", "negative", "no-sign"],
)
def test_an_answer_that_cannot_be_judged_is_nan_under_jit(target):
    values = jax.jit(fnn.accuracy)(SCORES, target)
    assert jnp.isnan(values).tolist() == [False, True, False]


def test_signs_of_sequences_given_as_floats_are_nan_under_jit():
    # Of three axes floats are shares of classes, of which none is negative.
    signs = jnp.array([[[1.0, -1, 1], [-1, 1, 1]]])
    assert jnp.isnan(jax.jit(fnn.accuracy)(signs, signs)).all()


@RUNS
def test_a_prediction_of_nan_is_no_answer(run):
    for target in (LABELS, ONE_HOT, jnp.sign(SCORES - 1.5)):
        values = run(fnn.accuracy)(SCORES.at[1, 0].set(jnp.nan), target)
        assert jnp.isnan(values).tolist() == [False, True, False]


def test_losses_that_do_not_take_the_targets_are_no_metrics_of_them():
    bad = Bad("", None, "losses.hinge", r"labels -1 and \+1", r"0\.0 at target\[0, 1\]")
    assert_complains(bad, lambda: evaluate({"hinge": losses.hinge()}, ONE_HOT))


def test_predictions_of_several_heads_are_no_array_to_be_converted():
    y, labels = {"a": np.ones((4, 2), "float32")}, {"a": np.zeros(4, int)}
    for use in (fnn.accuracy, fnn.losses.cross_entropy().check):
        with pytest.raises(fnn.InputError, match=r"pick one .*fnn\.losses\.weighted_sum"):
            use(y, labels)


def test_booleans_and_integers_are_averaged():
    result = evaluate({
        "bool": lambda p, t: p.argmax(-1) == t,
        "int": lambda p, t: (p.argmax(-1) == t).astype(int),
        "half": lambda p, t: fnn.accuracy(p, t).astype("bfloat16"),
    })  # fmt: skip
    assert result["bool"] == result["int"] == result["half"] == result["bool"]
    np.testing.assert_allclose(result["bool"], 2 / 3, rtol=rounding("float32", 3))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_means_of_half_precision_are_those_of_float32(dtype):
    ones, loss = jnp.ones((70_000, 1), dtype), losses.squared_error()
    metrics = {"same": lambda p, t: p[:, 0]}
    result = fnn.evaluate(
        fnn.identity(), loss, (), (), (ones, 0 * ones), metrics=metrics, batch_size=70_000
    )
    assert result == {"loss": 1.0, "same": 1.0}


def test_what_the_loss_ignores_is_left_out_of_the_metrics():
    labels = jnp.array([0, -100, 0])
    loss = losses.cross_entropy(ignore_index=-100)
    metrics = {"accuracy": fnn.accuracy, "nll": losses.nll(ignore_index=-100)}
    result = evaluate(metrics, labels, loss=loss)
    rest = jnp.array([0, 2])
    expected = evaluate({"accuracy": fnn.accuracy, "nll": losses.nll()}, labels[rest], SCORES[rest])
    assert list(result) == ["loss", "accuracy", "nll"]
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, rtol=rounding("float32", 3))


def test_a_metric_of_examples_stands_beside_a_loss_of_their_steps():
    scores = jnp.broadcast_to(SCORES[:, None], (3, 2, 3))
    labels = jnp.array([[0, -1], [1, 1], [0, -1]])
    result = evaluate(
        {"right": lambda p, t: (p.argmax(-1) == t)[:, 0]}, labels, scores,
        losses.cross_entropy(ignore_index=-1),
    )  # fmt: skip
    np.testing.assert_allclose(result["right"], 2 / 3, rtol=rounding("float32", 3))


def test_nan_parameters_have_no_accuracy():
    params = {"weight": jnp.full((3, 3), jnp.nan), "bias": jnp.zeros(3)}
    result = fnn.evaluate(
        fnn.dense(3), losses.zero_one(), params, (), (SCORES, LABELS),
        metrics={"accuracy": fnn.accuracy},
    )  # fmt: skip
    assert np.isnan(list(result.values())).all()


def test_a_loss_of_nan_is_nan_and_not_the_distance_of_no_angle():
    params = {"weight": jnp.full((3, 3), jnp.nan), "bias": jnp.zeros(3)}
    result = fnn.evaluate(fnn.dense(3), losses.cosine_distance(), params, (), (SCORES, ONE_HOT))
    assert np.isnan(result["loss"])


def test_fit_takes_one_hot_targets_and_their_accuracy():
    _, history = fnn.fit(
        fnn.dense(3), losses.cross_entropy(), fnn.optim.sgd(0.1), (SCORES, ONE_HOT), epochs=2,
        batch_size=3, key=jax.random.key(0), validation=(SCORES, ONE_HOT),
        metrics={"accuracy": fnn.accuracy},
    )  # fmt: skip
    assert ((history.validation["accuracy"] >= 0) & (history.validation["accuracy"] <= 1)).all()
