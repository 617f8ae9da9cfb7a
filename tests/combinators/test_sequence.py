"""Padding: what is not there reaches nothing that is, forward or backward, even if it is NaN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.combinators.sequence import step_mask
from tests.core.test_errors import Bad, assert_complains, ones

KEY = jax.random.key(5)
LENGTHS = np.array([3, 1])
THERE = np.arange(3) < LENGTHS[:, None]


def padded_with(number, lengths=LENGTHS):
    values = jax.random.normal(KEY, (2, 3, 4))
    return fnn.Sequence(jnp.where(THERE[..., None], values, number), jnp.asarray(lengths))


@pytest.mark.parametrize("lengths", [LENGTHS, THERE], ids=["lengths", "mask"])
@pytest.mark.parametrize(
    "layer",
    [fnn.dense(3), fnn.layer_norm(), fnn.prelu(), fnn.swiglu(3), fnn.softmax(), fnn.batch_norm()],
    ids=lambda layer: layer.name,
)
def test_padding_of_nan_changes_no_output_state_or_gradient(layer, lengths):
    layer = fnn.over_sequence(layer)
    params, state = layer.init(KEY, padded_with(0.0))

    def run(x, dy_of_padding):
        y, new_state, residuals = layer.forward(params, state, x, train=True)
        dy = jnp.where(THERE[..., None], jnp.cos(y.values), dy_of_padding)
        applied, _ = layer.apply(params, state, x, train=True)
        gradients = layer.backward(params, residuals, fnn.Sequence(dy))
        return y.values, applied.values, new_state, gradients

    found = run(padded_with(jnp.nan, lengths), jnp.nan)
    jax.tree.map(np.testing.assert_array_equal, found, run(padded_with(0.0, lengths), 0.0))
    for leaf in jax.tree.leaves(found):
        assert np.isfinite(leaf).all()
    for values in (found[0], found[3][1].values):
        np.testing.assert_array_equal(values[~THERE], 0)


def test_values_that_are_there_are_those_of_the_layer():
    x, layer = padded_with(jnp.nan), fnn.over_sequence(fnn.dense(3))
    params, state = layer.init(KEY, x)
    y, _ = layer.apply(params, state, x)
    wanted, _ = fnn.dense(3).apply(params, (), x.values)
    np.testing.assert_array_equal(y.values[THERE], wanted[THERE])


def test_tokens_in_the_padding_need_be_no_tokens():
    layer = fnn.over_sequence(fnn.embedding(3, 2))
    x = fnn.Sequence(jnp.array([[0, 2, 1], [1, -1, 99]]), jnp.asarray(LENGTHS))
    params, state = layer.init(KEY, x._replace(values=jnp.zeros((2, 3), "int32")))
    y, _, residuals = layer.forward(params, state, x)
    np.testing.assert_array_equal(y.values[~THERE], 0)
    dparams, dx = layer.backward(params, residuals, y._replace(values=jnp.ones((2, 3, 2))))
    np.testing.assert_array_equal(dparams["weight"], [[1, 1], [2, 2], [1, 1]])
    assert dx.values is None


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32"])
def test_lengths_of_small_integers_count_to_the_end_of_a_long_sequence(dtype):
    lengths = jnp.array([100, 3], dtype)
    mask = step_mask(fnn.Sequence(jnp.ones((2, 300)), lengths))
    np.testing.assert_array_equal(mask.sum(1), [100, 3])
    np.testing.assert_array_equal(mask[0, :100], np.ones(100))


def test_a_layer_that_takes_the_time_away_is_refused():
    layer = fnn.over_sequence(fnn.from_function(lambda x: x.sum(1)))
    bad = Bad("time", lambda: layer.apply((), (), padded_with(0.0)), "over_sequence", ".*", ".*")
    assert_complains(bad, bad.call)


def test_values_without_an_axis_of_time_are_refused():
    x = fnn.Sequence(ones(3), jnp.array([1, 1, 1]))
    layer = fnn.over_sequence(fnn.relu())
    expected = r"values of shape \(B, T, \.\.\.\)"
    bad = Bad("axes", lambda: layer.apply((), (), x), "over_sequence", expected, r"\(3,\)")
    assert_complains(bad, bad.call)
