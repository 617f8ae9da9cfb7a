"""One process of start.py: train by one library until an accuracy is reached, and print it.

After it the megabytes of memory that the process took at most, and its seconds on all cores.

``python start_child.py LIBRARY FILE GOAL PLATFORM SEED``: FILE holds the arrays, PLATFORM is where
JAX runs, and PyTorch with it; SEED draws weights and orders. Nothing is imported that the library
does not need.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

CHANNELS, PIXELS, CLASSES, RATE, MOMENTUM, BATCH, MOST_EPOCHS = 16, 14 * 14, 10, 0.05, 0.9, 100, 20
Arrays = tuple[Any, Any, Any, Any]


def orders(count: int, seed: int) -> Iterator[Any]:
    """Yield the order of the examples of every epoch, in full batches."""
    draws = np.random.default_rng(seed)
    for _ in range(MOST_EPOCHS):
        yield draws.permutation(count)[: count // BATCH * BATCH].reshape(-1, BATCH)


def by_fnn(arrays: Arrays, goal: float, platform: str, seed: int) -> float:
    del platform
    import jax

    import fnn
    from fnn.train import callbacks

    def stop(event: callbacks.Event) -> callbacks.Stop | None:
        reached = event.metrics.get("accuracy", 0) >= goal
        return callbacks.Stop("the accuracy is reached") if reached else None

    x, labels, test_x, test_labels = arrays
    model = fnn.serial(
        fnn.conv(CHANNELS, 5), fnn.relu(), fnn.max_pool(2), fnn.flatten(), fnn.dense(CLASSES)
    )
    _, history = fnn.fit(
        model, fnn.losses.cross_entropy(), fnn.optim.momentum(RATE, MOMENTUM), (x, labels),
        epochs=MOST_EPOCHS, batch_size=BATCH, key=jax.random.key(seed),
        validation=(test_x, test_labels), metrics={"accuracy": fnn.accuracy},
        callbacks=[stop],
    )  # fmt: skip
    return float(history.validation["accuracy"][-1])


def by_torch(arrays: Arrays, goal: float, platform: str, seed: int) -> float:
    import torch

    torch.manual_seed(seed)
    device = "cpu" if platform == "cpu" else "cuda"
    x, labels, test_x, test_labels = (torch.from_numpy(part).to(device) for part in arrays)
    x, test_x = (part.permute(0, 3, 1, 2) for part in (x, test_x))
    labels, test_labels = labels.long(), test_labels.long()
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, CHANNELS, 5, padding=2), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(CHANNELS * PIXELS, CLASSES),
    ).to(device, memory_format=torch.channels_last)  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)
    accuracy = 0.0
    for order in orders(len(x), seed):
        for rows in torch.from_numpy(order).to(device):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), labels[rows]).backward()
            optimizer.step()
        with torch.inference_mode():
            accuracy = float((model(test_x).argmax(-1) == test_labels).float().mean())
        if accuracy >= goal:
            break
    return accuracy


def by_flax(arrays: Arrays, goal: float, platform: str, seed: int) -> float:
    del platform
    import optax
    from flax import nnx

    x, labels, test_x, test_labels = arrays
    rngs = nnx.Rngs(seed)
    model = nnx.Sequential(
        nnx.Conv(1, CHANNELS, (5, 5), rngs=rngs), nnx.relu,
        lambda x: nnx.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1),
        nnx.Linear(CHANNELS * PIXELS, CLASSES, rngs=rngs),
    )  # fmt: skip
    optimizer = nnx.Optimizer(model, optax.sgd(RATE, MOMENTUM), wrt=nnx.Param)

    def loss_of(model: Any, x: Any, labels: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

    @nnx.jit
    def step(model: Any, optimizer: Any, x: Any, labels: Any) -> None:
        optimizer.update(model, nnx.grad(loss_of)(model, x, labels))

    @nnx.jit
    def score(model: Any, x: Any, labels: Any) -> Any:
        return (model(x).argmax(-1) == labels).mean()

    accuracy = 0.0
    for order in orders(len(x), seed):
        for rows in order:
            step(model, optimizer, x[rows], labels[rows])
        accuracy = float(score(model, test_x, test_labels))
        if accuracy >= goal:
            break
    return accuracy


def by_keras(arrays: Arrays, goal: float, platform: str, seed: int) -> float:
    del platform
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    class Reached(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            del epoch
            self.model.stop_training = logs["val_accuracy"] >= goal

    x, labels, test_x, test_labels = arrays
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.layers.Conv2D(CHANNELS, 5, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.SGD(RATE, MOMENTUM), metrics=["accuracy"],
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )  # fmt: skip
    history = model.fit(
        x, labels, batch_size=BATCH, epochs=MOST_EPOCHS, verbose=0,
        validation_data=(test_x, test_labels), callbacks=[Reached()],
    )  # fmt: skip
    return float(history.history["val_accuracy"][-1])


LIBRARIES: dict[str, Callable[[Arrays, float, str, int], float]] = {
    "fnn": by_fnn,
    "PyTorch": by_torch,
    "Flax NNX": by_flax,
    "Keras on JAX": by_keras,
}


def main() -> None:
    name, file, goal, platform, seed = sys.argv[1:]
    with np.load(file) as arrays:
        x, labels, test_x, test_labels = (arrays[key] for key in sorted(arrays))
    accuracy = LIBRARIES[name]((x, labels, test_x, test_labels), float(goal), platform, int(seed))
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(accuracy, used.ru_maxrss / 2**10, used.ru_utime + used.ru_stime)


if __name__ == "__main__":
    main()
