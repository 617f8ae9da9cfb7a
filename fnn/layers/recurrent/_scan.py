"""A cell run over time; back-propagation by hand.

Both ways go piece by piece, so that what is made for the steps of a piece is used while it is in
the cache: forward the projected inputs; backward the slopes, of which one matrix product each for
all steps of the piece makes the gradients of x and of the weights. Saved are x, what the cell saves
of every step, and the carry at the beginning of every piece, from which backward works out those of
its steps again, without a matrix product.

The arrays stay (B, T, ...): a step reads and writes its own place of them, so that nothing is
transposed, and slopes are written over the factors they are made of, since the stacked outputs of a
`jax.lax.scan` would be filled with zeros first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fnn._core.precision import downcast, upcast, wide_dtype
from fnn._core.types import Array, PyTree
from fnn.combinators.sequence import Sequence
from fnn.layers.recurrent._cells import (
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
)
from fnn.layers.recurrent._stack import Run, both_ways, stacked

# The rows (B, k) of a piece of k steps: enough for a matrix product to be at its best.
_ROWS = 512


class Options(NamedTuple):
    """What runs: how many layers, both ways or one, in chunks of how many steps, how unrolled."""

    layers: int
    bidirectional: bool
    truncate: int | None
    unroll: int


class _Residuals(NamedTuple):
    """The inputs, the mask, and of every piece the carry before it and what its steps saved."""

    x: Array
    mask: Array | None
    before: tuple[Array, ...]
    saved: tuple[Array, ...]


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

    def start(x: Sequence) -> tuple[Any, ...]:
        if x.carry is not None:
            return tuple(map(upcast, parted(cell, x.carry)))
        dtype = wide_dtype(x.values.dtype)
        return (jnp.zeros((x.values.shape[0], settings.width), dtype),) * cell.parts

    def ended(carry: Any, x: Any) -> Any:
        return joined(cell, [downcast(part, x) for part in carry])

    def cuts(mask: Any, length: int) -> Any:
        """Return which steps begin a chunk, (B, T, 1) or (1, T, 1), or None if none does."""
        if truncate is None or truncate >= length:
            return None
        there = jnp.ones((1, length), bool) if mask is None else mask
        count = lax.cumsum(there.astype(jnp.int32), 1, reverse=reverse) - 1
        return (there & (count > 0) & (count % truncate == 0))[:, :, None]

    def apply(params: PyTree, x: Sequence) -> Sequence:
        def body(carry: Any, over: Any) -> tuple[Any, Any]:
            p, there, cut = over
            carry = _cut(cut, carry)
            across = product(carry[0], params["recurrent_weight"])
            carry = _where(there, cell.step(p, across, params, carry), carry)
            return carry, downcast(carry[0], x.values)

        there = _steps(x.lengths)
        p = project(params, _zeroed(x.values, there))
        over = jax.tree.map(_time_first, (p, there, cuts(x.lengths, x.values.shape[1])))
        carry, y = lax.scan(body, start(x), over, reverse=reverse, unroll=unroll)
        return Sequence(_zeroed(_time_first(y), there), x.lengths, ended(carry, x.values))

    def forward(params: PyTree, x: Sequence) -> tuple[Sequence, PyTree]:
        batch, length, _ = x.values.shape
        size, there, cut = _piece_size(length, batch), _steps(x.lengths), cuts(x.lengths, length)
        values = _zeroed(x.values, there)

        def piece(state: Any, first: Any) -> tuple[Any, Any]:
            before = state[0]
            p = project(params, _taken(values, first, size))

            def step(state: Any, t: Any) -> Any:
                carry, y, saved = state
                here, begins = _taken((there, cut), first + t)
                carry = _cut(begins, carry)
                across = product(carry[0], params["recurrent_weight"])
                new = cell.gate(_taken(p, t), across, params)
                carry = _where(here, cell.advance(new, carry), carry)
                return carry, _put(y, carry[0], first + t), _put(saved, new, first + t)

            state = _loop(step, state, size, reverse, unroll)
            return state, jax.tree.map(lambda a: downcast(a, values), before)

        def room(width: int) -> Any:
            return jnp.zeros((batch, length, width), values.dtype)

        saved = tuple(room(count * settings.width) for count in cell.saved)
        state = start(x), room(settings.width), saved
        over = _firsts(length, size)
        (carry, y, saved), before = lax.scan(piece, state, over, reverse=reverse)
        y = Sequence(_zeroed(y, there), x.lengths, ended(carry, values))
        return y, _Residuals(x.values, x.lengths, before, saved)

    def backward(params: PyTree, residuals: PyTree, dy: Sequence) -> tuple[PyTree, Sequence]:
        x, mask, firsts, saved = residuals
        batch, length, _ = x.shape
        size, there, cut = _piece_size(length, batch), _steps(mask), cuts(mask, length)
        values, turned = _zeroed(x, there), params["recurrent_weight"].T

        def piece(state: Any, over: Any) -> tuple[Any, None]:
            dx, dcarry, total = state
            first, carry = over

            def again(state: Any, t: Any) -> Any:
                carry, before = state
                here, begins = _taken((there, cut), first + t)
                carry = _cut(begins, carry)
                after = cell.advance(jax.tree.map(upcast, _taken(saved, first + t)), carry)
                return _where(here, after, carry), _put(before, carry, t)

            def step(state: Any, t: Any) -> Any:
                dcarry, slopes = state
                dh = dcarry[0] + upcast(_taken(dy.values, first + t))
                factors = _taken((slopes, others), t)
                dbefore, new = pulled(cell, turned, factors, (dh, *dcarry[1:]))
                here, begins = _taken((there, cut), first + t)
                new = _where(here, new, tuple(map(jnp.zeros_like, new)))
                dbefore = _where(here, dbefore, dcarry)
                if begins is not None:
                    dbefore = _where(begins, tuple(map(jnp.zeros_like, dbefore)), dbefore)
                return dbefore, _put(slopes, new, t)

            carry = jax.tree.map(upcast, carry)
            before = tuple(jnp.zeros((batch, size, a.shape[-1]), a.dtype) for a in carry)
            _, before = _loop(again, (carry, before), size, reverse, unroll)
            slopes, others = factored(cell, before, _taken(saved, first, size))
            dcarry, slopes = _loop(step, (dcarry, slopes), size, not reverse, unroll)
            inputs = _taken(values, first, size)
            dparams, dinputs = gradients(params, inputs, before[0], slopes)
            total = jax.tree.map(jnp.add, total, dparams)
            return (_put(dx, dinputs, first), dcarry, total), None

        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, wide_dtype(a.dtype)), params)
        state = jnp.zeros_like(x), start(Sequence(x, mask, dy.carry)), zeros
        over = _firsts(length, size), firsts
        (dx, dcarry, total), _ = lax.scan(piece, state, over, reverse=not reverse)
        dparams = jax.tree.map(downcast, total, params)
        return dparams, Sequence(dx, None, None if dy.carry is None else ended(dcarry, x))

    def carry(batch: int, dtype: Any) -> PyTree:
        return carry_like(cell, settings, batch, dtype)

    return Run(init, apply, forward, backward, carry)


def _steps(mask: Any) -> Any:
    """Return which steps are there, (B, T, 1), or None for all of them."""
    return None if mask is None else mask[:, :, None]


def _zeroed(values: Any, there: Any) -> Any:
    """Return values with zeros for padding, which may be NaN."""
    return values if there is None else jnp.where(there, values, 0)


def _where(condition: Any, one: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
    if condition is None:
        return one
    return tuple(jnp.where(condition, a, b) for a, b in zip(one, other, strict=True))


def _cut(begins: Any, carry: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the carry, as a constant where a chunk begins: for derivatives of any order."""
    if begins is None:
        return carry
    return _where(begins, tuple(map(lax.stop_gradient, carry)), carry)


def _time_first(a: Any) -> Any:
    return jnp.swapaxes(a, 0, 1)


def _piece_size(length: int, batch: int) -> int:
    """Return how many steps a piece has: as few as make `_ROWS` rows, in equal pieces."""
    enough = (k for k in range(1, length) if length % k == 0 and k * batch >= _ROWS)
    return next(enough, length)


def _loop(
    step: Callable[[Any, Any], Any], state: Any, size: int, reverse: bool, unroll: int
) -> Any:
    """Return the state after steps 0 to size - 1, or the other way round."""
    if not size:
        return state
    steps = jnp.arange(size)
    return lax.scan(
        lambda state, t: (step(state, t), None), state, steps, reverse=reverse, unroll=unroll
    )[0]


def _firsts(length: int, size: int) -> Any:
    """Return the first step of every piece."""
    return jnp.arange(0, length, size or 1)


def _taken(arrays: PyTree, start: Any, size: int | None = None) -> Any:
    """Return a step (B, ...) of every array (B, T, ...), or `size` steps from `start` on."""
    if size is None:
        return jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, start, 1, False), arrays)
    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, size, 1), arrays)


def _put(arrays: PyTree, steps: PyTree, start: Any) -> Any:
    """Write one step or several over those of the arrays from `start` on; XLA does it in place."""

    def written(a: Any, new: Any) -> Any:
        return lax.dynamic_update_index_in_dim(a, new.astype(a.dtype), start, 1)

    return jax.tree.map(written, arrays, steps)
