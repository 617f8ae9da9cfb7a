"""Your own layer: write forward and backward, check the gradient, train with it.

The layer is ``y = tanh(a x)`` with a steepness a learned for each feature. By the chain rule, with
dy the cotangent of y::

    du = (1 - y^2) dy        u = a x, the input of tanh
    da = sum_b x du          a is shared by all examples, so their slopes add up
    dx = a du
"""

import dataclasses

import jax
import jax.numpy as jnp

import fnn


@fnn.constructor
def steep_tanh():
    """Tanh of a scaled input: x, y (B, I), steepness (I,). Saved: x and y."""

    def init(key, x):
        del key  # nothing is drawn at random
        return {"steepness": jnp.ones(x.shape[-1], x.dtype)}

    def forward(params, x):
        y = jnp.tanh(params["steepness"] * x)
        return y, (x, y)

    def backward(params, residuals, dy):
        x, y = residuals
        du = (1 - y**2) * dy
        return {"steepness": (x * du).sum(0)}, params["steepness"] * du

    return fnn.stateless(init, forward, backward)


@fnn.constructor
def wrong_tanh():
    """Repeat it with a mistake: dx lacks the factor a, which nobody sees while a is 1."""
    right = steep_tanh()

    def backward(params, residuals, dy):
        dparams, dx = right.backward(params, residuals, dy)
        return dparams, dx / params["steepness"]

    return dataclasses.replace(right, backward=backward)


def main():
    """Check the layer, train a network with it, and plant a mistake."""
    x = jax.random.normal(jax.random.key(1), (5, 3))
    print("The layer's backward is the derivative of its apply:\n")
    print(fnn.check_layer(steep_tanh(), x))

    x = jnp.linspace(-1, 1, 128)[:, None]
    target = jnp.sin(3 * x)
    model = fnn.serial(fnn.dense(16), steep_tanh(), fnn.dense(1))
    train_state, history = fnn.fit(
        model, fnn.losses.squared_error(), fnn.optim.sgd(0.05, momentum=0.9), (x, target),
        epochs=300, batch_size=32, key=jax.random.key(0), gradient="manual",
    )  # fmt: skip
    steepness = train_state.params[1]["steepness"]
    print("\nA network with it learns sin(3 x) by hand-derived gradients:\n")
    print(f"mean squared error {history.epoch_loss[0]:.3f} -> {history.epoch_loss[-1]:.5f}")
    print(f"steepness 1 -> {steepness.min():.2f} to {steepness.max():.2f}")

    print("\nThe checker moves the parameters off their initial 1, and finds the mistake:\n")
    try:
        fnn.check_layer(wrong_tanh(), jax.random.normal(jax.random.key(1), (5, 3)))
    except fnn.GradientError as error:
        print(error)
    else:
        raise SystemExit("the planted mistake was not found")


if __name__ == "__main__":
    main()
