"""The order of the examples: a function of the key, the epoch and how many there are.

Up to some millions it is a permutation drawn at once. Beyond, it is a bijection that is evaluated
where it is asked for, so that no order stands in memory: a Feistel network over the next power of
two, walked until it comes back below the number of examples (Black & Rogaway 2002).
"""

from __future__ import annotations

import numpy as np

_DRAWN = 2**22
_ROUNDS = 8
# Odd multipliers that mix well, of the finalizer of splitmix64.
_MIX = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class EpochOrder:
    """Order of the examples in an epoch.

    Args:
        seed: the words of the key.
        epoch: from 0.
        examples: how many there are.

    >>> order = EpochOrder([0, 7], 3, 5)
    >>> order.rows(0, 5), order.rows(2, 4)
    (array([3, 4, 2, 0, 1], dtype=int32), array([2, 0], dtype=int32))
    """

    def __init__(self, seed: list[int], epoch: int, examples: int):
        self.examples = examples
        sequence = np.random.SeedSequence([*seed, epoch])
        self._drawn: np.ndarray | None = None
        if examples <= _DRAWN:
            # By numpy, on the host: sorting on the device costs more than a small network's steps.
            random = np.random.Generator(np.random.Philox(sequence))
            self._drawn = random.permutation(examples).astype(np.int32)
        self._words = sequence.generate_state(_ROUNDS, np.uint64)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return the examples in the places start..stop-1 of the order.

        Args:
            start: the first place.
            stop: the place behind the last.
        """
        if self._drawn is not None:
            return self._drawn[start:stop]
        places = np.arange(start, stop, dtype=np.uint64)
        rows = self._permuted(places)
        outside = np.flatnonzero(rows >= self.examples)
        while len(outside):
            rows[outside] = self._permuted(rows[outside])
            outside = outside[rows[outside] >= self.examples]
        return rows.astype(np.int32 if self.examples < 2**31 else np.int64)

    def _permuted(self, places: np.ndarray) -> np.ndarray:
        """Return the images of some integers under a bijection of a power of two."""
        bits = (self.examples - 1).bit_length()
        shift = np.uint64(bits // 2)
        masks = [np.uint64(2 ** (bits - bits // 2) - 1), np.uint64(2 ** (bits // 2) - 1)]
        halves = [places >> shift, places & masks[1]]
        for i, word in enumerate(self._words):
            one, other = i % 2, 1 - i % 2
            halves[one] = halves[one] ^ (_mixed(halves[other] ^ word) & masks[one])
        return (halves[0] << shift) | halves[1]


def _mixed(words: np.ndarray) -> np.ndarray:
    """Return words in which every bit depends on every bit of the argument."""
    for multiplier, shift in zip(_MIX, (30, 27), strict=True):
        words = (words ^ (words >> np.uint64(shift))) * multiplier
    mixed: np.ndarray = words ^ (words >> np.uint64(31))
    return mixed
