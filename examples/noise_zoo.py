"""The same deep plain network under each kind of noise.

Ten hidden layers, no normalization, no shortcut, and weights that start too small: plain descent
creeps along a plateau where the network says the same of every image. Noise in the gradient gets it
off sooner; with a better start (`he_normal`) there is no plateau, and no gain. One run of each.

Run it with ``python examples/noise_zoo.py --output fnn-run``; it writes ``noise_zoo.png`` there.
"""

from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import typer
from matplotlib.figure import Figure

import fnn
from fnn import optim
from fnn.train import atomic_write, output_folder

# A batch that divides the 4,000 images: the rest of another would be a second program.
RATE, EPOCHS, BATCH = 0.1, 40, 125
KEY = jax.random.key(1)


def optimizers(examples):
    """Return the optimizer and the way to the gradient by the name of the noise."""
    sgd = optim.sgd(RATE)
    return {
        "none": (sgd, "manual"),
        "gradient, annealed": (optim.chain(optim.gradient_noise(0.01, key=KEY), sgd), "manual"),
        "gradient, Laplace": (
            optim.chain(optim.gradient_noise(0.01, distribution="laplace", key=KEY), sgd), "manual",
        ),
        "sphere": (optim.chain(optim.sphere_noise(1.0, key=KEY), sgd), "manual"),
        "pushed when at rest": (optim.perturbed(sgd, 1.0, 0.1, window=30, key=KEY), "manual"),
        "anticorrelated": (optim.chain(sgd, optim.anticorrelated_noise(0.003, key=KEY)), "manual"),
        "Langevin": (optim.sgld(RATE / examples, examples, 0.01, key=KEY), "manual"),
        "labels": (sgd, fnn.label_noise(flip=0.1)),
    }  # fmt: skip


def network():
    """Ten hidden layers of 50, their weights drawn with a deviation of 0.1."""
    small = jax.nn.initializers.normal(0.1)
    hidden = fnn.serial(fnn.dense(50, initializer=small), fnn.relu())
    # The nine equal ones as one loop: a program that is quickly compiled.
    return fnn.serial(hidden, fnn.repeat(hidden, 9), fnn.dense(10, initializer=small))


def main(
    output: Annotated[Path, typer.Option(help="Folder for noise_zoo.png.")] = Path("fnn-run"),
) -> None:
    """Train under each noise from the same start, and compare."""
    folder = output_folder(output)
    (x, y), (new_x, new_y) = fnn.datasets.digits()
    x, new_x = (a.reshape(len(a), -1).astype("float32") / 255 for a in (x, new_x))
    model, loss = network(), fnn.losses.cross_entropy()
    figure = Figure((8, 4.2), layout="constrained")
    axes = figure.subplots()
    print(f"{'noise':<20}  loss   right on new digits")
    for name, (optimizer, gradient) in optimizers(len(x)).items():
        _, history = fnn.fit(
            model, loss, optimizer, (x, y), epochs=EPOCHS, batch_size=BATCH, key=jax.random.key(0),
            gradient=gradient, validation=(new_x, new_y), metrics={"accuracy": fnn.accuracy},
        )  # fmt: skip
        right = history.validation["accuracy"]
        print(f"{name:<20}  {history.validation['loss'][-1]:.3f}  {right[-1]:.1%}")
        style = {"color": "black", "linestyle": "--"} if name == "none" else {}
        axes.plot(np.arange(1, EPOCHS + 1), right, marker="o", markersize=3, label=name, **style)
    axes.set(
        xlabel="epoch", ylabel="right on new digits", ylim=(0, 1),
        title="A deep plain network from a poor start",
    )  # fmt: skip
    figure.legend(loc="outside right upper", frameon=False)
    with atomic_write(folder / "noise_zoo.png") as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    print("wrote", folder / "noise_zoo.png")


if __name__ == "__main__":
    typer.run(main)
