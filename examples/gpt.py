r"""A small GPT learns a text without automatic differentiation anywhere.

Token and position embeddings, a stack of pre-norm transformer blocks compiled once, and a linear
head (Radford et al. 2019): every layer goes back by its manual gradient. The text is the reference
of the Python language, which comes with Python, or that of ``--text FILE``. For comparison it is
trained by `jax.grad` as well, from the same key, and the two loss curves are compared; then it
writes, every token at the price of one: keys and values of those before it are kept.

Run it with ``python examples/gpt.py``: under a minute. With ``--tokens 1000`` it reads byte pairs
in place of characters, and ``--prompt`` is what it goes on from. A larger one, for an
accelerator::

    python examples/gpt.py --characters 450000 --tokens 2000 --width 384 --heads 6 --depth 6 \
        --window 256 --batch-size 32 --learning-rate 0.001 --epochs 20
"""

from pathlib import Path
from typing import Annotated

import typer
from _writing import learn, write

import fnn


def gpt(vocabulary: int, width: int, heads: int, depth: int, window: int) -> fnn.Layer:
    """Tokens (B, T) to the scores (B, T, K) of the tokens that follow."""
    return fnn.serial(
        fnn.embedding(vocabulary, width),
        fnn.positional("learned", window),
        fnn.repeat(fnn.transformer_block(heads, causal=True), depth),
        fnn.layer_norm(),
        fnn.dense(vocabulary),
    )


def main(
    text: Annotated[Path | None, typer.Option(help="A text in UTF-8 to learn.")] = None,
    characters: Annotated[int, typer.Option(help="How much of it.")] = 100_000,
    tokens: Annotated[int, typer.Option(help="Byte pairs to learn, 256 or more; 0: none.")] = 0,
    prompt: Annotated[str, typer.Option(help="What to go on from.")] = "",
    width: Annotated[int, typer.Option(help="Numbers for each token.")] = 64,
    heads: Annotated[int, typer.Option(help="Heads of attention.")] = 4,
    depth: Annotated[int, typer.Option(help="Transformer blocks.")] = 2,
    window: Annotated[int, typer.Option(help="Tokens to look back on.")] = 64,
    epochs: Annotated[int, typer.Option(help="How often to read the text.")] = 6,
    batch_size: Annotated[int, typer.Option(help="Windows a step.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Step size of Adam at first.")] = 0.008,
    temperature: Annotated[float, typer.Option(help="Below 1, safer characters.")] = 0.5,
    seed: Annotated[int, typer.Option(help="All randomness.")] = 0,
) -> None:
    """Train a small GPT on a text by hand-derived and by automatic gradients, and let it write."""
    if tokens:
        book = fnn.datasets.byte_pairs(text, characters, vocabulary=tokens)
    else:
        book = fnn.datasets.text(text, characters)
    model = gpt(book.vocabulary, width, heads, depth, window)
    trained = learn(model, book, window, epochs, batch_size, learning_rate, seed)
    write(model, trained, book, prompt, temperature, seed, window)


if __name__ == "__main__":
    typer.run(main)
