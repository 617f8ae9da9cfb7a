"""One neuron separates two clouds of points, and fails at XOR; a hidden layer does not.

A neuron answers with the sign of ``w x + b``: +1 on one side of a line, -1 on the other. XOR needs
more than one line. Training is plain gradient descent: every step uses all points.

Run it with ``python examples/neuron.py --output fnn-run``; it writes ``neuron.png`` there.
"""

from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer
from matplotlib.figure import Figure

import fnn
from fnn.train import atomic_write, output_folder

# Okabe and Ito's colors, told apart by color-blind eyes; the markers differ as well.
STYLES = {-1: ("#0072B2", "o"), 1: ("#D55E00", "^")}
EDGE = 3.0


def clouds(key, centers, labels, spread, points):
    """Draw `points` points around each center, (n, 2), with the center's label, (n, 1)."""
    centers = jnp.repeat(jnp.array(centers, jnp.float32), points, axis=0)
    target = jnp.repeat(jnp.array(labels), points)[:, None]
    return centers + spread * jax.random.normal(key, centers.shape), target


def two_clouds(key):
    """One cloud for each label: a line can part them."""
    return clouds(key, [(-1, -1), (1, 1)], [-1, 1], 0.5, points=200)


def xor(key):
    """Label by the product of the signs of the coordinates: no line can part the labels."""
    return clouds(key, [(-1, -1), (1, 1), (-1, 1), (1, -1)], [1, 1, -1, -1], 0.4, points=100)


def main(
    output: Annotated[Path, typer.Option(help="Folder for neuron.png.")] = Path("fnn-run"),
) -> None:
    """Train one neuron on two clouds and on XOR, then a hidden layer on XOR."""
    folder = output_folder(output)
    neuron = fnn.dense(1)
    hidden = fnn.serial(fnn.dense(8), fnn.tanh(), fnn.dense(1))
    cases = [
        ("one neuron, two clouds", neuron, two_clouds, "One neuron draws one line"),
        ("one neuron, XOR", neuron, xor, "One line cannot do XOR"),
        ("8 hidden neurons, XOR", hidden, xor, "A hidden layer of 8 can"),
    ]
    loss, wrong = fnn.losses.logistic(), fnn.losses.zero_one()
    figure = Figure((11, 4.6), layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, (name, model, draw, title) in zip(panels, cases, strict=True):
        data, fresh = draw(jax.random.key(1)), draw(jax.random.key(2))
        train_state, history = fnn.fit(
            model, loss, fnn.optim.sgd(0.5), data,
            epochs=500, batch_size=len(data[0]), key=jax.random.key(0),
        )  # fmt: skip
        params, state = train_state.params, train_state.state
        error = fnn.evaluate(
            model, loss, params, state, fresh, metrics={"error": wrong.apply}
        )["error"]  # fmt: skip
        print(f"{name:<23} loss {history.loss[-1]:.3f}   error on new points {error:6.1%}")
        draw_regions(axes, lambda x, m=model, p=params, s=state: fnn.predict(m, p, s, x), fresh)
        axes.set_title(f"{title}\n{error:.1%} of new points wrong")
        axes.set_xlabel("$x_1$")
    panels[0].set_ylabel("$x_2$")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    with atomic_write(folder / "neuron.png") as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    print("wrote", folder / "neuron.png")


def draw_regions(axes, score, data):
    """Color the plane by the sign of the score, and draw the points with their true labels."""
    side = np.linspace(-EDGE, EDGE, 201, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), -1)
    values = np.asarray(score(grid.reshape(-1, 2))).reshape(grid.shape[:2])
    pale = [color + "30" for color, _ in STYLES.values()]
    axes.contourf(side, side, values, levels=[-np.inf, 0, np.inf], colors=pale)
    axes.contour(side, side, values, levels=[0], colors="black", linewidths=1.2)
    x, target = np.asarray(data[0]), np.asarray(data[1])[:, 0]
    for label, (color, marker) in STYLES.items():
        chosen = x[target == label]
        axes.scatter(
            *chosen.T, s=16, c=color, marker=marker, edgecolors="white", linewidths=0.4,
            label=f"label {label:+d}",
        )  # fmt: skip
    # An empty line stands for the contour, which has no legend entry of its own.
    axes.plot([], [], color="black", linewidth=1.2, label="decision boundary: output 0")
    axes.set(aspect="equal", xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE))


if __name__ == "__main__":
    typer.run(main)
