"""Damage files at random: each must be refused by an `InputError`, or read as what it was.

``python -m tests.attack.damage --count 2000`` tries so many for every format, from a seed of its
own, and prints those that got through.
"""

from __future__ import annotations

import argparse
import gzip
import secrets
import tempfile
from collections import Counter
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import fnn
from fnn.cli.data import problem
from fnn.datasets.digits import _split

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
TABLE = np.random.default_rng(2).normal(size=(12, 4))
PARAMS = {
    "weight": np.random.default_rng(1).normal(size=(4, 3)).astype("float32"),
    "half": np.arange(5, dtype="float16"),
    "mask": np.array([True, False, True]),
    "count": np.int32(7),
}


class Format(NamedTuple):
    """How a whole file is made and read; `seen_all` says that it holds a checksum of everything.

    Where it does not, `alike` says whether what was read has the form of the original.
    """

    whole: Callable[[Path], bytes]
    read: Callable[[Path], Any]
    seen_all: bool = True
    alike: Callable[[Any, Any], bool] = lambda got, original: False
    suffix: str = ""


def same(got: Any, original: Any) -> bool:
    """Say whether two trees of arrays are the same bit for bit."""
    leaves = [[np.asarray(a) for a in jax.tree.leaves(tree)] for tree in (got, original)]
    return len(leaves[0]) == len(leaves[1]) and all(
        (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        for a, b in zip(*leaves, strict=True)
    )


def saved(file: Path) -> bytes:
    fnn.save_weights(file, PARAMS)
    return file.read_bytes()


def train_state() -> fnn.TrainState:
    params = jax.tree.map(jax.numpy.asarray, PARAMS)
    optimizer = fnn.optim.adam(0.1)
    numbers = {"optimizer/learning_rate": jax.numpy.asarray(0.1)}
    key, step = jax.random.key(3), jax.numpy.int32(7)
    return fnn.TrainState(params, (), optimizer.init(params["weight"]), key, step, numbers)


def checkpoint(file: Path) -> bytes:
    fnn.save_train_state(file, train_state(), model=fnn.dense(3), data_state={"row": 7})
    return file.read_bytes()


def read_checkpoint(file: Path) -> Any:
    """Return the arrays with the words, which have a reader of their own."""
    found = fnn.load_train_state(file, train_state())
    info = fnn.train.checkpoint_info(file)
    return found._replace(key=jax.random.key_data(found.key)), np.array(repr(info))


def idx() -> bytes:
    head = bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in IMAGES.shape)
    return head + IMAGES.tobytes()


def table_npz(file: Path) -> bytes:
    np.savez_compressed(file, x=TABLE[:, :3], y=np.arange(len(TABLE)) % 3)
    return file.read_bytes()


def table_csv(file: Path) -> bytes:
    rows = [
        f"{','.join(f'{n:.3f}' for n in row[:3])},{'abc'[i % 3]}" for i, row in enumerate(TABLE)
    ]
    return "\n".join(("one,two,three,kind", *rows)).encode()


def read_table(file: Path) -> Any:
    """Return the arrays that the command line learns from."""
    read = problem(str(file), None, 0)
    return read.train, read.test


def same_kind(got: Any, original: Any) -> bool:
    """Say whether a table is one of finite numbers with as many labels."""
    return all(
        x.ndim == 2 and len(x) == len(y) and np.isfinite(x).all() and np.isfinite(y).all()
        for x, y in got
    )


FORMATS = {
    "safetensors": Format(saved, lambda file: fnn.load_weights(file, (PARAMS, ()))[0]),
    "train_state": Format(checkpoint, read_checkpoint),
    "idx.gz": Format(lambda file: gzip.compress(idx(), mtime=0), fnn.datasets.read_idx),
    # No checksum: the data may change, the form may not.
    "idx": Format(
        lambda file: idx(),
        fnn.datasets.read_idx,
        seen_all=False,
        alike=lambda got, original: got.size == original.size and got.ndim == original.ndim,
    ),
    "npz": Format(
        lambda file: (resources.files("fnn.datasets") / "digits.npz").read_bytes(),
        lambda file: _split(file.read_bytes()),
    ),
    # Its checksums are those of the arrays, not of their names; numbers in a table may be others.
    "table.npz": Format(table_npz, read_table, False, same_kind, ".npz"),
    "table.csv": Format(table_csv, read_table, False, same_kind, ".csv"),
    # Any bytes that are UTF-8 are a text.
    "text": Format(
        lambda file: "Ünïcödé, and more of it\n".encode(),
        lambda file: fnn.datasets.text(file),
        seen_all=False,
        alike=lambda got, original: got.decode(got.ids) != "" and isinstance(got.alphabet, str),
    ),
}


def flip(content: bytearray, random: np.random.Generator) -> None:
    for place in random.integers(0, len(content), random.integers(1, 4)):
        content[place] ^= 1 << int(random.integers(8))


def overwrite(content: bytearray, random: np.random.Generator) -> None:
    start, length = stretch(content, random)
    content[start : start + length] = random.bytes(length)


def clear(content: bytearray, random: np.random.Generator) -> None:
    start, length = stretch(content, random)
    content[start : start + length] = bytes(length)


def cut(content: bytearray, random: np.random.Generator) -> None:
    start, length = stretch(content, random)
    del content[start : start + length]


def repeat(content: bytearray, random: np.random.Generator) -> None:
    start, length = stretch(content, random)
    content[start:start] = content[start : start + length]


def insert(content: bytearray, random: np.random.Generator) -> None:
    start, length = stretch(content, random)
    content[start:start] = random.bytes(length)


def swap(content: bytearray, random: np.random.Generator) -> None:
    """Two stretches of one length in each other's place."""
    one, length = stretch(content, random)
    other = int(random.integers(len(content) - length + 1))
    parts = content[one : one + length], content[other : other + length]
    if abs(one - other) >= length:
        content[other : other + length], content[one : one + length] = parts


def truncate(content: bytearray, random: np.random.Generator) -> None:
    del content[int(random.integers(len(content))) :]


def extend(content: bytearray, random: np.random.Generator) -> None:
    content += random.bytes(int(random.integers(1, 20)))


def spoil_head(content: bytearray, random: np.random.Generator) -> None:
    """The first bytes, where lengths stand."""
    for place in random.integers(0, min(16, len(content)), 2):
        content[place] = int(random.choice([0, 1, 0x7F, 0x80, 0xFF]))


def digits(content: bytearray, random: np.random.Generator) -> None:
    """A digit in place of another, as in the numbers of a text header."""
    places = [i for i, byte in enumerate(content[:2000]) if 48 <= byte < 58] or [0]
    content[int(random.choice(places))] = int(random.integers(48, 58))


DAMAGES = (
    flip, overwrite, clear, cut, repeat, insert, swap, truncate, extend, spoil_head, digits
)  # fmt: skip


def stretch(content: bytearray, random: np.random.Generator) -> tuple[int, int]:
    """Return the start and the length of a part of the content."""
    start = int(random.integers(len(content)))
    return start, int(random.integers(1, 1 + min(len(content) - start, 64)))


def verdict(form: Format, file: Path, content: bytes, original: Any) -> str:
    """Return "refused" or "whole", or else what is wrong."""
    file.write_bytes(content)
    try:
        got = form.read(file)
    except fnn.InputError:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if same(got, original):
        return "whole"
    if not form.seen_all and form.alike(got, original):
        return "alike"
    return "read as something else"


def attack(name: str, count: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Damage a file of a format so many times; return the verdicts counted, and the bad ones."""
    form, random = FORMATS[name], np.random.default_rng(seed)
    file = folder / f"file{form.suffix}"
    whole = form.whole(file)
    file.write_bytes(whole)
    original, counts, bad = form.read(file), Counter[str](), []
    while sum(counts.values()) < count:
        content = bytearray(whole)
        done = [DAMAGES[int(i)] for i in random.integers(0, len(DAMAGES), random.integers(1, 3))]
        for damage in done:
            if content:
                damage(content, random)
        if content == whole:
            continue
        found = verdict(form, file, bytes(content), original)
        counts[found] += 1
        if found not in ("refused", "whole", "alike"):
            words = " and ".join(damage.__name__ for damage in done)
            bad.append(f"{name}: {words}, then {found}: {content[:200].hex()}")
    return counts, bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="for every format")
    parser.add_argument("--only", choices=FORMATS, action="append", help="a format")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    got_through = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only or FORMATS:
            counts, bad = attack(name, options.count, options.seed, Path(folder))
            print(f"{name}: {', '.join(f'{n} {what}' for what, n in counts.items())}")
            got_through += bad
    print("\n".join(got_through) or "all were refused, or read as what they were")
    raise SystemExit(bool(got_through))


if __name__ == "__main__":
    main()
