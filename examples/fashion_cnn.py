"""A convolutional network tells clothes apart, its gradient derived by hand.

Two convolutions, max pooling, two dense layers: 32, 64, 128 and 10 channels, on Fashion-MNIST
(Debian's package dataset-fashion-mnist, or the four files in a ``--data-folder`` or in
``$FNN_DATA``). Where there are none it says so and takes the handwritten digits that come with fnn,
as it does with ``--data digits``. Trained on a part of the images; ``--images 60000 --epochs 10``
is full size.

Run it with ``python examples/fashion_cnn.py --output fnn-run``; it writes ``clothes.png`` there,
held-out images with their predictions, and ``filters.png``, what the first layer looks for.
"""

from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
import typer

import fnn
from fnn import plot
from fnn.train import output_folder

CLOTHES = (
    "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip


def cnn(classes: int = 10) -> fnn.Layer:
    """Images (B, 28, 28, 1) to scores (B, K)."""
    he = jax.nn.initializers.he_normal()
    return fnn.serial(
        fnn.conv(32, 3, initializer=he),
        fnn.relu(),
        fnn.conv(64, 3, initializer=he),
        fnn.relu(),
        fnn.max_pool(2),
        fnn.flatten(),
        fnn.dense(128, initializer=he),
        fnn.relu(),
        fnn.dropout(0.3),
        fnn.dense(classes),
    )


def images_of(data: str, folder: Path | None) -> tuple[fnn.datasets.Dataset, list[str] | None]:
    """Return images and the names of their classes: clothes if there are any, or else digits."""
    if data == "fashion_mnist":
        try:
            return fnn.datasets.fashion_mnist(folder), list(CLOTHES)
        except fnn.InputError as error:
            if folder is not None:  # named by the user: nothing else will do
                raise
            print(f"{error}\nNo Fashion-MNIST here: the handwritten digits take its place.\n")
    return fnn.datasets.digits(), None


def main(
    data: Annotated[
        Literal["fashion_mnist", "digits"], typer.Option(help="Images to learn from.")
    ] = "fashion_mnist",
    data_folder: Annotated[Path | None, typer.Option(help="Where the four files are.")] = None,
    images: Annotated[int, typer.Option(help="How many to learn from.")] = 6_000,
    epochs: Annotated[int, typer.Option(help="How often to go through them.")] = 2,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Step size of Adam at first.")] = 0.002,
    seed: Annotated[int, typer.Option(help="All randomness.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("fnn-run"),
) -> None:
    """Train a convolutional network by hand-derived gradients."""
    folder = output_folder(output)
    sets, names = images_of(data, data_folder)
    (x, labels), (test_x, test_labels) = sets
    x, test_x = (part[..., None].astype(np.float32) / 255 for part in (x[:images], test_x[:1000]))
    labels, test_labels = labels[:images], test_labels[:1000]
    model, loss = cnn(), fnn.losses.cross_entropy()
    print(fnn.summary(model, jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype)))

    steps = epochs * -(-len(x) // batch_size)
    trained, history = fnn.fit(
        model, loss, fnn.optim.adam(fnn.optim.schedule.cosine(learning_rate, steps)), (x, labels),
        epochs=epochs, batch_size=batch_size, key=jax.random.key(seed), gradient="manual",
        validation=(test_x, test_labels), metrics={"accuracy": fnn.accuracy},
    )  # fmt: skip
    for epoch, right in enumerate(history.validation["accuracy"], 1):
        print(
            f"epoch {epoch}: loss {history.epoch_loss[epoch - 1]:.3f}, held out {right:.1%} right"
        )
    print(f"{steps:,} steps in {history.run_seconds:.1f} s, held-out images included")

    scores = fnn.predict(model, trained.params, trained.state, test_x)
    pictures = {
        "clothes.png": plot.predictions(test_x[..., 0], test_labels, jax.nn.softmax(scores), names),
        "filters.png": plot.filters(trained.params[0]["weight"]),
    }
    for name, figure in pictures.items():
        plot.save(figure, folder / name)
        print("wrote", folder / name)


if __name__ == "__main__":
    typer.run(main)
