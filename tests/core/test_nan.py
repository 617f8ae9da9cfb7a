"""A NaN that goes in comes out, of many elements too: a maximum of XLA may lose it.

On CPUs it does so over 4,096 elements or more, and between two arrays where it is compiled into one
loop with a sum.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import losses, optim
from fnn._core.arrays import largest
from fnn.optim import constraint
from fnn.optim._norms import norm_along, norm_of

ROWS, WIDTH, BAD = 1500, 4, 700
LABELS = jnp.zeros(ROWS, "int32")
TARGET = jnp.full((ROWS, WIDTH), 0.25)
SIGNS = jnp.ones((ROWS, WIDTH), "int32")
Y = jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, WIDTH)), "float32")
WITH_NAN = Y.at[BAD, 2].set(jnp.nan)
KEY = jax.random.key(0)

LOSSES = {
    "absolute_error": TARGET, "binary_cross_entropy": TARGET, "cosine_distance": TARGET,
    "cross_entropy": LABELS, "focal": LABELS, "hinge": SIGNS, "huber": TARGET,
    "kl_divergence": TARGET, "logistic": SIGNS, "multiclass_hinge": LABELS, "nll": LABELS,
    "poisson": TARGET, "squared_error": TARGET, "zero_one": LABELS,
}  # fmt: skip


def rows_of_nan(values):
    """The rows that hold a NaN."""
    return np.flatnonzero(np.isnan(np.asarray(values)).reshape(ROWS, -1).any(1)).tolist()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_hands_on_the_nan_of_one_row_of_many_and_no_other(name):
    # `nll` looks at the score of the label alone.
    y = Y.at[BAD, 0].set(jnp.nan) if name == "nll" else WITH_NAN
    loss = getattr(losses, name)()
    assert rows_of_nan(jax.jit(loss.apply)(y, LOSSES[name])) == [BAD]


# Losses of predictions that are no plain array of scores, with labels of their own.
OTHERS = {
    "ctc": (losses.ctc(), WITH_NAN.reshape(ROWS, 2, 2), jnp.ones((ROWS, 1), "int32")),
    "linear_cross_entropy": (
        losses.linear_cross_entropy(),
        fnn.LinearHead(WITH_NAN, jnp.ones((WIDTH, 7)), jnp.zeros(7)),
        LABELS,
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_loss_in_steps_hands_on_the_nan_of_one_example_of_many_and_no_other(name):
    loss, prediction, target = OTHERS[name]
    values = jax.jit(lambda prediction: loss.forward(prediction, target)[0])(prediction)
    assert rows_of_nan(values) == [BAD]


# Layers of x (B, C), and of images and sequences made of it.
ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "elu", "hard_sigmoid", "hard_tanh", "softplus", "gelu"),
    *("prelu", "straight_through_sign"),
)
LAYERS = {
    **{name: (getattr(fnn, name)(), (ROWS, WIDTH)) for name in ACTIVATIONS},
    "softmax": (fnn.softmax(), (ROWS, WIDTH)),
    "log_softmax": (fnn.log_softmax(), (ROWS, WIDTH)),
    "layer_norm": (fnn.layer_norm(), (ROWS, WIDTH)),
    "rms_norm": (fnn.rms_norm(), (ROWS, WIDTH)),
    "max_pool": (fnn.max_pool((4, 1)), (ROWS, WIDTH, 1, 1)),
    "global_max_pool": (fnn.global_max_pool(), (ROWS, 2, 2, 1)),
    "adaptive_max_pool": (fnn.adaptive_max_pool((1, 1)), (ROWS, 2, 2, 1)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_hands_on_the_nan_of_one_example_of_many_and_no_other(name):
    layer, shape = LAYERS[name]
    x = WITH_NAN.reshape(shape)
    params, state = layer.init(KEY, x)
    # In one loop with a sum, as the layer behind it may be.
    run = jax.jit(lambda x: layer.forward(params, state, x)[0].reshape(ROWS, -1).sum(1))
    assert rows_of_nan(run(x)) == [BAD]


def test_attention_hands_on_the_nan_of_one_sequence_of_many():
    layer = fnn.attention(1)
    x = WITH_NAN.reshape(ROWS, 2, 2)
    params, state = layer.init(KEY, x)
    assert rows_of_nan(jax.jit(layer.apply)(params, state, x)[0]) == [BAD]


GUARDS = {
    "global_norm": lambda g: optim.global_norm(g),
    "norm_of": lambda g: norm_of(g).value(),
    "norm_along": lambda g: norm_along(g, (0,)).value()[0, 2],
    "norm_along_far": lambda g: norm_along(1e30 * g, (0,)).value()[0, 2],
    "weighted mean": lambda g: losses.mean(g[:, 2], jnp.full(ROWS, 1e31))[0],
    "largest": lambda g: largest(g, 0)[0, 2],
    "simplex": lambda g: constraint.simplex()(g.ravel())[0],
}


@pytest.mark.parametrize("name", GUARDS)
def test_what_sums_up_many_elements_is_nan_if_one_is(name):
    guard = jax.jit(GUARDS[name])
    assert np.isnan(guard(WITH_NAN))
    assert np.isfinite(guard(Y))


UPDATES = {
    "adam": optim.adam(0.1), "adamax": optim.adamax(0.1), "amsgrad": optim.amsgrad(0.1),
    "clip_by_value": optim.clip_by_value(1.0), "project": optim.project(constraint.non_negative()),
}  # fmt: skip


@pytest.mark.parametrize("name", UPDATES)
def test_an_update_hands_on_the_nan_of_one_entry_of_many_and_no_other(name):
    optimizer = UPDATES[name]

    @jax.jit
    def moved(grads):
        return (Y + optimizer.update(grads, optimizer.init(Y), Y)[0]).sum(1)

    assert rows_of_nan(moved(WITH_NAN)) == [BAD]


def test_a_step_is_skipped_for_one_nan_among_many():
    optimizer = optim.skip_nonfinite(optim.sgd(0.1))
    params = {"a": jnp.ones(2), "b": Y}
    grads = {"a": jnp.ones(2), "b": WITH_NAN}
    update, state = optimizer.update(grads, optimizer.init(params), params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(update))
    assert optim.nonfinite_leaf(params, state) == "b"


def test_the_metrics_of_an_evaluation_are_nan_if_one_prediction_is():
    roots = fnn.from_function(jnp.sqrt)
    metrics = fnn.evaluate(
        roots, losses.cross_entropy(), (), (), (jnp.abs(Y).at[BAD, 2].set(-1), LABELS),
        metrics={"accuracy": fnn.accuracy},
    )  # fmt: skip
    assert np.isnan(metrics["loss"])
    assert np.isnan(metrics["accuracy"])


def test_a_function_that_loses_a_nan_is_seen():
    def careless(y):
        return jnp.nanmax(y, 1)

    assert rows_of_nan(careless(WITH_NAN)) == []
    assert rows_of_nan(largest(WITH_NAN, 1)) == [BAD]
