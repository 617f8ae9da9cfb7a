"""A network learns to solve an equation, from the equation alone: second derivatives by hand.

The equation is ``u'' = f`` on [0, 1] with u = 0 at both ends, f such that u is known. Every layer
takes a jet, u and its first two derivatives in x, to the jet of its output (Raissi et al. 2019 use
autodiff twice for it), so that the network is evaluated once, and its gradient by hand is one
backward pass. For the activation, s = tanh a, with s' = 1 - s^2, s'' = -2 s s' and
s''' = -2 s'^2 - 2 s s''::

    y = s,  y_x = s' a_x,  y_xx = s'' a_x^2 + s' a_xx
    da = s' dy + s'' a_x dy_x + (s''' a_x^2 + s'' a_xx) dy_xx
    da_x = s' dy_x + 2 s'' a_x dy_xx,   da_xx = s' dy_xx

Run it with ``python examples/physics.py --output fnn-run``; it writes ``physics.png`` there.
"""

from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer
from _curves import by_both, draw, save
from matplotlib.figure import Figure

import fnn
from fnn.train import output_folder

WIDTH, INSIDE, STEPS = 32, 62, 4_000
# What an error of the equation counts, and one at an end.
EQUATION, END = 0.1, 10.0
WAVES = ((2 * np.pi, 1.0), (6 * np.pi, 0.2))


def exact(x):
    """The solution: a sum of two waves."""
    return sum(height * jnp.sin(rate * x) for rate, height in WAVES)


def force(x):
    """Its second derivative."""
    return sum(-(rate**2) * height * jnp.sin(rate * x) for rate, height in WAVES)


def jet():
    """Points x (B, 1) to their jet (3, B, 1): x, 1, 0."""
    return fnn.stateless(
        lambda key, x: (),
        lambda params, x: (jnp.stack([x, jnp.ones_like(x), jnp.zeros_like(x)]), ()),
        lambda params, residuals, dy: ((), dy[0]),
    )


def jet_dense(width):
    """Dense layer of a jet (3, B, I): the bias has no derivative in x."""
    # Waves of some length from the start: steep weights, and biases that spread their zeros.
    steep = jax.nn.initializers.variance_scaling(4.0, "fan_in", "normal")
    dense = fnn.dense(width, bias=False, initializer=steep)

    def init(key, x):
        params, _ = dense.init(key, x)
        return params | {"bias": jax.random.normal(jax.random.fold_in(key, 1), (width,))}

    def forward(params, x):
        y, _, residuals = dense.forward({"weight": params["weight"]}, (), x)
        return y.at[0].add(params["bias"]), residuals

    def backward(params, residuals, dy):
        dparams, dx = dense.backward({"weight": params["weight"]}, residuals, dy)
        return dparams | {"bias": dy[0].sum(0)}, dx

    return fnn.stateless(init, forward, backward)


def jet_tanh():
    """Hyperbolic tangent of a jet (3, B, C)."""

    def forward(params, x):
        del params
        a, a_x, a_xx = x
        s = jnp.tanh(a)
        s1 = 1 - s**2
        s2 = -2 * s * s1
        return jnp.stack([s, s1 * a_x, s2 * a_x**2 + s1 * a_xx]), (s, a_x, a_xx)

    def backward(params, residuals, dy):
        del params
        s, a_x, a_xx = residuals
        s1 = 1 - s**2
        s2 = -2 * s * s1
        s3 = -2 * s1**2 - 2 * s * s2
        da = s1 * dy[0] + s2 * a_x * dy[1] + (s3 * a_x**2 + s2 * a_xx) * dy[2]
        return (), jnp.stack([da, s1 * dy[1] + 2 * s2 * a_x * dy[2], s1 * dy[2]])

    return fnn.stateless(lambda key, x: (), forward, backward)


def ends():
    """A jet (3, B, 1) to u and u'', a column each."""
    return fnn.stateless(
        lambda key, x: (),
        lambda params, x: (jnp.concatenate([x[0], x[2]], -1), ()),
        lambda params, residuals, dy: (
            (), jnp.stack([dy[:, :1], jnp.zeros_like(dy[:, :1]), dy[:, 1:]]),
        ),
    )  # fmt: skip


def equation():
    """The square of u'' - f inside, and of u at the ends of the interval, where f is NaN."""

    def forward(y, f):
        u, u_xx = y[:, 0], y[:, 1]
        inside = ~jnp.isnan(f)
        scale = jnp.where(inside, EQUATION, END)
        miss = scale * jnp.where(inside, u_xx - f, u)
        slope = 2 * scale * miss
        return miss**2, jnp.stack([jnp.where(inside, 0, slope), jnp.where(inside, slope, 0)], -1)

    return fnn.losses.Loss(
        lambda y, f: forward(y, f)[0], forward, lambda slope, dv: slope * dv[:, None],
        lambda y, f: None,
    )  # fmt: skip


def main(
    output: Annotated[Path, typer.Option(help="Folder for physics.png.")] = Path("fnn-run"),
) -> None:
    """Solve the equation by both gradients, and compare with the solution."""
    folder = output_folder(output)
    hidden = (jet_dense(WIDTH), jet_tanh())
    model = fnn.serial(jet(), *hidden, *hidden, jet_dense(1), ends())
    points = jnp.linspace(0, 1, INSIDE + 2)[:, None]
    f = force(points[:, 0]).at[jnp.array([0, -1])].set(jnp.nan)
    jets = jax.random.normal(jax.random.key(1), (3, 4, 2))
    fnn.check_layer(jet_tanh(), jets, numeric=False)
    print("the layer of its own has the right gradient")
    schedule = fnn.optim.schedule.cosine(0.005, STEPS)
    optimizer = fnn.optim.adam(schedule)
    loss = equation()

    def train(gradient):
        start = fnn.init_train_state(model, optimizer, points, key=jax.random.key(0))
        step = fnn.train_step(model, loss, optimizer, gradient)

        @jax.jit
        def run(start):
            return jax.lax.scan(lambda state, _: step(state, (points, f)), start, None, STEPS)

        trained, history = run(start)
        return trained, history["loss"]

    trained, curves = by_both(train)
    x = jnp.linspace(0, 1, 200)[:, None]
    found, _ = model.apply(trained.params, trained.state, x)
    error = float(jnp.abs(found[:, 0] - exact(x[:, 0])).max())
    print(f"the solution found is off by {error:.4f} at most, of {float(exact(x).max()):.2f}")
    figure = Figure((9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(x, exact(x), color="tab:orange", linewidth=4, alpha=0.5, label="solution")
    left.plot(x, found[:, 0], color="black", linewidth=0.8, label="network")
    left.set(xlabel="x", ylabel="u", title="u'' = f, with u = 0 at both ends")
    left.legend(frameon=False)
    draw(right, curves, log=True)
    save(figure, folder, "physics.png")


if __name__ == "__main__":
    typer.run(main)
