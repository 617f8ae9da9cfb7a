"""From Flax NNX: the same network, weights and batches in Flax NNX and in fnn."""

import jax
import jax.numpy as jnp
import optax
from _digits import batches, compare
from flax import nnx

import fnn

EPOCHS = 3


class Network(nnx.Module):
    """One hidden layer."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(784, 32, rngs=rngs)
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x):
        """Return logits."""
        return self.head(nnx.relu(self.hidden(x.reshape(len(x), -1))))


def in_flax(data):
    """Train in Flax; return the initial parameters and the loss of every step."""
    model = Network(nnx.Rngs(0))
    start = jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    optimizer = nnx.Optimizer(model, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)

    def loss(model, x, y):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    @nnx.jit
    def train_step(model, optimizer, x, y):
        value, gradient = nnx.value_and_grad(loss)(model, x, y)
        optimizer.update(model, gradient)
        return value

    return start, [float(train_step(model, optimizer, x, y)) for x, y in data * EPOCHS]


def in_fnn(weights, data):
    """Train in fnn from these parameters of Flax; return the loss of every step."""
    model = fnn.serial(fnn.flatten(), fnn.dense(32), fnn.relu(), fnn.dense(10))
    optimizer = fnn.optim.sgd(0.1, momentum=0.9)
    start = fnn.init_train_state(model, optimizer, data[0][0], key=jax.random.key(0))
    hidden, head = (
        {"weight": layer["kernel"], "bias": layer["bias"]}
        for layer in (weights["hidden"], weights["head"])
    )
    start = start._replace(params=((), hidden, (), head))
    _, history = fnn.fit(
        model, fnn.losses.cross_entropy(), optimizer, data, epochs=EPOCHS, start=start
    )
    return history.loss


if __name__ == "__main__":
    data = batches()
    weights, losses = in_flax(data)
    compare("Flax NNX", losses, in_fnn(weights, data))
