"""The laws of losses: every case of the table under every law."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.gradient.check import gradients, normal_like
from tests import cases
from tests.cases.losses import B, K
from tests.test_layers import assert_close, unnoticed

all_cases = pytest.mark.parametrize("case", cases.LOSSES, ids=lambda case: case.name)


def prediction(variant="plain", dtype="float32"):
    y = np.random.default_rng(11).normal(size=(B, K))
    return jnp.asarray({"zeros": 0, "large": 40}.get(variant, 1) * y, dtype)


def as_layer(loss, target):
    """The loss of a fixed target as a layer of its prediction, so that one checker serves both."""
    return fnn.stateless(
        lambda key, y: (),
        lambda params, y: loss.forward(y, target),
        lambda params, residuals, dvalues: ((), loss.backward(residuals, dvalues)),
    )


def test_the_table_has_every_public_loss():
    covered = set().union(*(cases.makers(case.make()) for case in cases.LOSSES))
    assert cases.public(fnn.losses, fnn.losses.Loss) == covered


@pytest.mark.parametrize("variant", ["plain", "zeros", "large"])
@pytest.mark.parametrize("examples", [1, B])
@all_cases
def test_backward_is_the_derivative_by_autodiff_and_by_differences(case, examples, variant):
    layer = as_layer(case.make(), case.target[:examples])
    numeric = not (case.kink and variant == "zeros")
    fnn.check_layer(layer, prediction(variant)[:examples], numeric=numeric)


@all_cases
def test_apply_is_the_formula_of_the_docstring(case):
    with jax.enable_x64(True):
        y = prediction(dtype="float64")
        values = case.make().apply(y, case.target)
        target = np.asarray(case.target, np.result_type(case.target.dtype, np.int64))
        if case.target.dtype == np.float32:
            target = case.target.astype(np.float64)
        assert values.shape == (B,)
        assert_close(values, case.formula(np.asarray(y), target), y.dtype, K)


@pytest.mark.parametrize(
    "case", [case for case in cases.LOSSES if not case.steep], ids=lambda case: case.name
)
def test_large_predictions_stay_finite(case):
    loss = case.make()
    values, residuals = loss.forward(1e4 * prediction(), case.target)
    slope = loss.backward(residuals, jnp.ones(B))
    assert bool(jnp.isfinite(values).all())
    assert bool(jnp.isfinite(slope).all())


@all_cases
def test_jit_and_vmap_agree_with_eager(case):
    loss, y, target = case.make(), prediction(), jnp.asarray(case.target)

    def run(y, target):
        values, residuals = loss.forward(y, target)
        return values, loss.backward(residuals, normal_like(jax.random.key(3), values))

    expected = run(y, target)
    assert_close(jax.jit(run)(y, target), expected, y.dtype, K)
    both = jax.vmap(run)(jnp.stack([y, 2 * y]), jnp.stack([target, target]))
    assert_close(jax.tree.map(lambda a: a[0], both), expected, y.dtype, K)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@all_cases
def test_dtype_is_kept(case, dtype):
    with jax.enable_x64(dtype == "float64"):
        loss = case.make()
        values, residuals = loss.forward(prediction(dtype=dtype), case.target)
        assert values.dtype == dtype
        assert loss.backward(residuals, values).dtype == dtype


@all_cases
def test_an_equal_loss_is_equal_and_prints_as_it_was_made(case):
    assert case.make() == case.make()
    assert hash(case.make()) == hash(case.make())
    assert repr(case.make()).startswith(case.name.split("-")[0])


@all_cases
def test_every_planted_mistake_is_caught(case):
    planted, missed = unnoticed(gradients(as_layer(case.make(), case.target), prediction()))
    assert planted
    assert missed == []


@pytest.mark.parametrize("name", ["cross_entropy", "nll"])
def test_a_sequence_of_labels_gives_a_value_for_each(name):
    loss = getattr(fnn.losses, name)()
    y = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), "float32")
    labels = jnp.array([[0, 1, 2], [3, 0, 1]])
    flat = loss.apply(y.reshape(6, 4), labels.ravel())
    assert_close(loss.apply(y, labels), flat.reshape(2, 3), y.dtype, 1)
    fnn.check_layer(as_layer(loss, labels), y)


@pytest.mark.parametrize("label", [-1, 4])
@pytest.mark.parametrize("name", ["cross_entropy", "nll"])
def test_a_label_out_of_range_is_nan_under_jit(name, label):
    loss = getattr(fnn.losses, name)()
    values = jax.jit(loss.apply)(jnp.zeros((2, 4)), jnp.array([0, label]))
    assert bool(jnp.isfinite(values[0]))
    assert bool(jnp.isnan(values[1]))


def test_a_weighted_mean_is_the_mean_over_repeated_examples():
    values = jnp.array([1.0, 5.0, 7.0])
    weighted, share = fnn.losses.mean(values, jnp.array([2, 1, 0]))
    assert_close(weighted, fnn.losses.mean(jnp.array([1.0, 1.0, 5.0]))[0], values.dtype, 3)
    assert_close(share, jax.grad(lambda v: (v[0] * 2 + v[1]) / 3)(values), values.dtype, 3)
