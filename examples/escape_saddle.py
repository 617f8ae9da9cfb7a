"""Descent along a chain of saddle points: exponentially slow when plain, steady when perturbed.

The octopus of Du et al. 2017 leads from one saddle to the next. Plain descent leaves each that much
nearer to the ridge of the next, and needs ``1 + ln 2 / ln(1 + 1 / (2 L))`` times as long for it;
perturbed descent is pushed off the ridge and takes every saddle in the same time.

Run it with ``python examples/escape_saddle.py --output fnn-run``; it writes ``escape_saddle.png``.
"""

import math
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer
from matplotlib.figure import Figure

from fnn import landscapes, optim
from fnn.train import atomic_write, output_folder

# Okabe and Ito's colors, told apart by color-blind eyes; the markers differ as well.
BLUE, ORANGE = "#0072B2", "#E69F00"
# Plain descent halves what is ahead in every step: float32 would round it to 0, and stay for ever.
jax.config.update("jax_enable_x64", True)
EDGE, SADDLE, STARTS, BUDGET = math.e, 1.0, 5, 3000


def plain(bowl, key):
    """Descend by a quarter of the inverse curvature."""
    del key
    return optim.sgd(1 / (4 * bowl))


def perturbed(bowl, key):
    """Descend likewise, with a push where the gradient is small."""
    return optim.perturbed(plain(bowl, key), EDGE / 100, EDGE / 100, window=1, key=key)


def descend(optimizer, dimensions, bowl, steps):
    """Return the paths from some starts near the top, (starts, steps + 1, dimensions)."""
    octopus = landscapes.octopus(dimensions, EDGE, SADDLE, bowl)
    starts = [np.random.default_rng(i).uniform(-1, 1, dimensions) for i in range(STARTS)]
    keys = jax.random.split(jax.random.key(0), STARTS)
    path = jax.vmap(
        lambda key, start: landscapes.descend(optimizer(bowl, key), octopus, start, steps)
    )(keys, jnp.asarray(np.stack(starts)))
    return np.asarray(path.points), np.asarray(path.values), float(octopus(octopus.minima[0]))


def arrivals(values, least):
    """Say after how many steps each path is within 1e-3 of the minimum."""
    below = values < least + 1e-3
    return [str(row.argmax()) if row.any() else f">{BUDGET}" for row in below]


def exits(points):
    """Return the step at which each saddle is left, (starts, saddles); NaN for never."""
    left = np.abs(points) > 2 * EDGE
    return np.where(left.any(1), left.argmax(1), np.nan)


def main(
    output: Annotated[Path, typer.Option(help="Folder for escape_saddle.png.")] = Path("fnn-run"),
) -> None:
    """Count steps to the minimum, compare the growth by saddle with its prediction, draw both."""
    folder = output_folder(output)
    print("saddles  L    plain descent                   perturbed descent")
    for dimensions, bowl in ((5, 1.0), (5, 1.5), (5, 3.0), (10, 1.0)):
        cells = []
        for optimizer in (plain, perturbed):
            _, values, least = descend(optimizer, dimensions, bowl, BUDGET)
            cells.append(" ".join(arrivals(values, least)))
        print(f"{dimensions:>7}  {bowl:<3}  {cells[0]:<30}  {cells[1]}")
    print("\nfactor by which plain descent takes longer for each saddle than for the one before")
    for bowl, saddles in ((1.0, 6), (1.5, 5), (2.0, 4), (3.0, 4)):
        points, _, _ = descend(plain, saddles, bowl, 4000)
        times = exits(points[:1])[0]
        predicted = 1 + math.log(2) / math.log(1 + SADDLE / (2 * bowl))
        print(f"L {bowl:<3}  predicted {predicted:.3f}   measured {times[-1] / times[-2]:.3f}")
    with atomic_write(folder / "escape_saddle.png") as temporary:
        draw().savefig(temporary, dpi=150, format="png")
    print("wrote", folder / "escape_saddle.png")


def draw():
    """Draw the height over the steps, and when each saddle is left."""
    figure = Figure((10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for optimizer, name, color, marker in (
        (plain, "plain descent", BLUE, "o"),
        (perturbed, "perturbed descent", ORANGE, "^"),
    ):
        points, values, least = descend(optimizer, 6, 1.0, BUDGET)
        left.plot(values.T, color=color, linewidth=1, alpha=0.7)
        left.plot([], [], color=color, label=name)
        saddles = np.arange(1, points.shape[-1] + 1)
        right.plot(saddles, exits(points).T, color=color, marker=marker, markersize=4, alpha=0.7)
    left.axhline(least, color="black", linewidth=0.8, linestyle="--")
    left.text(BUDGET, least, "minimum", ha="right", va="bottom")
    left.set(xlabel="step", ylabel="height", title="Six saddles, five starts")
    left.legend(frameon=False)
    right.set(
        yscale="log", xlabel="saddle", ylabel="step at which it is left", xticks=saddles,
        title="Plain descent: 2.71 times as long for each",
    )  # fmt: skip
    return figure


if __name__ == "__main__":
    typer.run(main)
