"""Texts as integers: characters or byte pairs, and windows to predict what comes next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fnn._core import check
from fnn._core.atomic_write import as_path
from fnn._core.errors import InputError, describe, entry
from fnn._core.extras import require
from fnn._core.types import Array, Unchecked

if TYPE_CHECKING:
    from tokenizers import Tokenizer
else:
    # The package is an extra; signatures are to be read without it.
    Tokenizer = object

# Every text is made of bytes, so that nothing is unknown.
_BYTES = 256


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
        _check_string(text, least=1)
        alphabet = "".join(sorted(set(text)))
        return cls(alphabet, cls(alphabet, np.zeros(0, np.int32)).encode(text))

    @property
    def vocabulary(self) -> int:
        """How many ids there are."""
        return len(self.alphabet)

    def encode(self, text: str) -> np.ndarray:
        """Return the ids (n,) of a string.

        Args:
            text: of characters of the alphabet.
        Raises:    InputError for a character that is not in it, and for what is no string.
        """
        _check_string(text)
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
        return "".join(self.alphabet[i] for i in _checked_ids(ids, self.vocabulary))

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
        return _windows(self.ids, length)


class BytePairText(NamedTuple):
    """Text as integers: the tokens of a byte-pair tokenizer, of the package `tokenizers`.

    Args:
        tokenizer: what cuts a text into tokens, bytes that often stand together.
        ids: (n,) int32, the tokens of a text by their number.

    >>> text = BytePairText.of("low lower lowest", 260)
    >>> text.vocabulary, text.decode(text.ids), len(text.ids) < 16
    (260, 'low lower lowest', True)
    """

    tokenizer: Tokenizer
    ids: np.ndarray

    @classmethod
    def of(cls, text: str, vocabulary: int = 1000) -> BytePairText:
        """Make a text of a string, the tokenizer being learned from it.

        Args:
            text: one character or more.
            vocabulary: how many tokens there are to be, 256 of them being the bytes; fewer where
                the text has fewer pairs that occur more than once.
        Raises:    InputError for anything else; ImportError without the package `tokenizers`.
        Source:    Sennrich, Haddow and Birch 2016, arXiv:1508.07909, on bytes as in Radford et al.
            2019, "Language models are unsupervised multitask learners", section 2.2.
        """
        _check_string(text, least=1)
        check.count(vocabulary, "vocabulary", least=_BYTES)
        package = require("tokenizers", "datasets.byte_pairs", "text")
        tokenizer = package.Tokenizer(package.models.BPE())
        tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = package.decoders.ByteLevel()
        trainer = package.trainers.BpeTrainer(
            vocab_size=int(vocabulary),
            initial_alphabet=package.pre_tokenizers.ByteLevel.alphabet(),
            min_frequency=2,
            show_progress=False,
        )
        tokenizer.train_from_iterator([text], trainer)
        return cls(tokenizer, _encoded(tokenizer, text))

    @property
    def vocabulary(self) -> int:
        """How many ids there are."""
        size: int = self.tokenizer.get_vocab_size()
        return size

    def encode(self, text: str) -> np.ndarray:
        """Return the ids (n,) of a string.

        Args:
            text: of any characters.
        Raises:    InputError for what is no string.
        """
        _check_string(text)
        return _encoded(self.tokenizer, text)

    def decode(self, ids: np.ndarray | Array | list[int]) -> str:
        """Return the string of some ids; bytes that are no character become U+FFFD.

        Args:
            ids: (n,) integers below the size of the vocabulary.
        Raises:    InputError for others: -1 is not the last token.
        """
        known = _checked_ids(ids, self.vocabulary)
        decoded: str = self.tokenizer.decode(known, skip_special_tokens=False)
        return decoded

    def windows(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the text cut into windows (n, length), and for each the tokens that follow.

        Args:
            length: from 1 to the length of the text in tokens, less one.
        Raises:    InputError for another length.
        """
        return _windows(self.ids, length)


def _check_string(text: Unchecked, least: int = 0) -> None:
    if not isinstance(text, str) or len(text) < least:
        raise InputError("a string of characters", describe(text), "pass the text itself")


def _encoded(tokenizer: Tokenizer, text: str) -> np.ndarray:
    return np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int32)


def _checked_ids(ids: Unchecked, vocabulary: int) -> list[int]:
    """Return ids as a list, or raise unless they are (n,) integers below the vocabulary's size."""
    known = np.asarray(ids)
    if known.ndim != 1 or (known.size and not np.issubdtype(known.dtype, np.integer)):
        raise InputError("ids (n,) of integers", describe(ids), "decode one row at a time")
    check.values(
        known,
        lambda i: (i < 0) | (i >= vocabulary),
        f"ids in 0..{vocabulary - 1}",
        "pass what encode gave, or a model of this vocabulary drew",
        "ids",
    )
    return known.astype(np.int64).tolist()


def _windows(ids: np.ndarray, length: Unchecked) -> tuple[np.ndarray, np.ndarray]:
    """Return ids cut into windows, and the same one on."""
    if not check.is_count(length, 1) or length >= len(ids):
        raise InputError(
            f"a length from 1 to {len(ids) - 1}",
            describe(length),
            "cut windows shorter than the text",
        )
    n = (len(ids) - 1) // length
    ends = n * length
    return ids[:ends].reshape(n, length), ids[1 : ends + 1].reshape(n, length)


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
    return Text.of(_read(file, characters))


@entry
def byte_pairs(
    file: Path | str | None = None,
    characters: int | None = None,
    *,
    vocabulary: int = 1000,
    tokenizer: Tokenizer | Path | str | None = None,
) -> BytePairText:
    """Read a text file in UTF-8 as byte pairs, or without one the reference of the Python language.

    Args:
        file: the file, as for `text`.
        characters: how many to take from the start, None for all.
        vocabulary: how many tokens to learn from the text, where no tokenizer is given.
        tokenizer: one of the package `tokenizers`, or a file that it wrote, ``tokenizer.json``.
    Raises:    InputError for a text or a tokenizer that cannot be read; ImportError without the
        package `tokenizers`.

    >>> reference = byte_pairs(characters=10_000, vocabulary=400)
    >>> reference.vocabulary, len(reference.ids) < 7_000
    (400, True)
    """
    content = _read(file, characters)
    _check_string(content, least=1)
    if tokenizer is None:
        return BytePairText.of(content, vocabulary)
    kind = require("tokenizers", "datasets.byte_pairs", "text").Tokenizer
    if isinstance(tokenizer, Path | str):
        path = as_path(tokenizer)
        try:
            tokenizer = kind.from_file(str(path))
        except Exception as error:  # Of the package's own: it has no other.
            remedy = "name a tokenizer.json"
            raise InputError("a file of a tokenizer", f"{path} ({error})", remedy) from error
    if not isinstance(tokenizer, kind):
        remedy = "pass a tokenizers.Tokenizer, or the file of one"
        raise InputError("a tokenizer", describe(tokenizer), remedy)
    return BytePairText(tokenizer, _encoded(tokenizer, content))


def _read(file: Path | str | None, characters: int | None) -> str:
    """Return the text of a file, or without one the reference of the Python language."""
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
    return content[:characters]
