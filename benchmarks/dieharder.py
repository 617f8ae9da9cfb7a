"""The counter generator under the dieharder battery: run it with ``--only keys``, say.

Needs the program: ``apt-get install dieharder``. A stream of bits is piped into it, in one of four
orders. Words from one place of many streams stand next to each other in three of them, so that
whatever neighbors have in common shows:

- places: one stream after another, each from its first place to its last, as noise uses them;
- keys, steps, leaves: 256 neighboring keys, steps or leaves of an optimizer, word by word in turns.

One order under the whole battery takes an hour or two; ``--tests 0 2 200:3`` picks tests by number,
with a width where they have one (``dieharder -l`` lists them). P-values are uniform when nothing is
wrong: dieharder calls one in 100 WEAK and one in a million FAILED, and what is WEAK by chance is
not so with another ``--seed``.

The generator is private to fnn, and imported here all the same: it is the bits that are put to the
test, and what is public of noise are the numbers made of them.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from measure import write

from fnn.optim.noise._random_bits import bits, streams

TURNS, LENGTH = 256, 2**14
ORDERS = ("places", "keys", "steps", "leaves")


def stream_keys(order: str, block: int, seed: int) -> jax.Array:
    """Return the two words of each of the streams of a block."""
    if order == "keys":
        seeds = jnp.arange(TURNS) + (seed + block * TURNS)
        return jax.vmap(lambda s: streams(jax.random.key(s), 0, 1, "counter")[0])(seeds)
    key = jax.random.key(seed)
    if order == "leaves":
        return streams(key, block, TURNS, "counter")
    steps = jnp.arange(TURNS) + block * TURNS
    return jax.vmap(lambda s: streams(key, s, 1, "counter")[0])(steps)


def words(order: str, seed: int) -> Iterator[bytes]:
    """Give the stream, in blocks of 16 MiB."""
    one_after_the_other = order == "places"

    @jax.jit
    def draw(block: jax.Array) -> jax.Array:
        drawn = jax.vmap(lambda key: bits(key, (LENGTH,), "counter"))(
            stream_keys(order, block, seed)
        )
        return drawn if one_after_the_other else drawn.T

    for block in itertools.count():
        yield np.asarray(draw(jnp.int32(block))).tobytes()


def battery(order: str, seed: int, tests: list[str]) -> list[dict[str, object]]:
    """Run tests on a stream and return a row for each assessment."""
    rows: list[dict[str, object]] = []
    for test in tests:
        number, _, width = test.partition(":")
        which = ["-a"] if test == "all" else ["-d", number, *(["-n", width] if width else [])]
        with subprocess.Popen(
            ["dieharder", *which, "-g", "200"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            bufsize=0,
        ) as process:  # fmt: skip
            feed(process, order, seed)
            printed = process.stdout.read().decode() if process.stdout else ""
        for line in printed.splitlines():
            cells = [cell.strip() for cell in line.split("|")]
            if len(cells) == 6 and cells[-1] in ("PASSED", "WEAK", "FAILED"):
                name = f"{order} {cells[0]} {cells[1]}"
                rows.append({"name": name, "size": cells[3], "p": float(cells[4]), "is": cells[5]})
                print(f"{name:<40} {cells[4]}  {cells[5]}", flush=True)
    return rows


def feed(process: subprocess.Popen[bytes], order: str, seed: int) -> None:
    """Pipe the stream into the program until it has had enough."""
    assert process.stdin is not None
    try:
        for block in words(order, seed):
            process.stdin.write(block)
    except BrokenPipeError:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=ORDERS, help="orders to test; all")
    parser.add_argument("--tests", nargs="+", default=["all"], help="numbers of tests; all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    options = parser.parse_args()
    rows = []
    for order in options.only or ORDERS:
        rows += battery(order, options.seed, options.tests)
    counted = Counter(str(row["is"]) for row in rows)
    print(", ".join(f"{count} {name}" for name, count in counted.items()))
    write(rows, options.json)


if __name__ == "__main__":
    main()
