"""From Keras 3: the same network, weights and batches in Keras, on JAX, and in fnn."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras
from _digits import batches, compare

import fnn

EPOCHS = 3


def in_keras(data):
    """Train in Keras; return the initial weights and the loss of every step."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((28, 28)), layers.Flatten(),
            layers.Dense(32, activation="relu"), layers.Dense(10),
        ]
    )  # fmt: skip
    start = [jnp.copy(one.value) for one in model.weights]
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    losses = []
    for x, y in data * EPOCHS:
        # Otherwise Keras answers with the mean of all losses so far.
        model.reset_metrics()
        losses.append(float(model.train_on_batch(x, y)))
    return start, losses


def in_fnn(weights, data):
    """Train in fnn from these weights of Keras; return the loss of every step."""
    model = fnn.serial(fnn.flatten(), fnn.dense(32), fnn.relu(), fnn.dense(10))
    optimizer = fnn.optim.sgd(0.1, momentum=0.9)
    start = fnn.init_train_state(model, optimizer, data[0][0], key=jax.random.key(0))
    weight1, bias1, weight2, bias2 = weights
    hidden, head = {"weight": weight1, "bias": bias1}, {"weight": weight2, "bias": bias2}
    start = start._replace(params=((), hidden, (), head))
    _, history = fnn.fit(
        model, fnn.losses.cross_entropy(), optimizer, data, epochs=EPOCHS, start=start
    )
    return history.loss


if __name__ == "__main__":
    data = batches()
    weights, losses = in_keras(data)
    compare("Keras", losses, in_fnn(weights, data))
