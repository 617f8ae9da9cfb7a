"""A siamese network: one encoder for two images, trained on which pairs are of one digit.

Both branches have the same parameters, by `fnn.shared`: they stand once in the tree, and their
gradients add up. The contrastive loss (Hadsell, Chopra and LeCun 2006) is a loss of its own, with
d the distance of the two codes and a margin of 1::

    same:    v = d^2                dleft = 2 (left - right) dv
    others:  v = max(0, 1 - d)^2    dleft = -2 (1 - d) / d (left - right) dv where d < 1

and dright = -dleft. The codes have two dimensions, to be looked at.

Run it with ``python examples/siamese.py --output fnn-run``; it writes ``siamese.png`` there.
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

IMAGES, PAIRS, EPOCHS, BATCH = 1_500, 6_000, 6, 100


def contrastive():
    """Contrastive loss of a dict of two codes (B, C), and 1 for a pair of one kind, else 0."""

    def forward(y, same):
        apart = y["left"] - y["right"]
        distance = jnp.sqrt((apart**2).sum(-1) + 1e-12)
        short = jnp.maximum(1 - distance, 0)
        slope = jnp.where(same == 1, 2.0, -2 * short / distance)
        return jnp.where(same == 1, distance**2, short**2), slope[:, None] * apart

    def backward(slope, dvalues):
        dleft = slope * dvalues[:, None]
        return {"left": dleft, "right": -dleft}

    return fnn.losses.Loss(lambda y, s: forward(y, s)[0], forward, backward, lambda y, s: None)


def siamese():
    """A dict of two images to a dict of two codes."""
    encoder = fnn.serial(fnn.dense(128), fnn.relu(), fnn.dense(64), fnn.relu(), fnn.dense(2))
    return fnn.shared(fnn.over_parts(left=encoder, right=encoder), {"right": "left"})


def pairs(images, labels):
    """Pairs of images, half of them of one digit."""
    random = np.random.default_rng(0)
    left = random.integers(len(images), size=PAIRS)
    of_digit = [np.flatnonzero(labels == digit) for digit in range(10)]
    alike = np.array([random.choice(of_digit[labels[i]]) for i in left])
    right = np.where(random.random(PAIRS) < 0.5, alike, random.integers(len(images), size=PAIRS))
    same = (labels[left] == labels[right]).astype("int32")
    return {"left": images[left], "right": images[right]}, same


def main(
    output: Annotated[Path, typer.Option(help="Folder for siamese.png.")] = Path("fnn-run"),
) -> None:
    """Train on pairs by both gradients, and draw the codes of digits never seen."""
    folder = output_folder(output)
    (x, labels), (test_x, test_labels) = fnn.datasets.digits()
    x, test_x = (a.reshape(len(a), -1).astype("float32") / 255 for a in (x, test_x))
    data, model = pairs(x[:IMAGES], np.asarray(labels[:IMAGES])), siamese()
    print(fnn.summary(model, jax.tree.map(lambda a: a[:BATCH], data[0])), end="\n\n")
    few = {"left": x[:8, 300:302], "right": x[8:16, 300:302] + 0.1}
    fnn.check_loss(contrastive(), few, data[1][:8], numeric=False)
    print("the loss of its own has the right gradient")

    def train(gradient):
        trained, history = fnn.fit(
            model, contrastive(), fnn.optim.adam(0.001), data, epochs=EPOCHS, batch_size=BATCH,
            key=jax.random.key(0), gradient=gradient,
        )  # fmt: skip
        return trained, history.loss

    trained, curves = by_both(train)
    both = {"left": test_x, "right": test_x}
    codes = np.asarray(fnn.predict(model, trained.params, trained.state, both)["left"])
    known = {"left": x[:IMAGES], "right": x[:IMAGES]}
    seen = np.asarray(fnn.predict(model, trained.params, trained.state, known)["left"])
    nearest = np.linalg.norm(codes[:, None] - seen, axis=-1).argmin(1)
    right = (np.asarray(labels)[nearest] == test_labels).mean()
    print(f"the nearest known code is of the same digit for {right:.1%} of new images")
    figure = Figure((9, 4.2), layout="constrained")
    left_axes, right_axes = figure.subplots(1, 2)
    points = left_axes.scatter(*codes.T, s=6, c=test_labels, cmap="tab10", vmin=-0.5, vmax=9.5)
    figure.colorbar(points, ax=left_axes, ticks=range(10), label="digit")
    left_axes.set(xlabel="first number of the code", ylabel="second", title="Codes of new digits")
    draw(right_axes, curves)
    save(figure, folder, "siamese.png")


if __name__ == "__main__":
    typer.run(main)
