"""From stax: the same network, weights and batches in `jax.example_libraries.stax` and in fnn."""

import jax
import jax.numpy as jnp
from _digits import batches, compare
from jax.example_libraries import optimizers, stax

import fnn

EPOCHS = 3


def in_stax(data):
    """Train in stax; return the initial parameters and the loss of every step."""
    init, apply = stax.serial(stax.Flatten, stax.Dense(32), stax.Relu, stax.Dense(10))
    init_opt, update, get_params = optimizers.momentum(0.1, mass=0.9)

    def loss(params, x, y):
        log_p = jax.nn.log_softmax(apply(params, x))
        return -jnp.take_along_axis(log_p, y[:, None], axis=1).mean()

    @jax.jit
    def train_step(step, opt_state, x, y):
        value, gradient = jax.value_and_grad(loss)(get_params(opt_state), x, y)
        return update(step, gradient, opt_state), value

    _, start = init(jax.random.key(0), (-1, 28, 28))
    opt_state, losses = init_opt(start), []
    for x, y in data * EPOCHS:
        opt_state, value = train_step(len(losses), opt_state, x, y)
        losses.append(float(value))
    return start, losses


def in_fnn(weights, data):
    """Train in fnn from these parameters of stax; return the loss of every step."""
    model = fnn.serial(fnn.flatten(), fnn.dense(32), fnn.relu(), fnn.dense(10))
    optimizer = fnn.optim.sgd(0.1, momentum=0.9)
    start = fnn.init_train_state(model, optimizer, data[0][0], key=jax.random.key(0))
    # stax keeps a pair for each dense layer, fnn a dict, and both () for layers without weights.
    params = tuple(dict(zip(("weight", "bias"), pair, strict=False)) or () for pair in weights)
    start = start._replace(params=params)
    _, history = fnn.fit(
        model, fnn.losses.cross_entropy(), optimizer, data, epochs=EPOCHS, start=start
    )
    return history.loss


if __name__ == "__main__":
    data = batches()
    weights, losses = in_stax(data)
    compare("stax", losses, in_fnn(weights, data))
