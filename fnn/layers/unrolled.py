"""A cell run over time; back-propagation by hand.

Forward saves x, what the steps carried in, and what the cell saves. Backward, a second scan from
the last step to the first carries dcarry alone; the gradients of the weights are matrix products
outside of it. Both scans go piece by piece: what the projection makes for a piece of steps, and
the slopes that its gradients are made of, are used while they are in the cache, and never stored
for the whole sequence.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fnn.layer import Array, PyTree
from fnn.layers.precision import narrowed, widened
from fnn.layers.recurrence import (
    Cell,
    Settings,
    carry_like,
    factored,
    gradients,
    init_cell,
    joined,
    parted,
    product,
    project,
    pulled,
    wide,
)
from fnn.layers.runs import Run, both_ways, stacked
from fnn.sequence import Sequence

# The rows (k B, ...) of a piece of k steps: enough for a matrix product to be at its best.
_ROWS = 512


class Options(NamedTuple):
    """What runs: how many layers, both ways or one, in chunks of how many steps, how unrolled."""

    layers: int
    bidirectional: bool
    truncate: int | None
    unroll: int


class _Residuals(NamedTuple):
    x: Array
    mask: Array | None
    before: tuple[Array, ...]
    saved: PyTree


def running(cell: Cell, settings: Settings, options: Options) -> Run:
    """Put together what runs: one way or both, once or in a stack."""

    def way(reverse: bool) -> Run:
        return one_way(cell, settings, options.truncate, options.unroll, reverse)

    run = both_ways(way(False), way(True)) if options.bidirectional else way(False)
    return stacked(run, options.layers) if options.layers > 1 else run


def one_way(
    cell: Cell, settings: Settings, truncate: int | None, unroll: int, reverse: bool
) -> Run:
    """Run a cell over time in one direction."""

    def init(key: Array, x: Any) -> PyTree:
        return init_cell(cell, settings, key, x.shape[-1], x.dtype)

    def start(x: Sequence) -> Any:
        if x.carry is not None:
            return tuple(map(widened, parted(cell, x.carry)))
        zeros = jnp.zeros((x.values.shape[0], settings.width), wide(x.values.dtype))
        return (zeros,) * cell.parts

    def steps(mask: Any, length: int) -> tuple[Any, Any]:
        """Return which steps are there and which begin a chunk, (T, B, 1) or None for all, none."""
        return None if mask is None else mask.T[:, :, None], cuts(mask, length)

    def cuts(mask: Any, length: int) -> Any:
        if truncate is None or truncate >= length:
            return None
        there = jnp.ones((length, 1), bool) if mask is None else mask.T
        count = lax.cumsum(there.astype(jnp.int32), 0, reverse=reverse) - 1
        return (there & (count > 0) & (count % truncate == 0))[:, :, None]

    def finished(h: Any, carry: Any, x: Sequence) -> Sequence:
        y = jnp.swapaxes(h, 0, 1)
        if x.lengths is not None:
            y = jnp.where(x.lengths[:, :, None], y, 0)
        parts = [narrowed(part, x.values) for part in carry]
        return Sequence(y, x.lengths, joined(cell, parts))

    def advance(function: Any, params: PyTree) -> Any:
        """Make a step of ``carry, (p, there, cut) -> before, after, saved``."""

        def step(carry: Any, p: Any, there: Any, cut: Any) -> tuple[Any, Any, Any]:
            before = carry
            if cut is not None:
                before = _where(cut, tuple(map(lax.stop_gradient, carry)), carry)
            across = product(before[0], params["recurrent_weight"])
            after, saved = function(p, across, params, before)
            return before, after if there is None else _where(there, after, before), saved

        return step

    def apply(params: PyTree, x: Sequence) -> Sequence:
        step = advance(lambda *arguments: (cell.step(*arguments), None), params)

        def body(carry: Any, over: Any) -> tuple[Any, Any]:
            _, after, _ = step(carry, *over)
            return after, narrowed(after[0], x.values)

        over = project(params, _time_first(x)), *steps(x.lengths, x.values.shape[1])
        carry, h = lax.scan(body, start(x), over, reverse=reverse, unroll=unroll)
        return finished(h, carry, x)

    def forward(params: PyTree, x: Sequence) -> tuple[Sequence, PyTree]:
        step = advance(cell.forward, params)

        def body(carry: Any, over: Any) -> tuple[Any, Any]:
            before, after, saved = step(carry, *over)
            return after, jax.tree.map(lambda a: narrowed(a, x.values), (before, saved))

        def piece(carry: Any, over: Any) -> tuple[Any, Any]:
            x, *rest = over
            over = project(params, x), *rest
            return lax.scan(body, carry, over, reverse=reverse, unroll=unroll)

        batch, length, _ = x.values.shape
        over = _time_first(x), *steps(x.lengths, length)
        carry, (before, saved) = _in_pieces(piece, start(x), over, length, batch, reverse)
        # What came out of a step is what went into the next.
        last = narrowed(carry[0], x.values)[None]
        pieces = (last, before[0][:-1]) if reverse else (before[0][1:], last)
        h = jnp.concatenate(pieces)[:length]
        return finished(h, carry, x), _Residuals(x.values, x.lengths, before, saved)

    def backward(params: PyTree, residuals: PyTree, dy: Sequence) -> tuple[PyTree, Sequence]:
        x, mask, before, saved = residuals
        turned = params["recurrent_weight"].T

        def body(dcarry: Any, over: Any) -> tuple[Any, Any]:
            factors, dh, there, cut = over
            total = dcarry[0] + widened(dh), *dcarry[1:]
            dbefore, slopes = pulled(cell, turned, factors, total)
            if there is not None:
                dbefore = _where(there, dbefore, dcarry)
                slopes = tuple(jnp.where(there, slope, 0) for slope in slopes)
            if cut is not None:
                dbefore = tuple(jnp.where(cut, 0, part) for part in dbefore)
            return dbefore, slopes

        def piece(carry: Any, over: Any) -> tuple[Any, Any]:
            dcarry, total = carry
            x, before, saved, *rest = over
            over = factored(cell, before, saved), *rest
            dcarry, slopes = lax.scan(body, dcarry, over, reverse=not reverse, unroll=unroll)
            dparams, dx = gradients(params, x, before[0], slopes)
            return (dcarry, jax.tree.map(jnp.add, total, dparams)), dx

        batch, length, _ = x.shape
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, wide(a.dtype)), params)
        first = start(Sequence(x, mask, dy.carry)), zeros
        dh = jnp.swapaxes(dy.values, 0, 1)
        over = _time_first(Sequence(x, mask)), before, saved, dh, *steps(mask, length)
        (dcarry, total), dx = _in_pieces(piece, first, over, length, batch, not reverse)
        dparams = jax.tree.map(narrowed, total, params)
        if dy.carry is not None:
            dcarry = joined(cell, [narrowed(part, x) for part in dcarry])
        return dparams, Sequence(jnp.swapaxes(dx, 0, 1), None, dcarry)

    def carry(batch: int, dtype: Any) -> PyTree:
        return carry_like(cell, settings, batch, dtype)

    return Run(init, apply, forward, backward, carry)


def _where(condition: Any, one: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(jnp.where(condition, a, b) for a, b in zip(one, other, strict=True))


def _in_pieces(
    piece: Any, carry: Any, over: Any, length: int, batch: int, reverse: bool
) -> tuple[Any, Any]:
    """Scan over equal pieces of the steps; `piece` gets and gives arrays (k, B, ...) of k steps."""
    enough = (k for k in range(1, length) if length % k == 0 and k * batch >= _ROWS)
    steps = next(enough, length)
    if steps == length:
        return piece(carry, over)
    over = jax.tree.map(lambda a: a.reshape(-1, steps, *a.shape[1:]), over)
    carry, out = lax.scan(piece, carry, over, reverse=reverse)
    return carry, jax.tree.map(lambda a: a.reshape(length, *a.shape[2:]), out)


def _time_first(x: Sequence) -> Any:
    """Return the values (T, B, I), with zeros for padding, which may be NaN."""
    values = x.values if x.lengths is None else jnp.where(x.lengths[:, :, None], x.values, 0)
    return jnp.swapaxes(values, 0, 1)
