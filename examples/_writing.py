"""What char_lstm.py and gpt.py share: learn a text by both gradients, compare, and write."""

import time

import jax
import numpy as np

import fnn


def learn(model, book, window, epochs, batch_size, learning_rate, seed):
    """Train by `jax.grad` and by the hand-derived gradient from the same key; return the latter.

    Prints both, and how far their loss curves are apart.
    """
    x, target = book.windows(window)
    # Whole batches: a last one of another size would be a second program.
    whole = len(x) // batch_size * batch_size or len(x)
    x, target = x[:whole], target[:whole]
    print(f"{len(book.ids):,} tokens of {book.vocabulary} kinds, {len(x):,} windows\n")
    print(fnn.summary(model, jax.ShapeDtypeStruct((batch_size, window), x.dtype)), end="\n\n")

    steps = epochs * -(-len(x) // batch_size)
    schedule = fnn.optim.schedule
    optimizer = fnn.optim.chain(
        fnn.optim.clip_by_global_norm(1.0),
        fnn.optim.adam(schedule.warm_up(20, schedule.cosine(learning_rate, steps))),
    )
    curves = {}
    for gradient in ("auto", "manual"):
        trained, history = fnn.fit(
            model, fnn.losses.cross_entropy(), optimizer, (x, target),
            epochs=epochs, batch_size=batch_size, key=jax.random.key(seed), gradient=gradient,
        )  # fmt: skip
        curves[gradient] = history.loss
        first, last = history.epoch_loss[0], history.epoch_loss[-1]
        print(
            f"{gradient:<6} loss {first:.3f} in the first epoch, {last:.3f} in the last, in nats a"
            f" token; {steps:,} steps in {history.run_seconds:.1f} s"
        )
    apart = np.abs(curves["manual"] - curves["auto"])
    print(
        f"the two loss curves differ by {apart[:100].max():.1e} at most in the first 100 steps, by"
        f" {apart.max():.1e} in all,\nwhere rounding has had time to grow,"
        f" by {apart[-1]:.1e} at the end\n"
    )
    return trained


def write(model, trained, book, prompt, temperature, seed, window=None, count=300):
    """Print a prompt, a bar, and what the model makes of it, as it is drawn."""
    prompt = book.encode(prompt) if prompt else book.ids[: (window or 100) // 2]
    print(book.decode(prompt), end="|", flush=True)
    began, drawn, shown = time.perf_counter(), [], ""
    for token in fnn.generate_stream(
        model, trained.params, trained.state, prompt[None], count, key=jax.random.key(seed + 1),
        temperature=temperature, top_p=0.95, window=window,
    ):  # fmt: skip
        drawn.append(int(token[0]))
        text = book.decode(drawn)
        # A token may end within a character, which the next one then changes.
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            print(text[len(shown) :], end="", flush=True)
            shown = text
    seconds = time.perf_counter() - began
    print(f"\n\n{count} tokens in {seconds:.1f} s, most of which is compiling")
