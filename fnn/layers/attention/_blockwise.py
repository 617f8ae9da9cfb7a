"""Attention itself, by hand: what lies between query, key, value and output, block by block.

With the scores ``z = q k^T`` and the log-sum-exp ``l[t] = log(sum_s exp(z[t, s]))``::

    forward   p[t, s] = exp(z[t, s] - l[t]),   o = p v
    backward  dp = do v^T,   dz = p (dp - sum_d do o),   dq = dz k,   dk = dz^T q,   dv = p^T do

since ``sum_s p[t, s] dp[t, s] = sum_d do[t, d] o[t, d]``; where one block holds a row the left side
is taken, as p was rounded. Forward goes through the pairs of a block of queries and a block of
keys, and rescales what it has of a row when a block brings a larger score; backward works p out
again from z and the two numbers that are saved of a row (`Rows`). No (T, S) array is ever whole
where that is more than a block, and pairs of which causality leaves nothing are skipped. Dropout
acts on the p of ``p v`` and of dv, and alike on dp; backward draws it again.

Shapes: q, o (B, M, G, T, D), G heads of queries to each of the M heads of k, v (B, M, S, D); q is
scaled already. Source: Dao et al. 2022, arXiv:2205.14135, algorithms 1 and 4.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.errors import InputError
from fnn._core.mesh import parts_of, scan
from fnn._core.precision import upcast, wide_dtype, wide_einsum
from fnn._core.sums import sum_of_product
from fnn._core.types import Array
from fnn.layers.attention import _kernel
from fnn.layers.attention._blocks import Blocks, Dropping, positions

# Bytes of scores that are gone through at a time: every pass over them finds them in a cache.
_BYTES = 2 * 2**20
_TO_SCORES, _TO_QUERIES = "bmgtd,bmsd->bmgts", "bmgts,bmsd->bmgtd"


class Scoring(NamedTuple):
    """What a score depends on besides query and key.

    `bias` maps the positions of queries (T, 1) and of keys (1, S), in the dtype of scores, to
    an array (T, S) or (N, T, S).
    """

    causal: bool
    bias: Callable[[Any, Any], Any] | None


class Again(NamedTuple):
    """What is saved where a kernel works p out again: nothing."""


class Rows(NamedTuple):
    """What is saved of every row of scores (B, M, G, T): the largest, m, and sum_s exp(z - m).

    Not their log-sum-exp, in which large scores leave no digits for the sum.
    """

    top: Array
    total: Array


def plain(
    q: Any,
    k: Any,
    v: Any,
    present: Any,
    scoring: Scoring,
    block: int | None,
    dropping: Dropping | None = None,
) -> Any:
    """Return o by the plain formula; p is 0 in a row that sees nothing."""
    z, seen = _scores(q, k, present, scoring, positions(q.shape[3]), positions(k.shape[2]))
    p = _masked(seen, jax.nn.softmax(z, -1)).astype(v.dtype)
    weights = p if dropping is None else dropping.of_all(q, k, block)(p)
    return wide_einsum(_TO_QUERIES, weights, v).astype(q.dtype)


def attend(
    q: Any,
    k: Any,
    v: Any,
    present: Any,
    scoring: Scoring,
    block: int | None,
    dropping: Dropping | None = None,
) -> tuple[Any, Rows | Again]:
    """Return o, and what is saved; `present` are (B, S) booleans, None for all."""
    bare = present is None and scoring.bias is None and dropping is None
    if bare and _kernel.takes(q, k, scoring.causal):

        def blockwise(q: Any, k: Any, v: Any) -> Any:
            return _attend(q, k, v, None, scoring, block, None)[0]

        return _kernel.attend(q, k, v, scoring.causal, blockwise), Again()
    by_part = partial(_attend, scoring=scoring, block=block, dropping=dropping)
    return _in_parts(by_part, _parts(q, k, block, dropping), q, k, v, present)


def _attend(
    q: Any,
    k: Any,
    v: Any,
    present: Any,
    scoring: Scoring,
    block: int | None,
    dropping: Dropping | None,
) -> tuple[Any, Rows]:
    """Return what `attend` does, by the blocks."""
    blocks = Blocks.of(q, k, block)
    steps, wide = q.shape[3], wide_dtype(q.dtype)
    pairs = blocks.pairs(q, k, scoring.causal)
    present = blocks.present(present, k)
    q, k, v = blocks.pad(q), blocks.pad(k), blocks.pad(v)

    def step(rows: tuple[Any, Any, Any], pair: Any) -> tuple[Any, Any, Any]:
        i, j, number = pair
        z, seen = _block_scores(blocks, q, k, present, scoring, i, j)
        sums, total, top = (blocks.queries(a, i) for a in rows)
        new_top = jnp.maximum(top, z.max(-1))
        e, shrink = _masked(seen, jnp.exp(z - new_top[..., None])), jnp.exp(top - new_top)
        total = total * shrink + e.sum(-1)
        sums = sums * shrink[..., None]
        if dropping is not None:
            e = dropping.of(e.shape, number)(e)
        sums = sums + wide_einsum(_TO_QUERIES, e.astype(v.dtype), blocks.keys(v, j))
        return (
            blocks.with_queries(rows[0], sums, i),
            blocks.with_queries(rows[1], total, i),
            blocks.with_queries(rows[2], new_top, i),
        )

    zeros = jnp.zeros_like(q, wide)
    start = zeros, zeros[..., 0], jnp.full_like(zeros[..., 0], _lowest(wide))
    sums, total, top = _through(step, start, pairs)
    # A row that sees nothing adds up to nothing.
    total = jnp.where(total > 0, total, 1)[..., :steps]
    o = sums[..., :steps, :] / total[..., None]
    return o.astype(q.dtype), Rows(top[..., :steps], total)


def attend_cached(q: Any, k: Any, v: Any, present: Any, scoring: Scoring, position: Any) -> Any:
    """Return o (B, M, G, 1, D) of one query at a position, () or (B,), over all keys it may see.

    Keys and values (B, M, S, D) stand at their positions; `present` are (B, S), None for all. What
    is behind the position of a causal query is not seen.
    """
    if jnp.ndim(position):
        one = partial(_attend_row, scoring)
        return jax.vmap(one)(q, k, v, present, position)
    z, seen = _scores(q, k, present, scoring, position[None], positions(k.shape[2]))
    p = _masked(seen, jax.nn.softmax(z, -1)).astype(v.dtype)
    return wide_einsum(_TO_QUERIES, p, v).astype(q.dtype)


def _attend_row(scoring: Scoring, q: Any, k: Any, v: Any, present: Any, position: Any) -> Any:
    """Return what `attend_cached` does for one row of the batch."""
    q, k, v, present = jax.tree.map(lambda a: a[None], (q, k, v, present))
    return attend_cached(q, k, v, present, scoring, position)[0]


def attend_backward(
    q: Any,
    k: Any,
    v: Any,
    present: Any,
    o: Any,
    saved: Rows | Again,
    do: Any,
    scoring: Scoring,
    block: int | None,
    dropping: Dropping | None = None,
) -> tuple[Any, Any, Any]:
    """Return dq, dk and dv."""
    if isinstance(saved, Again):

        def blockwise(q: Any, k: Any, v: Any, do: Any) -> Any:
            o, saved = _attend(q, k, v, None, scoring, block, None)
            return attend_backward(q, k, v, None, o, saved, do, scoring, block)

        found: tuple[Any, Any, Any] = _kernel.attend_backward(
            q, k, v, do, scoring.causal, blockwise
        )
        return found
    by_part = partial(_attend_backward, scoring=scoring, block=block, dropping=dropping)
    arrays = q, k, v, present, o, saved, do
    return _in_parts(by_part, _parts(q, k, block, dropping), *arrays)


def _attend_backward(
    q: Any,
    k: Any,
    v: Any,
    present: Any,
    o: Any,
    saved: Rows,
    do: Any,
    scoring: Scoring,
    block: int | None,
    dropping: Dropping | None,
) -> tuple[Any, Any, Any]:
    """Return what `attend_backward` does, by the blocks."""
    products = sum_of_product(upcast(do), upcast(o), -1)
    blocks = Blocks.of(q, k, block)
    pairs = blocks.pairs(q, k, scoring.causal)
    present = blocks.present(present, k)
    wide = tuple(blocks.pad(a) for a in (q, k, v))
    do, products = blocks.pad(do), blocks.pad(products)
    # One pair holds whole rows, whose sums are had from themselves.
    whole = len(pairs[0]) == 1
    # Rows that fill up the last block have no probabilities.
    tops, totals = blocks.pad(saved.top[..., None], jnp.inf), blocks.pad(saved.total[..., None], 1)

    def step(gradients: tuple[Any, Any, Any], pair: Any) -> tuple[Any, Any, Any]:
        (i, j, number), (q, k, v), (dq, dk, dv) = pair, wide, gradients
        z, seen = _block_scores(blocks, q, k, present, scoring, i, j)
        more = _backward(
            blocks.queries(q, i),
            blocks.keys(k, j),
            blocks.keys(v, j),
            _masked(seen, jnp.exp(z - blocks.queries(tops, i)) / blocks.queries(totals, i)),
            blocks.queries(do, i),
            None if whole else blocks.queries(products, i),
            _unchanged if dropping is None else dropping.of(z.shape, number),
        )
        return (
            blocks.with_queries(dq, blocks.queries(dq, i) + more[0], i),
            blocks.with_keys(dk, blocks.keys(dk, j) + more[1], j),
            blocks.with_keys(dv, blocks.keys(dv, j) + more[2], j),
        )

    dq, dk, dv = (jnp.zeros(a.shape, tops.dtype) for a in wide)
    found = _through(step, (dq, dk, dv), pairs)
    dq, dk, dv = (
        d[..., : a.shape[-2], :].astype(a.dtype) for d, a in zip(found, (q, k, v), strict=True)
    )
    return dq, dk, dv


def _parts(q: Any, k: Any, block: int | None, dropping: Dropping | None) -> int:
    """Return in how many equal parts of the batch scores stay in the caches of a CPU."""
    blocks, batch = Blocks.of(q, k, block), q.shape[0]
    example = q.shape[1] * q.shape[2] * blocks.rows * blocks.columns * wide_dtype(q.dtype).itemsize
    # What is drawn depends on the batch. On a mesh a batch lies in parts already. Symbolic sizes,
    # as in `jax.export`, tell no number of parts.
    known = isinstance(batch, int) and isinstance(example, int)
    if dropping is not None or jax.default_backend() != "cpu" or not known:
        return 1
    if jax.sharding.get_abstract_mesh().explicit_axes or parts_of(batch) > 1:
        return 1
    most = max(1, min(batch, _BYTES // example))
    few = next((n for n in range(most, most // 2, -1) if batch % n == 0), batch)
    return max(1, batch // few)


def _in_parts(function: Callable[..., Any], parts: int, *arrays: Any) -> Any:
    """Return what a function of arrays (B, ...) does, going through parts of the batch in turn."""
    if parts == 1:
        return function(*arrays)
    split = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), arrays)
    found = jax.lax.map(lambda part: function(*part), split)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), found)


def _through(step: Callable[[Any, Any], Any], carry: Any, pairs: tuple[np.ndarray, ...]) -> Any:
    """Return what a carry is after all pairs of blocks."""
    if len(pairs[0]) == 1:
        return step(carry, [a[0] for a in pairs])
    return scan(lambda carry, pair: (step(carry, pair), None), carry, pairs)[0]


def _backward(
    q: Any, k: Any, v: Any, p: Any, do: Any, products: Any, dropped: Callable[[Any], Any]
) -> tuple[Any, Any, Any]:
    dp = dropped(wide_einsum(_TO_SCORES, do, v))
    weights = p.astype(dp.dtype)
    dz = _centered(weights, dp) if products is None else weights * (dp - products)
    dz = dz.astype(q.dtype)
    dv = _to_keys(dropped(p).astype(do.dtype), do)
    return wide_einsum(_TO_QUERIES, dz, k), _to_keys(dz, q), dv


def _centered(p: Any, dp: Any) -> Any:
    """Return dz (..., T, S) of whole rows: it adds up to 0 in each, however p was rounded."""
    # With an axis of one XLA for CPUs takes 20 times as long for a sum of products.
    ones = [axis for axis, n in enumerate(p.shape[:-1]) if n == 1]
    few, those = p.squeeze(ones), dp.squeeze(ones)
    dz = few * (those - (few * those).sum(-1, keepdims=True))
    return jnp.expand_dims(dz, ones)


def _to_keys(weights: Any, x: Any) -> Any:
    """Sum x (B, M, G, T, D) over queries by weights (B, M, G, T, S): (B, M, S, D)."""

    def turned(weights: Any, x: Any) -> Any:
        # XLA multiplies by the weights as they lie on all cores; these transposed are copied
        # before, or multiplied on one core. It must not turn this into that.
        held = jax.lax.optimization_barrier(x.transpose(0, 1, 4, 2, 3))
        y = wide_einsum("bmdgt,bmgts->bmds", held, weights)
        return jax.lax.optimization_barrier(y).swapaxes(2, 3)

    default = partial(wide_einsum, "bmgts,bmgtd->bmsd")
    return jax.lax.platform_dependent(weights, x, cpu=turned, default=default)


def _scores(
    q: Any, k: Any, present: Any, scoring: Scoring, query_positions: Any, key_positions: Any
) -> tuple[Any, Any]:
    """Return scores, the lowest in place of those that do not count, and which of them count.

    None if every row has some that do: then the exponentials of the lowest vanish by themselves.
    """
    z = wide_einsum(_TO_SCORES, q, k)
    seen = None if present is None else present[:, None, None, None, :]
    t, s = query_positions[:, None], key_positions[None, :]
    if scoring.causal:
        earlier = (s <= t)[None, None, None]
        seen = earlier if seen is None else seen & earlier
    if scoring.bias is not None:
        # Not integers, which strict promotion would keep from being multiplied by a slope.
        bias = _bias(scoring.bias, t.astype(z.dtype), s.astype(z.dtype), z)
        z = z + bias
        possible = bias > -jnp.inf
        seen = possible if seen is None else seen & possible
    if seen is not None:
        z = jnp.where(seen, z, _lowest(z.dtype))
    return z, None if present is None and scoring.bias is None else seen


def _block_scores(
    blocks: Blocks, q: Any, k: Any, present: Any, scoring: Scoring, i: Any, j: Any
) -> tuple[Any, Any]:
    """Return what `_scores` does for a block of queries and one of keys."""
    own = None if present is None else blocks.of_present(present, j)
    at = i * blocks.rows + positions(blocks.rows), j * blocks.columns + positions(blocks.columns)
    return _scores(blocks.queries(q, i), blocks.keys(k, j), own, scoring, *at)


def _bias(function: Callable[[Any, Any], Any], t: Any, s: Any, z: Any) -> Any:
    """Return what a function of positions does in the shape and dtype of scores, B left out."""
    _, m, g, *steps = z.shape
    expected = f"a score_bias of shape {tuple(steps)} or {(m * g, *steps)}"
    remedy = "map positions of queries (T, 1) and of keys (1, S) to an array (T, S) or (N, T, S)"
    try:
        bias = jnp.asarray(function(t, s), z.dtype)
    except InputError:
        raise
    except Exception as error:
        raise InputError(expected, type(error).__name__, remedy) from error
    try:
        bias = jnp.broadcast_to(bias, (m * g, *steps))
    except ValueError as error:
        raise InputError(expected, str(tuple(bias.shape)), remedy) from error
    return bias.reshape(1, m, g, *steps)


def _unchanged(x: Any) -> Any:
    return x


def _masked(seen: Any, x: Any) -> Any:
    return x if seen is None else jnp.where(seen, x, 0)


def _lowest(dtype: Any) -> Any:
    # No score is lower, not even one with a bias that hides a key by the lowest number. It is
    # finite, so that the difference of two is no NaN.
    return jnp.finfo(dtype).min
