"""The laws of losses: every case of the table under every law."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn._core.tree import combine, inexact_leaves
from fnn.lab.check import gradients, normal_like
from tests import cases
from tests.cases.losses import B, K
from tests.layers.test_laws import (
    assert_close,
    assert_results_close,
    first,
    longest,
    twice,
    unnoticed,
)


def each(chosen=cases.LOSSES):
    # All laws of a case in one process: they share its compiled programs.
    marks = [pytest.mark.together(f"loss {case.name}") for case in chosen]
    params = [
        pytest.param(case, id=case.name, marks=mark)
        for case, mark in zip(chosen, marks, strict=True)
    ]
    return pytest.mark.parametrize("case", params)


all_cases = each()


def prediction(case, variant="plain", dtype="float32"):
    factor = {"zeros": 0, "large": 40, "huge": 1e4}.get(variant, 1)

    def convert(a):
        floats = np.issubdtype(a.dtype, np.floating)
        return jnp.asarray(factor * a, dtype) if floats else jnp.asarray(a)

    return jax.tree.map(convert, case.draw(np.random.default_rng(11)))


def few(y, examples):
    """The predictions of the first examples: what has no axis for examples stays whole."""
    return jax.tree.map(lambda a: a[:examples] if a.shape[:1] == (B,) else a, y)


def wide_target(t):
    """Labels and numbers in 64 bits."""
    return t.astype(np.float64 if t.dtype == np.float32 else np.result_type(t.dtype, np.int64))


def named(name):
    return next(case for case in cases.LOSSES if case.name == name)


@functools.cache
def fixed(name, examples):
    """The loss of a case as a layer, the same object for all variants: they share a program."""
    case = named(name)
    return as_layer(case.make(), few(case.target, examples))


def as_layer(loss, target):
    """The loss of a fixed target as a layer of its prediction, so that one checker serves both."""

    def apply(params, state, y, *, key=None, train=False):
        return loss.apply(y, target), state

    def forward(params, state, y, *, key=None, train=False):
        values, residuals = loss.forward(y, target)
        return values, state, residuals

    def backward(params, residuals, dvalues):
        return (), loss.backward(residuals, dvalues)

    return fnn.Layer(lambda key, y: ((), ()), apply, forward, backward)


def run(loss, y, target):
    """Value, value by `forward`, and the gradient for a random cotangent."""
    values, residuals = loss.forward(y, target)
    dvalues = normal_like(jax.random.key(3), values)
    return loss.apply(y, target), values, loss.backward(residuals, dvalues)


@functools.cache
def compiled(name):
    """`run` of a case as one program."""
    return jax.jit(functools.partial(run, named(name).make()))


def test_the_table_has_every_public_loss():
    covered = set().union(*(cases.makers(case.make()) for case in cases.LOSSES))
    assert cases.public(fnn.losses, fnn.losses.Loss) == covered


@pytest.mark.parametrize("variant", ["plain", "zeros", "large"])
@pytest.mark.parametrize("examples", [1, B])
@all_cases
def test_backward_is_the_derivative_by_autodiff_and_by_differences(case, examples, variant):
    numeric = not (case.kink and variant == "zeros")
    y = few(prediction(case, variant), examples)
    fnn.check_layer(fixed(case.name, examples), y, numeric=numeric)


@all_cases
def test_apply_is_the_formula_of_the_docstring(case):
    with jax.enable_x64(True):
        y = prediction(case, dtype="float64")
        values = jax.jit(case.make().apply)(y, case.target)
        target = jax.tree.map(wide_target, case.target)
        assert values.shape == (B,)
        assert_close(values, case.formula(jax.tree.map(np.asarray, y), target), "float64", K)


@each([case for case in cases.LOSSES if not case.steep])
def test_large_predictions_stay_finite(case):
    results = compiled(case.name)(prediction(case, "huge"), case.target)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(results))


@pytest.mark.once
@all_cases
def test_jit_and_vmap_and_apply_agree_with_eager(case):
    y, one = prediction(case), functools.partial(run, case.make())
    target = jax.tree.map(jnp.asarray, case.target)
    expected = one(y, target)
    terms = longest(y)
    assert_close(expected[0], expected[1], jnp.float32, terms)
    assert_results_close(compiled(case.name)(y, target), expected, terms)
    both = jax.jit(jax.vmap(one))(twice(y), jax.tree.map(lambda t: jnp.stack([t, t]), target))
    assert_results_close(first(both), expected, terms)


@pytest.mark.once
@all_cases
def test_the_derivative_of_backward_is_the_second_derivative_of_apply(case):
    loss = case.make()

    @jax.jit
    def both(y, direction, dvalues):
        floats = inexact_leaves(y)

        def by_hand(floats):
            return loss.backward(loss.forward(combine(floats, y), case.target)[1], dvalues)

        def auto(floats):
            return (loss.apply(combine(floats, y), case.target) * dvalues).sum()

        return [
            jax.jvp(gradient, (floats,), (direction,))[1] for gradient in (by_hand, jax.grad(auto))
        ]

    with jax.enable_x64(True):
        y = prediction(case, dtype="float64")
        direction = normal_like(jax.random.key(6), inexact_leaves(y))
        by_hand, auto = both(y, direction, normal_like(jax.random.key(3), jnp.zeros(B)))
        assert_close(by_hand, auto, "float64", longest(y))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@all_cases
def test_the_gradient_keeps_the_dtype_and_values_are_float32_or_better(case, dtype):
    with jax.enable_x64(dtype == "float64"):
        y = prediction(case, dtype=dtype)
        # Shapes and dtypes alone: nothing is compiled.
        value, again, gradient = jax.eval_shape(lambda y: run(case.make(), y, case.target), y)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(gradient)} == {dtype}
        assert value.dtype == again.dtype == ("float64" if dtype == "float64" else "float32")
        shapes = [jax.tree.map(lambda a: a.shape, tree) for tree in (gradient, inexact_leaves(y))]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    # From a function that fnn does not know, which may read what changes: equal to itself alone.
    "case",
    [case for case in cases.LOSSES if case.name != "autodiff"],
    ids=lambda case: case.name,
)
def test_an_equal_loss_is_equal_and_prints_as_it_was_made(case):
    assert case.make() == case.make()
    assert hash(case.make()) == hash(case.make())
    assert repr(case.make()).startswith(case.name.split("-")[0])


@pytest.mark.once
@all_cases
def test_every_planted_mistake_is_caught(case):
    planted, missed = unnoticed(gradients(fixed(case.name, B), prediction(case)))
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
