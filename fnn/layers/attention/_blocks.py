"""How attention is cut into blocks of queries and of keys, and what is dropped from each pair.

Shapes are those of `fnn.layers.attention._blockwise`: queries (B, M, G, T, D), keys (B, M, S, D).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.types import Array, Scalar
from fnn.layers.dropout import drawn, scaled

# Steps of a block, as measured by benchmarks/attention.py: short ones stay in a cache, long ones
# start fewer kernels.
_BLOCK, _BLOCK_ELSEWHERE = 128, 512
# Of queries and of keys on CPUs, where these fill up all blocks: XLA shares a product among the
# cores from so many on, however many heads there are.
_LONG = (512, 256)


class Blocks(NamedTuple):
    """Sizes of blocks, and how they are cut: queries along axis 3, keys along axis 2."""

    rows: int
    columns: int

    @classmethod
    def of(cls, q: Any, k: Any, block: int | None) -> Blocks:
        """Return the cut of queries and keys into blocks of so many steps at most."""
        steps = q.shape[3], k.shape[2]
        if block is None:
            on_cpu = jax.default_backend() == "cpu"
            if on_cpu and all(n % long == 0 for n, long in zip(steps, _LONG, strict=True)):
                return cls(*_LONG)
            block = _BLOCK if on_cpu else _BLOCK_ELSEWHERE
        # Two blocks at once take less time than four pairs, and still little memory.
        return cls(*steps if max(steps) <= 2 * block else (_even(n, block) for n in steps))

    def counts(self, q: Any, k: Any) -> tuple[int, int]:
        """Return how many blocks of queries and of keys there are."""
        return -(-q.shape[3] // self.rows), -(-k.shape[2] // self.columns)

    def pairs(self, q: Any, k: Any, causal: bool) -> tuple[np.ndarray, ...]:
        """Return the numbers of blocks of queries and of keys that meet, and of the pairs."""
        rows, columns = self.counts(q, k)
        meet = np.ones((rows, columns), bool)
        if causal:
            last = (np.arange(rows) + 1) * self.rows - 1
            meet = last[:, None] >= np.arange(columns) * self.columns
        i, j = np.nonzero(meet)
        return tuple(a.astype(np.int32) for a in (i, j, i * columns + j))

    def pad(self, a: Any, filling: float = 0) -> Any:
        """Fill up the last block, of queries (B, M, G, T, D) or of keys (B, M, S, D)."""
        lack = -a.shape[-2] % (self.rows if a.ndim == 5 else self.columns)
        widths = [(0, lack if axis == a.ndim - 2 else 0) for axis in range(a.ndim)]
        return jnp.pad(a, widths, constant_values=filling)

    def present(self, present: Any, k: Any) -> Any:
        """Mark what fills up the last block of keys as not present."""
        steps = k.shape[2]
        lack = -steps % self.columns
        if present is None and lack:
            present = jnp.ones((k.shape[0], steps), bool)
        return jnp.pad(present, ((0, 0), (0, lack))) if lack else present

    def of_present(self, present: Any, j: Any) -> Any:
        """Return which keys of block j are present."""
        return _cut(present, j, self.columns, 1)

    def queries(self, a: Any, i: Any) -> Any:
        """Return block i of queries."""
        return _cut(a, i, self.rows, 3)

    def keys(self, a: Any, j: Any) -> Any:
        """Return block j of keys."""
        return _cut(a, j, self.columns, 2)

    def with_queries(self, a: Any, part: Any, i: Any) -> Any:
        """Write block i of queries."""
        return jax.lax.dynamic_update_slice_in_dim(a, part, i * self.rows, 3)

    def with_keys(self, a: Any, part: Any, j: Any) -> Any:
        """Write block j of keys."""
        return jax.lax.dynamic_update_slice_in_dim(a, part, j * self.columns, 2)


class Dropping(NamedTuple):
    """What drops probabilities: every pair of blocks draws its own, by its number."""

    key: Array
    rate: Scalar

    def of(self, shape: tuple[int, ...], pair: Any) -> Callable[[Any], Any]:
        """Return what drops from the elements of one pair."""
        return partial(scaled, self._kept(shape, pair), self.rate)

    def of_all(self, q: Any, k: Any, block: int | None) -> Callable[[Any], Any]:
        """Return what drops from the elements of all pairs put together, (B, M, G, T, S)."""
        blocks = Blocks.of(q, k, block)
        rows, columns = blocks.counts(q, k)
        shape = (*q.shape[:3], blocks.rows, blocks.columns)
        kept = jax.lax.map(lambda pair: self._kept(shape, pair), positions(rows * columns))
        kept = kept.reshape(rows, columns, *shape).transpose(2, 3, 4, 0, 5, 1, 6)
        kept = kept.reshape(*q.shape[:3], rows * blocks.rows, columns * blocks.columns)
        return partial(scaled, kept[..., : q.shape[3], : k.shape[2]], self.rate)

    def _kept(self, shape: tuple[int, ...], pair: Any) -> Array:
        return drawn(jax.random.fold_in(self.key, pair), self.rate, shape)


def positions(steps: int) -> Any:
    """Return 0, 1, 2 and so on."""
    return jnp.arange(steps, dtype=jnp.int32)


def _cut(a: Any, i: Any, size: int, axis: int) -> Any:
    return jax.lax.dynamic_slice_in_dim(a, i * size, size, axis)


def _even(steps: int, block: int) -> int:
    """Return the size of blocks that are as few as may be, and of one size but for the last.

    >>> _even(129, 128), _even(1024, 128), _even(5, 2)
    (72, 128, 2)
    """
    size = -(-steps // -(-steps // block))
    # A multiple of what a vector holds, if that is no more.
    return min(block, -(-size // 8) * 8)
