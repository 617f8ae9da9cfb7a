"""Initializers: what a layer draws its weights with, judged by what it gives."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from tests.cases import LAYERS
from tests.tolerance import rounding

KEY = jax.random.key(0)
IMAGE, SERIES = jnp.ones((2, 4, 4, 4)), jnp.ones((2, 3, 4))
# Every layer that takes an initializer, with an x for it.
TAKERS = {
    fnn.dense: ((3,), SERIES),
    fnn.linear_head: ((3,), SERIES),
    fnn.unembedding: ((3,), SERIES),
    fnn.embedding: ((3, 2), jnp.zeros(2, int)),
    fnn.swiglu: ((3,), SERIES),
    fnn.geglu: ((3,), SERIES),
    fnn.conv: ((3, 2), IMAGE),
    fnn.depthwise_conv: ((2,), IMAGE),
    fnn.conv_transpose: ((3, 2), IMAGE),
    fnn.attention: ((2,), SERIES),
    fnn.positional: (("learned", 3), SERIES),
    fnn.mlp: ((3,), SERIES),
    fnn.transformer_block: ((2,), SERIES),
    fnn.rnn: ((3,), SERIES),
    fnn.gru: ((3,), SERIES),
    fnn.lstm: ((3,), SERIES),
    fnn.rnn_cell: ((3,), (jnp.zeros((2, 3)), SERIES[:, 0])),
    fnn.gru_cell: ((3,), (jnp.zeros((2, 3)), SERIES[:, 0])),
    fnn.lstm_cell: ((3,), ((jnp.zeros((2, 3)),) * 2, SERIES[:, 0])),
}
WRONG = {
    "another shape": lambda key, shape, dtype: jnp.ones((1, *shape), dtype),
    "another dtype": lambda key, shape, dtype: jnp.ones(shape, "bfloat16"),
    "no array": lambda key, shape, dtype: 0.5,
    "text": lambda key, shape, dtype: np.full(shape, "x"),
    "not finite": lambda key, shape, dtype: jnp.full(shape, jnp.nan, dtype),
    "its maker": jax.nn.initializers.lecun_normal,
    "an error": lambda key, shape, dtype: {}[key],
}
NO_FUNCTION = {
    "a layer": fnn.relu(),
    "a constructor": fnn.relu,
    "a function of x": jnp.sin,
    "a number": 0.5,
}


def made(layer, initializer):
    arguments, x = TAKERS[layer]
    return layer(*arguments, initializer=initializer).init(KEY, x)


def test_every_layer_with_an_initializer_is_here():
    makers = {inspect.unwrap(case.make().call.make) for case in LAYERS if case.make().call}
    makers = {make for make in makers if make.__module__.startswith("fnn.layers.")}
    takes = {make for make in makers if "initializer" in inspect.signature(make).parameters}
    assert takes <= {inspect.unwrap(layer) for layer in TAKERS}


@pytest.mark.parametrize("layer", TAKERS, ids=lambda layer: layer.__name__)
def test_what_no_weight_can_be_drawn_with_is_refused(layer):
    for initializer in WRONG.values():
        with pytest.raises(fnn.InputError, match="initializer to give"):
            made(layer, initializer)
    for initializer in NO_FUNCTION.values():
        with pytest.raises(fnn.InputError, match="initializer to be a function"):
            made(layer, initializer)


@pytest.mark.parametrize("layer", TAKERS, ids=lambda layer: layer.__name__)
def test_arrays_of_numpy_are_weights(layer):
    ours = made(layer, lambda key, shape, dtype: np.full(shape, 0.5))
    theirs = made(layer, jax.nn.initializers.constant(0.5))
    # The orthogonal matrices of recurrent layers are drawn of the same key.
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), ours, theirs))


@pytest.mark.parametrize("name", WRONG)
def test_the_recurrent_initializer_is_judged_too(name):
    with pytest.raises(fnn.InputError, match="recurrent_initializer to give"):
        fnn.lstm(3, recurrent_initializer=WRONG[name]).init(KEY, SERIES)


def test_integers_of_numpy_are_those_of_python():
    narrow, wide = fnn.swiglu(np.uint8(200)), fnn.swiglu(200)
    assert narrow == wide
    assert narrow.init(KEY, SERIES)[0]["weight"].shape == (4, 400)
    assert fnn.max_pool((np.int8(2), 2), stride=np.uint8(2)) == fnn.max_pool((2, 2), stride=2)


def test_a_run_starts_from_what_init_draws_to_rounding():
    normal = jax.nn.initializers.normal(0.1)
    model = fnn.serial(fnn.lstm(3), fnn.batch_norm(), fnn.dense(2, initializer=normal))
    start = fnn.init_train_state(model, fnn.optim.sgd(0.1), SERIES, key=KEY)
    expected = model.init(jax.random.split(KEY)[0], SERIES)
    for a, b in zip(*map(jax.tree.leaves, ((start.params, start.state), expected)), strict=True):
        # Of a matrix, which orthogonal initializers decompose.
        atol = rounding(b.dtype, b.size) * np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def test_an_initializer_that_gives_nan_is_refused_where_a_run_starts():
    model = fnn.dense(2, initializer=WRONG["not finite"])
    with pytest.raises(fnn.InputError, match="initializer to give finite values, got nan"):
        fnn.init_train_state(model, fnn.optim.sgd(0.1), SERIES, key=KEY)
