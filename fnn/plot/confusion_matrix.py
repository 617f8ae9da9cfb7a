"""Confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fnn._core.errors import InputError, entry
from fnn._core.types import Array
from fnn.plot._figure import class_labels, class_names, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@entry
def confusion_matrix(
    labels: Array, predictions: Array, names: Sequence[str] | None = None
) -> Figure:
    """Draw how often each class is taken for each other: rows are true, columns predicted.

    A square holds a count, and its shade the fraction of its row. The title tells the accuracy
    beside that of always guessing the commonest class.

    Args:
        labels: (n,), integers from 0 on.
        predictions: (n,), integers from 0 on: ``scores.argmax(-1)``.
        names: names of the classes; their numbers where it is None.
    Raises:    InputError for other shapes, what are no classes, no examples, and too few names.

    >>> import numpy as np
    >>> drawn = confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]))
    >>> [text.get_text() for text in drawn.axes[0].texts]
    ['1', '1', '', '1']

    """
    truth = class_labels(labels, "labels", None, None)
    guesses = class_labels(predictions, "predictions", len(truth), None)
    if not len(truth):
        raise InputError("at least one example", "none", "pass labels and predictions")
    least = int(max(truth.max(), guesses.max())) + 1
    names = class_names(names, least, more=True)
    count = len(names)
    table = np.zeros((count, count), int)
    np.add.at(table, (truth, guesses), 1)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    size = max(3.4, 0.55 * count + 1.4)
    figure = new_figure(size + 0.6, size)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*table.shape):
        text = str(table[row, column]) if table[row, column] else ""
        color = "white" if shares[row, column] > 0.55 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color=color)
    axes.set_xticks(range(count), names, rotation=90 if max(map(len, names)) > 3 else 0)
    axes.set_yticks(range(count), names)
    right, common = np.trace(table) / len(truth), table.sum(1).max() / len(truth)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"{right:.1%} right; guessing the commonest {common:.1%}", fontsize=10)
    figure.colorbar(image, ax=axes, label="fraction of the row", shrink=0.8)
    figure.set_label(f"Confusion matrix of {count} classes: {right:.1%} right.")
    return figure
