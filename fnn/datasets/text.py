"""Texts as numbers: an alphabet, the text in it, and windows to predict the next character from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from fnn._core import check
from fnn._core.errors import InputError, describe, entry


class Text(NamedTuple):
    """A text by the places of its characters in an alphabet.

    `ids` (n,) int32 index `alphabet`, a string of the characters in order.

    >>> text = Text.of("banana")
    >>> text.alphabet, text.ids, text.decode([2, 1, 0])
    ('abn', array([1, 0, 2, 0, 2, 0], dtype=int32), 'nba')
    """

    alphabet: str
    ids: np.ndarray

    @classmethod
    def of(cls, text: str) -> Text:
        """Make a text of a string, the alphabet being the characters in it."""
        if not isinstance(text, str) or not text:
            raise InputError("a string of characters", describe(text), "pass the text itself")
        alphabet = "".join(sorted(set(text)))
        return cls(alphabet, cls(alphabet, np.zeros(0, np.int32)).encode(text))

    def encode(self, text: str) -> np.ndarray:
        """Return the ids (n,) of a string; raises `fnn.InputError` for a character not in it."""
        places = {character: i for i, character in enumerate(self.alphabet)}
        unknown = sorted(set(text) - set(places))
        if unknown:
            raise InputError(
                f"characters of the alphabet {self.alphabet!r}",
                repr("".join(unknown)),
                "leave them out, or make the Text of a text that has them",
            )
        return np.array([places[character] for character in text], np.int32)

    def decode(self, ids: np.ndarray | list[int]) -> str:
        """Return the string of some ids (n,)."""
        return "".join(self.alphabet[i] for i in np.asarray(ids).tolist())

    def windows(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the text cut into windows (n, length), and for each the characters that follow.

        The second array is the first, one character on: what a model of text is to predict.

        >>> x, target = Text.of("banana").windows(2)
        >>> x.tolist(), target.tolist()
        ([[1, 0], [2, 0]], [[0, 2], [0, 2]])
        """
        if not check.is_count(length, 1) or length >= len(self.ids):
            raise InputError(
                f"a length from 1 to {len(self.ids) - 1}",
                describe(length),
                "cut windows shorter than the text",
            )
        n = (len(self.ids) - 1) // length
        ends = n * length
        return self.ids[:ends].reshape(n, length), self.ids[1 : ends + 1].reshape(n, length)


@entry
def text(file: Path | str | None = None, characters: int | None = None) -> Text:
    """Read a text file in UTF-8, or without one the reference of the Python language.

    The reference comes with Python, in its module ``pydoc_data.topics``: some 450,000 characters of
    English with examples in Python. `characters` takes so many from the start.

    Raises `fnn.InputError` for a file that cannot be read, or is empty.

    >>> reference = text(characters=10_000)
    >>> len(reference.ids), 50 < len(reference.alphabet) < 100
    (10000, True)
    """
    if file is None:
        from pydoc_data.topics import topics

        content = "\n\n".join(topics[name] for name in sorted(topics))
    else:
        try:
            content = Path(file).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                "a text file in UTF-8", f"{file} ({error})", "name another file"
            ) from error
    if characters is not None and not check.is_count(characters, 1):
        raise InputError("1 or more characters", describe(characters), "pass None for all")
    return Text.of(content[:characters])
