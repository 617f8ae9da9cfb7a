"""An LSTM learns a text character by character, its gradient through time derived by hand.

It reads the reference of the Python language, which comes with Python (or ``--text FILE``), in
windows, and at every character predicts the next. It is trained twice from the same key, by the
hand-derived gradient and by `jax.grad`, and the two loss curves are compared; then it writes, its
hidden state carried from character to character.

Run it with ``python examples/char_lstm.py``: under a minute. For a model that spells and indents
well, give it more of the text and of everything::

    python examples/char_lstm.py --characters 450000 --width 512 --layers 2 --epochs 40
"""

from pathlib import Path
from typing import Annotated

import typer
from _writing import learn, write

import fnn


def lstm_of_characters(alphabet: int, width: int, layers: int) -> fnn.Layer:
    """Characters (B, T) to the scores (B, T, K) of the characters that follow."""
    return fnn.serial(
        fnn.embedding(alphabet, width),
        *(fnn.lstm(width) for _ in range(layers)),
        fnn.dense(alphabet),
    )


def main(
    text: Annotated[Path | None, typer.Option(help="A text in UTF-8 to learn.")] = None,
    characters: Annotated[int, typer.Option(help="How much of it.")] = 100_000,
    prompt: Annotated[str, typer.Option(help="What to go on from.")] = "",
    width: Annotated[int, typer.Option(help="Numbers in the hidden state.")] = 128,
    layers: Annotated[int, typer.Option(help="LSTMs on top of each other.")] = 1,
    window: Annotated[int, typer.Option(help="Characters to go back through.")] = 50,
    epochs: Annotated[int, typer.Option(help="How often to read the text.")] = 6,
    batch_size: Annotated[int, typer.Option(help="Windows a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Step size of Adam at first.")] = 0.005,
    temperature: Annotated[float, typer.Option(help="Below 1, safer characters.")] = 0.5,
    seed: Annotated[int, typer.Option(help="All randomness.")] = 0,
) -> None:
    """Train an LSTM on a text by hand-derived and by automatic gradients, and let it write."""
    book = fnn.datasets.text(text, characters)
    model = lstm_of_characters(book.vocabulary, width, layers)
    trained = learn(model, book, window, epochs, batch_size, learning_rate, seed)
    write(model, trained, book, prompt, temperature, seed)


if __name__ == "__main__":
    typer.run(main)
