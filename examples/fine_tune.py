"""Fine-tuning: a network that knows the digits 0 to 4 learns 5 to 9 from 100 images.

A trunk of dense layers and batch norms is trained on 2,000 images of 0 to 4, gets a new head, and
goes on with 100 images of 5 to 9: its head alone, the trunk frozen; low-rank adapters of the trunk
(`fnn.lora`) and the head; all of it with frozen batch norms (`fnn.eval_mode`); all of it with batch
norms that move. Beside them the same network from scratch, which on a task as easy as this does as
well: what adapters save is parameters to train and to keep, one in twenty. Each way is trained by
both gradients, and scored on 500 images of 5 to 9 never seen.

Run it with ``python examples/fine_tune.py --output fnn-run``; it writes ``fine_tune.png`` there.
"""

from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import typer
from _curves import save
from matplotlib.figure import Figure

import fnn
from fnn.train import output_folder

IMAGES, BATCH, EPOCHS, RANK, LEARNING_RATE = 100, 25, 40, 4, 0.003
LOSS, KEY = fnn.losses.cross_entropy(), jax.random.key(0)


def digits_from(first):
    """Images of five digits and their labels 0 to 4, to learn from and to test on."""
    parts = []
    for x, labels in fnn.datasets.digits():
        chosen = (labels >= first) & (labels < first + 5)
        parts.append((x[chosen].reshape(-1, 784).astype("float32") / 255, labels[chosen] - first))
    return parts


def layers(width=128):
    """The trunk: what is trained first, and goes on."""
    parts = [(fnn.dense(width), fnn.batch_norm(), fnn.relu()) for _ in range(2)]
    return fnn.serial(*parts[0], *parts[1])


def ways(trained):
    """Model, optimizer, parameters and state of each way; `trained` are those of the trunk."""
    x, adam = jax.ShapeDtypeStruct((BATCH, 784), "float32"), fnn.optim.adam(LEARNING_RATE)
    moving = fnn.serial(trunk=layers(), head=fnn.dense(5))
    frozen = fnn.serial(trunk=fnn.eval_mode(layers()), head=fnn.dense(5))
    adapted = fnn.lora(frozen, RANK, ["trunk/*weight"])
    fresh = moving.init(jax.random.key(1), x)
    tuned = tuple(part | {"trunk": old} for part, old in zip(fresh, trained, strict=True))
    low_rank = adapted.init(jax.random.key(1), x)
    low_rank = tuple(part | {"base": old} for part, old in zip(low_rank, tuned, strict=True))
    return {
        "from scratch": (moving, adam, *fresh),
        "head alone": (frozen, fnn.optim.freeze(adam, "trunk/*"), *tuned),
        "LoRA and head": (adapted, fnn.optim.freeze(adam, "base/trunk/*"), *low_rank),
        "all, norms frozen": (frozen, adam, *tuned),
        "all, norms moving": (moving, adam, *tuned),
    }


def train(way, data, gradient):
    """Train in one way by one gradient; return the train state before and after, and the losses."""
    model, optimizer, params, state = way
    begin = fnn.init_train_state(model, optimizer, data[0][:BATCH], key=KEY)
    begin = begin._replace(params=params, state=state)
    end, history = fnn.fit(
        model, LOSS, optimizer, data, epochs=EPOCHS, batch_size=BATCH, start=begin,
        gradient=gradient,
    )  # fmt: skip
    return begin, end, np.asarray(history.loss, np.float64)


def changed(before, after):
    """Return the size of each array that is not what it was, to the bit, and 0 for the others."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return [a.size if (a != b).any() else 0 for a, b in pairs]


def main(
    output: Annotated[Path, typer.Option(help="Folder for fine_tune.png.")] = Path("fnn-run"),
) -> None:
    """Train on 0 to 4, fine-tune on 100 images of 5 to 9, and print a table of the ways."""
    folder = output_folder(output)
    known, known_test = digits_from(0)
    (x, labels), new_test = digits_from(5)
    few = x[:IMAGES], labels[:IMAGES]
    metrics = {"accuracy": fnn.accuracy}
    whole = fnn.serial(trunk=layers(), head=fnn.dense(5))
    first, _ = fnn.fit(whole, LOSS, fnn.optim.adam(0.001), known, epochs=4, batch_size=100, key=KEY)
    scores = fnn.evaluate(whole, LOSS, first.params, first.state, known_test, metrics=metrics)
    print(f"0 to 4, {len(known[0])} images: {scores['accuracy']:.1%} right", end="\n\n")
    columns = "parameters trained   epochs to loss 0.1   statistics   right"
    print(f"{f'5 to 9, {IMAGES} images':<20} {columns}")
    figure, largest = Figure((9, 4.2), layout="constrained"), 0.0
    axes, bars = figure.subplots(1, 2)
    for name, way in ways((first.params["trunk"], first.state["trunk"])).items():
        _, _, automatic = train(way, few, "auto")
        begin, end, losses = train(way, few, "manual")
        largest = max(largest, (np.abs(losses - automatic) / automatic.max()).max())
        moved = sum(changed(begin.params, end.params))
        statistics = "moved" if any(changed(begin.state, end.state)) else "as before"
        scores = fnn.evaluate(way[0], LOSS, end.params, end.state, new_test, metrics=metrics)
        right = 100 * scores["accuracy"]
        low = np.flatnonzero(losses.reshape(EPOCHS, -1).mean(1) < 0.1)
        soon = low[0] + 1 if low.size else "never"
        print(f"{name:<20} {moved:>18,} {soon:>20} {statistics:>12} {right:>6.1f}%")
        axes.plot(losses, label=name)
        bars.barh(name, right)
    print(f"\nby hand and by autodiff the curves differ by {largest:.1e} at most")
    axes.set(xlabel="step", ylabel="loss", yscale="log", title=f"Training on {IMAGES} images")
    # Room for the legend below the curves.
    axes.set_ylim(bottom=1e-7)
    axes.legend(loc="lower left", frameon=False)
    bars.set(xlabel="% of 500 new images", title="Digits 5 to 9, never seen")
    bars.invert_yaxis()
    save(figure, folder, "fine_tune.png")


if __name__ == "__main__":
    typer.run(main)
