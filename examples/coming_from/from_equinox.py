"""From Equinox: the same network, weights and batches in Equinox and in fnn."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from _digits import batches, compare

import fnn

EPOCHS = 3


def in_equinox(data):
    """Train in Equinox; return the initial model and the loss of every step."""
    keys = jax.random.split(jax.random.key(0))
    start = model = eqx.nn.Sequential(
        [
            eqx.nn.Lambda(jnp.ravel), eqx.nn.Linear(784, 32, key=keys[0]),
            eqx.nn.Lambda(jax.nn.relu), eqx.nn.Linear(32, 10, key=keys[1]),
        ]
    )  # fmt: skip
    optimizer = optax.sgd(0.1, momentum=0.9)

    @eqx.filter_value_and_grad
    def loss(model, x, y):
        logits = jax.vmap(model)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @eqx.filter_jit
    def train_step(model, opt_state, x, y):
        value, gradient = loss(model, x, y)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return eqx.apply_updates(model, updates), opt_state, value

    opt_state, losses = optimizer.init(eqx.filter(model, eqx.is_array)), []
    for x, y in data * EPOCHS:
        model, opt_state, value = train_step(model, opt_state, x, y)
        losses.append(float(value))
    return start, losses


def in_fnn(weights, data):
    """Train in fnn from the weights of this Equinox model; return the loss of every step."""
    model = fnn.serial(fnn.flatten(), fnn.dense(32), fnn.relu(), fnn.dense(10))
    optimizer = fnn.optim.sgd(0.1, momentum=0.9)
    start = fnn.init_train_state(model, optimizer, data[0][0], key=jax.random.key(0))
    # Equinox keeps (outputs, inputs), fnn (inputs, outputs).
    hidden, head = (
        {"weight": layer.weight.T, "bias": layer.bias} for layer in (weights[1], weights[3])
    )
    start = start._replace(params=((), hidden, (), head))
    _, history = fnn.fit(
        model, fnn.losses.cross_entropy(), optimizer, data, epochs=EPOCHS, start=start
    )
    return history.loss


if __name__ == "__main__":
    data = batches()
    weights, losses = in_equinox(data)
    compare("Equinox", losses, in_fnn(weights, data))
