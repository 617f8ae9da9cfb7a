"""Ranges of settings as they are written on the command line: ``learning_rate=0.001:1:log4``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fnn._core.errors import InputError
from fnn._core.types import Unchecked
from fnn.cli.settings import Settings

Values = dict[str, list[Unchecked]]
# Wider fits no index, and so many runs no patience.
_LARGEST, _MOST = 2**31 - 1, 10_000
_FORMS = "0.1 or 0.1,0.2 or 0.001:1:log4 or 0:1:lin5 or 0:8"


def _integer(word: str) -> int:
    word = word.strip()
    if not word.isascii() or not word.removeprefix("-").isdigit():
        raise ValueError
    return int(word)


def _whole(word: str) -> int:
    found = _integer(word)
    if abs(found) > _LARGEST:
        raise ValueError
    return found


def _name(word: str) -> str:
    if not word:
        raise ValueError
    return word


def _switch(word: str) -> bool:
    return {"yes": True, "no": False}[word]


def _widths(word: str) -> tuple[int, ...]:
    found = tuple(_whole(one) for one in word.split(",")) if word else ()
    if any(width < 0 for width in found):
        raise ValueError
    return found


_SWITCHES, _WIDTHS, _WHOLE = ("batch_norm", "plain"), ("hidden", "channels"), (
    "epochs", "batch_size", "seed",
)  # fmt: skip
_NUMBERS = ("dropout", "learning_rate", "momentum", "noise_scale")
# Of these a sweep has one.
_SINGLE = ("data", "data_folder", "epochs", "plain")
# Not of what is learned.
_NO_SETTINGS = ("processes", "compare", "costs", "output")
NAMES = tuple(name for name in Settings._fields if name not in _NO_SETTINGS)


def read_settings(words: Sequence[str]) -> Values:
    """Return the values of every setting that was given; the seed is 0 where it was not.

    Args:
        words: such as ``seed=0:8``, each with a setting of its own.
    Raises:    InputError for what is no such word.

    >>> read_settings(["learning_rate=0.01:1:log3", "seed=0:2", "hidden=32,16/8"])
    {'learning_rate': [0.01, 0.1, 1.0], 'seed': [0, 1], 'hidden': [(32, 16), (8,)]}
    """
    found: Values = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name not in NAMES:
            known = ", ".join(NAMES)
            expected = f"SETTING=VALUES with a setting of {known}"
            raise InputError(expected, repr(word), f"write it as {name or 'seed'}={_FORMS}")
        if name in found:
            raise InputError(f"{name} once", "twice", "put commas between its values")
        found[name] = read_values(name, text)
    found.setdefault("seed", [0])
    return found


def check_runs(values: Values) -> None:
    """Raise where there are more combinations than anybody waits for.

    Args:
        values: of every setting.
    """
    count = np.prod([len(given) for given in values.values()], dtype=float)
    if count > _MOST:
        raise InputError(f"{_MOST:,} runs at most", f"{count:,.0f}", "give fewer values")


def read_values(name: str, text: str) -> list[Unchecked]:
    """Return the values of a setting.

    Args:
        name: of the setting.
        text: as it was written.
    Raises:    InputError for what is no such text.

    >>> read_values("momentum", "0:0.9:lin4"), read_values("optimizer", "sgd,adam")
    ([0.0, 0.3, 0.6, 0.9], ['sgd', 'adam'])
    """
    if name in _WIDTHS:
        forms = "widths such as 64,32, and / between those of several networks"
        return [_read(_widths, one, name, forms) for one in text.split("/")]
    if name == "data_folder":
        return [_read(lambda one: Path(_name(one)), text, name, "a folder")]
    if name in _SWITCHES:
        found: list[Unchecked] = [_read(_switch, one, name, "yes or no") for one in text.split(",")]
    elif name in _NUMBERS and text.count(":") == 2:
        found = _spread(name, text)
    elif name in _WHOLE and text.count(":") == 1:
        found = list(_read(_span, text, name, "a range such as 0:8, of 0 to 7"))
    elif name in (*_NUMBERS, *_WHOLE):
        convert: Callable[[str], Unchecked] = float if name in _NUMBERS else _integer
        forms = "numbers such as " + ("0.1,0.2, 0.001:1:log4 or 0:1:lin5" if name in _NUMBERS else
                                      "1,10, or a range such as 0:8, of 0 to 7")  # fmt: skip
        found = [_read(convert, one, name, forms) for one in text.split(",")]
    else:
        # The name of a file may hold a comma.
        parts = [text] if name == "data" else text.split(",")
        found = [_read(_name, one.strip(), name, "names, with commas between them")
                 for one in parts]  # fmt: skip
    if name in _SINGLE and len(found) > 1:
        raise InputError(f"one value of {name}", repr(text), "start a sweep for each")
    return found


def _read(convert: Callable[[str], Unchecked], text: str, name: str, forms: str) -> Unchecked:
    try:
        return convert(text)
    except (ValueError, KeyError):
        raise InputError(f"{forms} for {name}", repr(text), "write it so") from None


def _span(text: str) -> range:
    low, high = map(_whole, text.split(":"))
    if not low < high <= low + _MOST:
        raise ValueError
    return range(low, high)


def _spread(name: str, text: str) -> list[Unchecked]:
    """Return numbers spread between two, by their ratios or evenly."""

    def read(text: str) -> list[float]:
        first, last, rest = text.split(":")
        low, high, kind, number = float(first), float(last), rest[:3], _whole(rest[3:])
        fine = np.isfinite([low, high]).all() and low < high and 2 <= number <= _MOST
        if not fine or kind not in ("log", "lin") or (kind == "log" and low <= 0):
            raise ValueError
        spread = np.geomspace if kind == "log" else np.linspace
        # Rounded, so that 0.1 is the 0.1 that one would write.
        return [float(f"{one:.12g}") for one in spread(low, high, number)]

    forms = "two numbers that grow and how many, such as 0.001:1:log4 (from above 0) or 0:1:lin5,"
    found: list[Unchecked] = _read(read, text, name, forms)
    return found
