"""A transformer of an encoder and a decoder translates dates, character by character.

A date as people write it, in one of five ways, becomes one in the order of ISO 8601::

    November 24, 2026    2026-11-24

The encoder reads the whole source in both directions (Vaswani et al. 2017); every step of the
decoder attends to what has been written so far, and to all of the source. Sources are of unequal
length: what fills a batch up is seen by no one. To write, `fnn.generate` encodes a batch of sources
once, and then each character costs one time step, from caches of keys and values of both.

It is trained on 4,000 dates by `jax.grad` and by hand, and then translates others. The picture
tells which characters of a source each character of a translation rests on: by how much it loses in
probability when that one is hidden, by the mask of a `fnn.Sequence`.

Run it with ``python examples/translate.py --output fnn-run``; it writes ``translate.png`` there.
"""

import datetime
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import typer
from _curves import by_both, draw, save
from matplotlib.figure import Figure

import fnn
from fnn.train import output_folder

WAYS = ("{d} {month} {y}", "{month} {d}, {y}", "{day} {d} {mon} {y}", "{d}.{m}.{y}", "{m}/{d}/{y}")
# The end of a line begins and ends a translation, and fills up what is shorter.
SYMBOLS = sorted(set("\n ,-./0123456789 ADFJMNOSTW abcdefghilmnoprstuvyz"))
NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS)}
DATES, EPOCHS, BATCH, LONGEST, WIDTH = 4_000, 5, 50, 18, 48


def pairs(count, seed):
    """Dates between 1950 and 2050 in words, and in numbers."""
    random = np.random.default_rng(seed)
    for days, way in random.integers((0, 0), (36_525, len(WAYS)), size=(count, 2)):
        date = datetime.date(1950, 1, 1) + datetime.timedelta(int(days))
        words = {"month": f"{date:%B}", "mon": f"{date:%b}", "day": f"{date:%a}"}
        yield WAYS[way].format(d=date.day, m=date.month, y=date.year, **words), date.isoformat()


def encoded(texts, longest):
    """Texts as numbers (B, longest), padded behind, and their lengths."""
    rows = [[NUMBERS[symbol] for symbol in text] for text in texts]
    padded = [row + [0] * (longest - len(row)) for row in rows]
    return fnn.Sequence(np.array(padded, "int32"), np.array(list(map(len, rows)), "int32"))


def decoded(ids):
    """A row of numbers as text, up to the end of its line."""
    return "".join(SYMBOLS[number] for number in ids).partition("\n")[0]


def translator():
    """A pair of a target (B, T) and a source to the scores (B, T, K) of what follows."""
    count = len(SYMBOLS)
    return fnn.serial(
        encoder=fnn.over_memory(
            fnn.serial(
                embed=fnn.over_sequence(fnn.embedding(count, WIDTH)),
                position=fnn.over_sequence(fnn.positional()),
                blocks=fnn.repeat(fnn.transformer_block(4), 2),
                norm=fnn.over_sequence(fnn.layer_norm()),
            )
        ),
        embed=fnn.over_query(fnn.serial(fnn.embedding(count, WIDTH), fnn.positional())),
        decoder=fnn.repeat(fnn.transformer_block(4, causal=True, cross=True), 2),
        query=fnn.take_query(),
        head=fnn.serial(fnn.layer_norm(), fnn.dense(count)),
    )


def shifted(translations):
    """What the decoder has read before each character, and the characters."""
    targets = encoded([f"{text}\n" for text in translations], 11).values
    return np.pad(targets[:, :-1], ((0, 0), (1, 0))), targets


def needs(model, trained, source, translation):
    """How much probability each character (rows) loses when one of the source is hidden."""
    sources, (before, after) = encoded([source], len(source)), shifted([translation])
    # The source as it is, and once without each of its characters.
    there = np.concatenate([np.ones((1, len(source)), bool), ~np.eye(len(source), dtype=bool)])
    times = len(there)
    hidden = fnn.Sequence(np.repeat(sources.values, times, 0), there)
    scores = fnn.predict(
        model, trained.params, trained.state, (np.repeat(before, times, 0), hidden)
    )
    p = np.take_along_axis(np.asarray(jax.nn.softmax(scores)), after[..., None], 2)[..., 0]
    return (p[0] - p[1:]).T[: len(translation)]


def main(
    output: Annotated[Path, typer.Option(help="Folder for translate.png.")] = Path("fnn-run"),
) -> None:
    """Train on pairs of dates by both gradients, and translate dates never seen."""
    folder = output_folder(output)
    sources, translations = zip(*pairs(DATES, seed=0), strict=True)
    before, after = shifted(translations)
    x, model = (before, encoded(sources, LONGEST)), translator()
    print(fnn.summary(model, jax.tree.map(lambda a: a[:BATCH], x)), end="\n\n")
    schedule, steps = fnn.optim.schedule, EPOCHS * DATES // BATCH
    adam = fnn.optim.adam(schedule.warm_up(50, schedule.cosine(0.003, steps)))

    def train(gradient):
        trained, history = fnn.fit(
            model, fnn.losses.cross_entropy(), adam, (x, after), epochs=EPOCHS, batch_size=BATCH,
            key=jax.random.key(0), gradient=gradient,
        )  # fmt: skip
        return trained, history.loss

    trained, curves = by_both(train)
    known = set(sources)
    new = {source: wanted for source, wanted in pairs(500, seed=1) if source not in known}
    drawn = fnn.generate(
        model, trained.params, trained.state, np.zeros((len(new), 1), "int32"), 11,
        key=jax.random.key(1), source=encoded(new, LONGEST), temperature=0, stop=0,
    )  # fmt: skip
    written = dict(zip(new, map(decoded, np.asarray(drawn)), strict=True))
    for source in list(new)[:6]:
        print(f"{source:<20} {written[source]}")
    right = np.mean([written[source] == wanted for source, wanted in new.items()])
    print(f"{right:.1%} of {len(new)} dates never seen are translated without a mistake")
    source, translation = "November 24, 2026", "2026-11-24"
    figure = Figure((9, 4.2), layout="constrained")
    left_axes, right_axes = figure.subplots(1, 2)
    image = left_axes.imshow(needs(model, trained, source, translation), "Blues", vmin=0, vmax=1)
    left_axes.set(
        xlabel="character that is hidden", ylabel="character that is written",
        xticks=range(len(source)), yticks=range(len(translation)), title="Probability lost",
    )  # fmt: skip
    left_axes.set_xticklabels(list(source.replace(" ", "\N{OPEN BOX}")))
    left_axes.set_yticklabels(list(translation))
    figure.colorbar(image, ax=left_axes, shrink=0.7)
    draw(right_axes, curves)
    save(figure, folder, "translate.png")


if __name__ == "__main__":
    typer.run(main)
