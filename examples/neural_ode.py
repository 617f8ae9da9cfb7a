"""A neural differential equation learns a pendulum with friction from its orbits.

The layer integrates ``dx/dt = f(x)`` by Runge and Kutta's fourth-order steps, f being a small
network (Chen et al. 2018). It is a combinator of one's own: its backward goes through the steps in
reverse, each stage by the backward of f, so that the gradient is that of the steps as they were
taken::

    k1 = f(x),  k2 = f(x + h k1 / 2),  k3 = f(x + h k2 / 2),  k4 = f(x + h k3)
    y = x + h (k1 + 2 k2 + 2 k3 + k4) / 6

Run it with ``python examples/neural_ode.py --output fnn-run``; it writes ``neural_ode.png`` there.
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

H, STEPS, ORBITS, EPOCHS, BATCH = 0.1, 30, 64, 80, 16
# Where in a step each stage stands, and its share of the step.
AT, SHARE = (0, H / 2, H / 2, H), (H / 6, H / 3, H / 3, H / 6)


def pendulum(x):
    """Angle and speed to their derivatives, with friction."""
    return jnp.stack([x[..., 1], -2 * jnp.sin(x[..., 0]) - 0.2 * x[..., 1]], -1)


def orbit(layer, steps=STEPS):
    """The states (steps, B, C) after each step from x (B, C), where the layer is dx/dt."""

    def stages(run, x):
        """Run the layer at the four stages, and return y and what it gave there."""
        k, results = jnp.zeros_like(x), []
        y = x
        for at, share in zip(AT, SHARE, strict=True):
            k, *more = run(x + at * k)
            y = y + share * k
            results.append(tuple(more))
        return y, tuple(results)

    def apply(params, state, x, *, key=None, train=False):
        del key, train  # a field with dropout would be another one at each stage

        def step(x, _):
            y, _ = stages(lambda x: (layer.apply(params, state, x)[0],), x)
            return y, y

        return jax.lax.scan(step, x, None, steps)[1], state

    def forward(params, state, x, *, key=None, train=False):
        del key, train

        def run(x):
            k, _, residuals = layer.forward(params, state, x)
            return k, residuals

        def step(x, _):
            y, saved = stages(run, x)
            return y, (y, saved)

        _, (ys, saved) = jax.lax.scan(step, x, None, steps)
        return ys, state, saved

    def backward(params, saved, dys):
        def step(carry, now):
            dparams, dx = carry
            dy, saved = now
            dy = dx = dx + dy
            later = jnp.zeros_like(dy)  # what comes back through the next stage
            for i in (3, 2, 1, 0):
                dk = SHARE[i] * dy + (AT[i + 1] * later if i < 3 else 0)
                more, later = layer.backward(params, saved[i][0], dk)
                dparams, dx = jax.tree.map(jnp.add, dparams, more), dx + later
            return (dparams, dx), None

        zeros = jax.tree.map(jnp.zeros_like, (params, dys[0]))
        return jax.lax.scan(step, zeros, (dys, saved), reverse=True)[0]

    return fnn.Layer(
        layer.init, apply, forward, backward, children={"": layer},
        rebuild=lambda layer: orbit(layer, steps),
    )  # fmt: skip


def last_first():
    """States (T, B, C) to (B, T, C), as a loss takes them."""
    return fnn.from_function(lambda x: jnp.swapaxes(x, 0, 1))


def main(
    output: Annotated[Path, typer.Option(help="Folder for neural_ode.png.")] = Path("fnn-run"),
) -> None:
    """Learn the equation by both gradients, and draw orbits longer than those it saw."""
    folder = output_folder(output)
    field = fnn.serial(fnn.dense(32), fnn.tanh(), fnn.dense(2))
    model = fnn.serial(orbit(field), last_first())
    true = fnn.autodiff(
        lambda key, x: ((), ()),
        lambda params, state, x, *, key=None, train=False: (pendulum(x), state),
    )
    x = jax.random.uniform(jax.random.key(1), (ORBITS, 2), minval=-1.5, maxval=1.5)
    ys, _ = orbit(true).apply((), (), x)
    fnn.check_layer(orbit(field, 2), x[:3], numeric=False)
    print("the combinator of its own has the right gradient")
    steps = EPOCHS * -(-ORBITS // BATCH)
    optimizer = fnn.optim.adam(fnn.optim.schedule.cosine(0.02, steps))

    def train(gradient):
        trained, history = fnn.fit(
            model, fnn.losses.squared_error(), optimizer, (x, jnp.swapaxes(ys, 0, 1)),
            epochs=EPOCHS, batch_size=BATCH, key=jax.random.key(0), gradient=gradient,
        )  # fmt: skip
        return trained, history.loss / STEPS

    trained, curves = by_both(train)
    start = jnp.array([[1.5, 0.0], [-1.0, 1.2]])
    far, _ = orbit(true, 3 * STEPS).apply((), (), start)
    found, _ = orbit(field, 3 * STEPS).apply(trained.params[0], trained.state[0], start)
    error = float(jnp.linalg.norm(far - found, axis=-1).max())
    print(f"orbits three times as long as those learned are off by {error:.3f} at most")
    figure = Figure((9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    grid = np.stack(np.meshgrid(np.linspace(-2, 2, 15), np.linspace(-2.5, 2.5, 15)), -1)
    arrows, _ = field.apply(trained.params[0], trained.state[0], jnp.asarray(grid))
    left.quiver(*np.moveaxis(grid, -1, 0), *np.moveaxis(np.asarray(arrows), -1, 0), color="0.75")
    for i in range(2):
        label = ("true", "learned") if i == 0 else (None, None)
        left.plot(*far[:, i].T, color="tab:orange", linewidth=4, alpha=0.5, label=label[0])
        left.plot(*found[:, i].T, color="black", linewidth=0.8, label=label[1])
    left.set(xlabel="angle", ylabel="speed", title="Orbits in the field that was learned")
    left.legend(frameon=False, loc="upper right")
    draw(right, curves, "squared error of a step", log=True)
    save(figure, folder, "neural_ode.png")


if __name__ == "__main__":
    typer.run(main)
