"""What functions of a user's return is held against what they should, and they are named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.optim import Optimizer

X = np.ones((8, 3), "float32")
SCALE = {"scale": jnp.ones(3)}


def layer(forward, backward, params=()):
    return fnn.serial(fnn.dense(3), fnn.stateless(lambda key, x: params, forward, backward))


def whole(params, x):
    return 2 * x, ()


def back(params, residuals, dy):
    return (), 2 * dy


def scaled(params, x):
    return params["scale"][None] * x, x


MODELS = {
    "no residuals": (
        layer(lambda params, x: 2 * x, back),
        r"expected \(y, residuals\) of forward, got .* \(at layer '1'\)",
    ),
    "dx alone": (
        layer(whole, lambda params, residuals, dy: 2 * dy),
        r"expected \(dparams, dx\) of backward, got .* \(at layer '1'\)",
    ),
    "no sum over the batch": (
        layer(scaled, lambda p, x, dy: ({"scale": x * dy}, p["scale"][None] * dy), SCALE),
        r"dparams of the model's backward like its parameters, got .* at 1/scale",
    ),
}


def train(model=None, loss=None, optimizer=None):
    fnn.fit(
        model or fnn.dense(3), loss or fnn.losses.squared_error(), optimizer or fnn.optim.sgd(0.1),
        (X, X), epochs=1, batch_size=4, key=jax.random.key(0),
    )  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_layer_that_returns_something_else_is_named_and_not_the_optimizer(name):
    model, words = MODELS[name]
    with pytest.raises(fnn.InputError, match=words) as told:
        train(model)
    assert "optimizer" not in str(told.value)


def test_a_loss_without_residuals_is_named():
    def values(prediction, target):
        return ((prediction - target) ** 2).sum(-1)

    loss = fnn.losses.Loss(
        values, values, lambda residuals, dvalues: dvalues, lambda prediction, target: None
    )
    with pytest.raises(fnn.InputError, match=r"\(values, residuals\) of the loss's forward"):
        train(loss=loss)


def test_an_optimizer_without_a_state_is_named():
    optimizer = Optimizer(lambda params: (), lambda grads, state, params: grads)
    with pytest.raises(fnn.InputError, match=r"\(updates, state\) of the optimizer's update"):
        train(optimizer=optimizer)


def test_a_step_of_an_optimizer_is_taken_as_it_should_be_and_named_where_it_is_not():
    def step(gradient_at, params, state):
        value_and_aux, grads = gradient_at(params)
        return value_and_aux, jax.tree.map(lambda g: -0.1 * g, grads), state

    def update(grads, state, params):
        raise NotImplementedError

    train(optimizer=Optimizer(lambda params: (), update, step))
    short = Optimizer(lambda params: (), update, lambda *given: step(*given)[1:])
    with pytest.raises(fnn.InputError, match=r"updates, state\) of the optimizer's step"):
        train(optimizer=short)
