"""Layers that are out of training inside of a model in training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import losses, optim

KEY = jax.random.key(2)
X = jax.random.normal(KEY, (6, 4))
LAYERS = {
    "batch_norm": fnn.batch_norm(),
    "dropout": fnn.dropout(0.5),
    "serial": fnn.serial(fnn.dense(4), fnn.batch_norm(), fnn.dropout(0.5)),
    "repeat": fnn.repeat(fnn.residual(fnn.batch_norm()), 2),
    "eval_mode": fnn.eval_mode(fnn.batch_norm()),
}


def moved(layer, x=X):
    """Return parameters and state that differ from where they start."""
    params, state = layer.init(KEY, x)
    leaves, structure = jax.tree.flatten((params, state))
    return jax.tree.unflatten(structure, [leaf + 0.5 for leaf in leaves])


@pytest.mark.parametrize("name", LAYERS)
def test_in_training_it_is_the_layer_out_of_training(name):
    layer = LAYERS[name]
    params, state = moved(layer)
    frozen = fnn.eval_mode(layer)
    expected = layer.forward(params, state, X)
    got = frozen.forward(params, state, X, key=KEY, train=True)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    evaluated = frozen.apply(params, state, X, key=KEY, train=True)
    jax.tree.map(np.testing.assert_array_equal, evaluated, expected[:2])
    if name != "eval_mode":
        other = layer.apply(params, state, X, key=KEY, train=True)[0]
        assert not jnp.allclose(got[0], other)


def model(frozen):
    trunk = fnn.serial(fnn.dense(5), fnn.batch_norm(), fnn.tanh(), fnn.dropout(0.2))
    return fnn.serial(trunk=frozen(trunk), norm=fnn.batch_norm(), head=fnn.dense(2))


def norms_alone(trunk):
    return fnn.map_layers(
        lambda path, layer: fnn.eval_mode(layer) if layer.name == "batch_norm" else layer, trunk
    )


@pytest.mark.parametrize("frozen", [fnn.eval_mode, norms_alone], ids=["trunk", "norms"])
def test_training_moves_parameters_and_leaves_running_statistics_to_the_bit(frozen):
    tuned, data = model(frozen), (X, X[:, :2])
    optimizer, loss = optim.sgd(0.01), losses.squared_error()
    begin = fnn.init_train_state(tuned, optimizer, X, key=KEY)
    begin = begin._replace(state=jax.tree.map(lambda a: a + 0.5, begin.state))
    ends = {
        gradient: fnn.fit(
            tuned, loss, optimizer, data, steps=2, batch_size=3, start=begin, gradient=gradient
        )[0]
        for gradient in ("manual", "auto")
    }
    for end in ends.values():
        jax.tree.map(np.testing.assert_array_equal, end.state["trunk"], begin.state["trunk"])
        assert not (end.state["norm"]["mean"] == begin.state["norm"]["mean"]).any()
        for one, other in zip(
            jax.tree.leaves(end.params), jax.tree.leaves(begin.params), strict=True
        ):
            assert (one != other).any()
    fnn.check_layer(tuned, X, seed=1, numeric=False)


def test_statistics_estimated_anew_are_those_of_the_norms_in_training_alone():
    tuned = model(fnn.eval_mode)
    params, state = moved(tuned)
    after = fnn.update_batch_norm(tuned, params, state, [X], key=KEY)
    jax.tree.map(np.testing.assert_array_equal, after["trunk"], state["trunk"])
    assert not (after["norm"]["mean"] == state["norm"]["mean"]).any()


def test_a_flag_that_is_none_is_refused():
    layer = fnn.eval_mode(fnn.relu())
    for function in (layer.apply, layer.forward):
        with pytest.raises(fnn.InputError, match="train of True or False, got 'yes'"):
            function((), (), X, train="yes")
