"""Texts as integers: an alphabet, the text in it, and windows to predict what comes next."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from fnn._core import check
from fnn._core.atomic_write import as_path
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import Array


class Text(NamedTuple):
    """Text as integers: the positions of its characters in an alphabet.

    Args:
        alphabet: the characters in order, each once.
        ids: (n,) int32, the positions.

    >>> text = Text.of("banana")
    >>> text.alphabet, text.ids, text.decode([2, 1, 0])
    ('abn', array([1, 0, 2, 0, 2, 0], dtype=int32), 'nba')
    """

    alphabet: str
    ids: np.ndarray

    @classmethod
    def of(cls, text: str) -> Text:
        """Make a text of a string, the alphabet being the characters in it.

        Args:
            text: one character or more.
        Raises:    InputError for anything else.
        """
        if not isinstance(text, str) or not text:
            raise InputError("a string of characters", describe(text), "pass the text itself")
        alphabet = "".join(sorted(set(text)))
        return cls(alphabet, cls(alphabet, np.zeros(0, np.int32)).encode(text))

    def encode(self, text: str) -> np.ndarray:
        """Return the ids (n,) of a string.

        Args:
            text: of characters of the alphabet.
        Raises:    InputError for a character that is not in it, and for what is no string.
        """
        if not isinstance(text, str):
            raise InputError("a string of characters", describe(text), "pass the text itself")
        positions = {character: i for i, character in enumerate(self.alphabet)}
        unknown = sorted(set(text) - set(positions))
        if unknown:
            raise InputError(
                f"characters of the alphabet {self.alphabet!r}",
                repr("".join(unknown)),
                "leave them out, or make the Text of a text that has them",
            )
        return np.array([positions[character] for character in text], np.int32)

    def decode(self, ids: np.ndarray | Array | list[int]) -> str:
        """Return the string of some ids.

        Args:
            ids: (n,) integers below the length of the alphabet.
        Raises:    InputError for others: -1 is not the last character.
        """
        known = np.asarray(ids)
        if known.ndim != 1 or (known.size and not np.issubdtype(known.dtype, np.integer)):
            raise InputError("ids (n,) of integers", describe(ids), "decode one row at a time")
        check.values(
            known,
            lambda i: (i < 0) | (i >= len(self.alphabet)),
            f"ids in 0..{len(self.alphabet) - 1}",
            "pass what encode gave, or a model of this alphabet drew",
            "ids",
        )
        return "".join(self.alphabet[i] for i in known.tolist())

    def windows(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the text cut into windows (n, length), and for each the characters that follow.

        The second array is the first, one character on: what a model of text is to predict. What is
        left at the end is dropped.

        Args:
            length: from 1 to the length of the text, less one.
        Raises:    InputError for another length.

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
    English with examples in Python.

    Args:
        file: the file, with or without a byte order mark, which is no part of the text.
        characters: how many to take from the start, None for all.
    Raises:    InputError for a file that cannot be read, or is empty.

    >>> reference = text(characters=10_000)
    >>> len(reference.ids), 50 < len(reference.alphabet) < 100
    (10000, True)
    """
    if characters is not None:
        check.count(characters, "characters", remedy="pass None for all")
    if file is None:
        from pydoc_data.topics import topics

        content = "\n\n".join(topics[name] for name in sorted(topics))
    else:
        try:
            content = as_path(file).read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                "a text file in UTF-8", f"{file} ({error})", "name another file"
            ) from error
    return Text.of(content[:characters])
