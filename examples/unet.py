"""A U-Net finds the strokes of digits under clutter, its gradient derived by hand.

Images become smaller and deeper on the way down, and larger again on the way up, where what was
there at the same size is joined to them (Ronneberger, Fischer and Brox 2015). It is a model in a
model: the way around is `fnn.identity` beside the deeper levels, in `fnn.parallel`.

Run it with ``python examples/unet.py --output fnn-run``; it writes ``unet.png`` there.
"""

from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import typer
from _curves import by_both, draw, save
from matplotlib.figure import Figure

import fnn
from fnn.train import output_folder

IMAGES, EPOCHS, BATCH, CHANNELS = 512, 3, 32, 8
SIZE, DEPTH = 20, 1


def convolution(channels):
    """A convolution that keeps the size."""
    he = jax.nn.initializers.he_normal()
    return fnn.serial(fnn.conv(channels, 3, initializer=he), fnn.relu())


def level(channels, depth):
    """A convolution, deeper levels beside a way around them, and a convolution again."""
    if depth == 0:
        return convolution(channels)
    below = fnn.serial(fnn.max_pool(2), level(2 * channels, depth - 1), fnn.upsample(2))
    around = fnn.serial(fnn.parallel(skip=fnn.identity(), below=below), fnn.concatenate())
    return fnn.serial(convolution(channels), around, convolution(channels))


def unet():
    """Images (B, 20, 20, 1) to a logit for each pixel, of the same shape."""
    return fnn.serial(level(CHANNELS, DEPTH), fnn.conv(1, 1))


def cluttered(images):
    """The middle of digits under noise and bars, and where their strokes are."""
    random = np.random.default_rng(0)
    clean = images[:, 4:-4, 4:-4, None].astype("float32") / 255
    noisy = clean + random.normal(0, 0.4, clean.shape)
    for image in noisy:
        at = random.integers(0, SIZE - 2, 2)
        image[at[0] : at[0] + 2] += 0.8
        image[:, at[1] : at[1] + 2] += 0.8
    return noisy.astype("float32"), (clean > 0.4).astype("float32")


def main(
    output: Annotated[Path, typer.Option(help="Folder for unet.png.")] = Path("fnn-run"),
) -> None:
    """Train by both gradients, and draw the strokes found in new images."""
    folder = output_folder(output)
    (x, _), (test_x, _) = fnn.datasets.digits()
    data, (new_x, new_t) = cluttered(x[:IMAGES]), cluttered(test_x[:200])
    model, loss = unet(), fnn.losses.binary_cross_entropy()

    def train(gradient):
        trained, history = fnn.fit(
            model, loss, fnn.optim.adam(0.003), data, epochs=EPOCHS, batch_size=BATCH,
            key=jax.random.key(0), gradient=gradient,
        )  # fmt: skip
        return trained, history.loss / SIZE**2

    trained, curves = by_both(train)
    found = np.asarray(fnn.predict(model, trained.params, trained.state, new_x)) > 0
    stroke = new_t > 0
    overlap = (found & stroke).sum() / (found | stroke).sum()
    threshold = new_x > 0.7
    naive = (threshold & stroke).sum() / (threshold | stroke).sum()
    print(f"overlap of found and true strokes {overlap:.0%}; by a threshold {naive:.0%}")
    figure = Figure((9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = [np.concatenate(list(part[:6, ..., 0]), 1) for part in (new_x.clip(0, 1), found, stroke)]
    left.imshow(np.concatenate(rows), cmap="gray_r")
    left.set_yticks([(i + 0.5) * SIZE for i in range(3)], ["image", "found", "true"])
    left.set(xticks=[], title="New images")
    draw(right, curves, "loss of a pixel")
    save(figure, folder, "unet.png")


if __name__ == "__main__":
    typer.run(main)
