"""A generator and a discriminator, each with an optimizer of its own, both by hand.

Noise in two dimensions becomes points on a ring of eight clouds (Goodfellow et al. 2014, with the
non-saturating loss). The discriminator learns to tell them from true points; the generator's
gradient comes back through the discriminator's `backward`::

    dx = the discriminator's dx for the label "true",   dparams = the generator's backward of dx

Run it with ``python examples/gan.py --output fnn-run``; it writes ``gan.png`` there.
"""

import functools
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

STEPS, BATCH, CLOUDS, SPREAD = 2_500, 128, 8, 0.06


def network(outputs):
    """Two hidden layers of 64."""
    hidden = (fnn.dense(64), fnn.leaky_relu(0.2))
    return fnn.serial(*hidden, *hidden, fnn.dense(outputs))


GENERATOR, DISCRIMINATOR, LOSS = network(2), network(1), fnn.losses.logistic()
ADAM = fnn.optim.adam(0.001, beta1=0.5)


def ring(key, count):
    """Points of clouds on a ring."""
    which, noise = jax.random.split(key)
    angle = 2 * jnp.pi / CLOUDS * jax.random.randint(which, (count,), 0, CLOUDS)
    centers = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    return centers + SPREAD * jax.random.normal(noise, (count, 2))


def objective(discriminator, state, points, label):
    """The mean loss of the discriminator for points of one label."""
    logits, _ = DISCRIMINATOR.apply(discriminator, state, points)
    return LOSS.apply(logits, jnp.full(logits.shape, label)).mean()


def by_hand(discriminator, state, points, label):
    """The same, with its gradients in the discriminator and in the points."""
    logits, _, residuals = DISCRIMINATOR.forward(discriminator, state, points)
    values, slope = LOSS.forward(logits, jnp.full(logits.shape, label))
    value, dvalues = fnn.losses.mean(values)
    return value, DISCRIMINATOR.backward(discriminator, residuals, LOSS.backward(slope, dvalues))


def gradients(gradient, params, state, noise, true):
    """Return both objectives and both gradients, all at the parameters of this step."""
    if gradient == "manual":
        fake, _, residuals = GENERATOR.forward(params["g"], state["g"], noise)
        right, (d_true, _) = by_hand(params["d"], state["d"], true, 1.0)
        wrong, (d_fake, _) = by_hand(params["d"], state["d"], fake, -1.0)
        fooled, (_, dfake) = by_hand(params["d"], state["d"], fake, 1.0)
        d_generator, _ = GENERATOR.backward(params["g"], residuals, dfake)
        d_both = jax.tree.map(jnp.add, d_true, d_fake)
        return (fooled, right + wrong), {"g": d_generator, "d": d_both}

    def fool(p):
        return objective(params["d"], state["d"], GENERATOR.apply(p, state["g"], noise)[0], 1.0)

    def tell(p):
        fake, _ = GENERATOR.apply(params["g"], state["g"], noise)
        return objective(p, state["d"], true, 1.0) + objective(p, state["d"], fake, -1.0)

    fooled, g = jax.value_and_grad(fool)(params["g"])
    told, d = jax.value_and_grad(tell)(params["d"])
    return (fooled, told), {"g": g, "d": d}


@functools.partial(jax.jit, static_argnums=0)
def train(gradient):
    """Descend in turns, many steps as one program; returns the generator's parameters."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jnp.ones((BATCH, 2))
    g, d = GENERATOR.init(keys[0], x), DISCRIMINATOR.init(keys[1], x)
    params, state = ({"g": g[i], "d": d[i]} for i in (0, 1))

    def step(carry, key):
        params, moments = carry
        noise = jax.random.normal(jax.random.fold_in(key, 0), (BATCH, 2))
        true = ring(jax.random.fold_in(key, 1), BATCH)
        losses, grads = gradients(gradient, params, state, noise, true)
        new, after = {}, {}
        for name in ("g", "d"):
            update, after[name] = ADAM.update(grads[name], moments[name], params[name])
            new[name] = jax.tree.map(jnp.add, params[name], update)
        return (new, after), losses

    start = params, {name: ADAM.init(p) for name, p in params.items()}
    (params, _), losses = jax.lax.scan(step, start, jax.random.split(keys[2], STEPS))
    noise = jax.random.normal(jax.random.key(5), (1_000, 2))
    return (GENERATOR.apply(params["g"], state["g"], noise)[0], losses[0]), losses[1]


def main(
    output: Annotated[Path, typer.Option(help="Folder for gan.png.")] = Path("fnn-run"),
) -> None:
    """Train both networks by both gradients, and draw the points."""
    folder = output_folder(output)
    (points, fooled), curves = by_both(train)
    near = np.abs(np.linalg.norm(points, axis=-1) - 1) < 4 * SPREAD
    cloud = np.round(np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi / CLOUDS)) % CLOUDS
    reached = {int(c) for c in set(cloud) if (near & (cloud == c)).sum() > 20}
    print(f"{near.mean():.0%} of the points are on the ring, in {len(reached)} of {CLOUDS} clouds")
    figure = Figure((9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    true = ring(jax.random.key(7), 1_000)
    left.scatter(*true.T, s=4, color="tab:orange", label="true")
    left.scatter(*points.T, s=4, color="black", alpha=0.4, label="generated")
    left.set(aspect="equal", xlabel="x", ylabel="y", title="Points", xlim=(-1.6, 1.6))
    left.set_ylim(-1.6, 1.6)
    left.legend(frameon=False, loc="center", markerscale=3)
    draw(right, curves, "loss of the discriminator")
    right.plot(fooled, color="tab:blue", linewidth=0.5, alpha=0.7, label="generator")
    right.legend(frameon=False)
    save(figure, folder, "gan.png")


if __name__ == "__main__":
    typer.run(main)
