"""A posterior sampled by noisy descent, and drawn against the exact density.

A hundred numbers come from two clouds of one size, ``x ~ N(p_1, 2) / 2 + N(p_1 + p_2, 2) / 2`` with
``p = (0, 1)``; the priors are ``p_1 ~ N(0, 10)`` and ``p_2 ~ N(0, 1)``. The data leave a ridge of
good explanations, from (0, 1) to (1, -1). Stochastic-gradient Langevin dynamics samples it from
batches of ten; a grid gives the truth (Welling and Teh 2011, sec. 5.1). Batches bring some noise of
their own, so that the samples spread a few percent further.

Run it with ``python examples/langevin.py --output fnn-run``; it writes ``langevin.png`` there.
"""

from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer
from matplotlib.figure import Figure

from fnn import optim
from fnn.train import atomic_write, output_folder

BLUE, ORANGE = "#0072B2", "#E69F00"
N, BATCH, CHAINS, STEPS = 100, 10, 200, 8000
LOW, HIGH, CELLS = (-1.5, -3.0), (2.5, 3.0), 80


def negative_log_likelihood(p, x):
    """``-log p(x | p)`` for each x."""
    clouds = jnp.stack([p[0] - x, p[0] + p[1] - x])
    return -jax.scipy.special.logsumexp(-(clouds**2) / 4, axis=0)


def prior_over_n(p):
    """``-log p(p) / N``: what each example bears of it."""
    return (p[0] ** 2 / 20 + p[1] ** 2 / 2) / N


def sample(x, temperature, key):
    """Run chains from the prior; return the points of their second half, (points, 2)."""
    # The mean gradient times N is that of the potential: the optimizer is told N.
    rate = optim.schedule.exponential(1e-3, 0.1, STEPS)

    def chain(key):
        start_key, batch_key, noise_key = jax.random.split(key, 3)
        optimizer = optim.sgld(rate, N, temperature, key=noise_key)

        def step(carry, t):
            p, state = carry
            rows = jax.random.randint(jax.random.fold_in(batch_key, t), (BATCH,), 0, N)
            slope = jax.grad(
                lambda p: negative_log_likelihood(p, x[rows]).mean() + prior_over_n(p)
            )(p)
            update, state = optimizer.update(slope, state, p)
            return (p + update, state), p

        start = jax.random.normal(start_key, (2,)) * jnp.array([10.0**0.5, 1.0])
        return jax.lax.scan(step, (start, optimizer.init(start)), jnp.arange(STEPS))[1]

    points = jax.jit(jax.vmap(chain))(jax.random.split(key, CHAINS))
    return np.asarray(points[:, STEPS // 2 :: 10]).reshape(-1, 2)


def exact(x, temperature):
    """Return the centers of a grid's cells, and the probability of each cell."""
    sides = [a + (b - a) * (np.arange(CELLS) + 0.5) / CELLS for a, b in zip(LOW, HIGH, strict=True)]
    grid = jnp.stack(jnp.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2)
    energy = jax.vmap(lambda p: negative_log_likelihood(p, x).sum() + N * prior_over_n(p))(grid)
    return sides, np.asarray(jax.nn.softmax(-energy / temperature)).reshape(CELLS, CELLS)


def main(
    output: Annotated[Path, typer.Option(help="Folder for langevin.png.")] = Path("fnn-run"),
) -> None:
    """Sample at temperatures 1 and 4, compare with the grid, draw."""
    folder = output_folder(output)
    cloud_key, x_key, chain_key = jax.random.split(jax.random.key(4), 3)
    x = jax.random.bernoulli(cloud_key, 0.5, (N,)) + 2**0.5 * jax.random.normal(x_key, (N,))
    figure = Figure((11, 4), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=[1, 1, 1.2])
    for axes, temperature in zip(panels, (1.0, 4.0), strict=False):
        points = sample(x, temperature, chain_key)
        sides, density = exact(x, temperature)
        means = [(density.sum(1 - i) * sides[i]).sum() for i in (0, 1)]
        deviations = [
            ((density.sum(1 - i) * (sides[i] - means[i]) ** 2).sum()) ** 0.5 for i in (0, 1)
        ]
        print(f"temperature {temperature:g}: {len(points)} points of {CHAINS} chains")
        for i in (0, 1):
            print(
                f"  p_{i + 1}  mean {points[:, i].mean():+.3f}, exact {means[i]:+.3f}   "
                f"deviation {points[:, i].std():.3f}, exact {deviations[i]:.3f}"
            )
        counted = np.histogram2d(
            *points.T, bins=CELLS // 4, range=list(zip(LOW, HIGH, strict=True))
        )[0]
        coarse = density.reshape(CELLS // 4, 4, CELLS // 4, 4).sum((1, 3))
        overlap = np.minimum(counted / len(points), coarse).sum()
        print(f"  overlap of the histogram and the exact density {overlap:.1%}")
        axes.plot(*points[::4].T, ".", color=BLUE, markersize=2, alpha=0.15, markeredgewidth=0)
        levels = density.max() * np.array([0.02, 0.1, 0.3, 0.6, 0.9])
        axes.contour(*sides, density.T, levels=levels, colors="black", linewidths=1)
        axes.set(
            xlim=(LOW[0], HIGH[0]), ylim=(LOW[1], HIGH[1]), xlabel="$p_1$", ylabel="$p_2$",
            title=f"Temperature {temperature:g}: dots and exact lines",
        )  # fmt: skip
        if temperature == 1:
            bins = np.linspace(LOW[1], HIGH[1], 61)
            panels[2].hist(points[:, 1], bins, density=True, color=BLUE, alpha=0.4, label="sampled")
            width = sides[1][1] - sides[1][0]
            panels[2].plot(sides[1], density.sum(0) / width, color="black", label="exact")
    panels[2].set(xlabel="$p_2$", ylabel="density", title="Temperature 1: the difference $p_2$")
    panels[2].legend(frameon=False)
    with atomic_write(folder / "langevin.png") as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    print("wrote", folder / "langevin.png")


if __name__ == "__main__":
    typer.run(main)
