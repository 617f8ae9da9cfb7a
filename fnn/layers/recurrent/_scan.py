"""A cell run over time; manual back-propagation.

Both ways go piece by piece, so that what is made for the steps of a piece is used while it is in
the cache: forward the projected inputs; backward the slopes, of which one matrix product each for
all steps of the piece makes the gradients of x and of the weights. Saved are x, what the cell saves
of every step, and the carry at the beginning of every piece, from which backward computes those of
its steps again, without a matrix product.

The arrays stay (B, T, ...): a step reads and writes its own slice of them, so that nothing is
transposed, and slopes are written over the factors they are made of, since the stacked outputs of a
`jax.lax.scan` would be filled with zeros first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fnn._core.mesh import scan, zeros
from fnn._core.precision import downcast, upcast, wide_dtype
from fnn._core.types import Array, Cache, Input, Output, Params, PyTree
from fnn.combinators.sequence import Sequence
from fnn.layers.recurrent._cells import (
    Cell,
    Parts,
    Settings,
    carry_like,
    carry_widths,
    cell_vjp,
    init_cell,
    pack_carry,
    param_gradients,
    precompute_factors,
    project,
    recurrent_product,
    saved_widths,
    transpose_weights,
    unpack_carry,
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


class _Plan(NamedTuple):
    """A cell over time in one direction."""

    cell: Cell
    settings: Settings
    truncate: int | None
    unroll: int
    reverse: bool


class _Marks(NamedTuple):
    """Which time steps are there, and which begin a chunk: (B, T, 1) or (1, T, 1); None: all, none.

    Of one step (B, 1).
    """

    present: Array | None
    begins: Array | None


class _Residuals(NamedTuple):
    """The inputs, the mask, and of every piece the carry before it and what its steps saved."""

    x: Array
    mask: Array | None
    before: Parts
    saved: Parts


def running(cell: Cell, settings: Settings, options: Options) -> Run:
    """Put together what runs: one way or both, once or in a stack."""
    plans = [_Plan(cell, settings, options.truncate, options.unroll, way) for way in (False, True)]
    run = both_ways(*map(_one_way, plans)) if options.bidirectional else _one_way(plans[0])
    return stacked(run, options.layers) if options.layers > 1 else run


def _one_way(plan: _Plan) -> Run:
    """Run a cell over time in one direction."""
    return Run(
        partial(_init, plan),
        partial(_apply, plan),
        partial(_forward, plan),
        partial(_backward, plan),
        partial(carry_like, plan.cell, plan.settings),
        partial(_prefill, plan),
        partial(_decode, plan),
    )


def _init(plan: _Plan, key: Array, x: Input) -> Params:
    return init_cell(plan.cell, plan.settings, key, x.shape[-1], x.dtype)


def _apply(plan: _Plan, params: Params, x: Sequence) -> Sequence:
    """Return y by the plain formula."""
    marks = _marks(plan, x.lengths, x.values.shape[1])
    p = project(params, _zeroed(x.values, marks.present))

    def body(carry: Parts, over: Any) -> tuple[Parts, Any]:
        p, here = over
        carry = _cut(here.begins, carry)
        product = recurrent_product(carry[0], params["recurrent_weight"])
        carry = _where(here.present, plan.cell.step(p, product, params, carry), carry)
        return carry, downcast(carry[0], x.values)

    over = jax.tree.map(_time_first, (p, marks))
    carry, y = scan(body, _start(plan, x), over, reverse=plan.reverse, unroll=plan.unroll)
    y = _zeroed(_time_first(y), marks.present)
    return Sequence(y, x.lengths, _ended(plan, carry, x.values))


def _forward(plan: _Plan, params: Params, x: Sequence) -> tuple[Sequence, _Residuals]:
    """Return y, and what backward needs."""
    y, carry, residuals = _run(plan, params, x)
    return Sequence(y, x.lengths, _ended(plan, carry, x.values)), residuals


def _prefill(plan: _Plan, params: Params, x: Sequence) -> tuple[Output, Cache]:
    """Return y, and the carry after the last step as it is summed, in float32 or wider."""
    y, carry, _ = _run(plan, params, x)
    return y, carry


def _decode(plan: _Plan, params: Params, carry: Parts, x: Input) -> tuple[Output, Cache]:
    """Return y (B, H) of one step, and the carry after it."""
    product = recurrent_product(carry[0], params["recurrent_weight"])
    gates = plan.cell.gate(project(params, x), product, params, carry)
    carry = plan.cell.advance(gates, carry)
    return downcast(carry[0], x), carry


def _run(plan: _Plan, params: Params, x: Sequence) -> tuple[Any, Parts, _Residuals]:
    """Return y, the last carry, and what backward needs."""
    batch, length, _ = x.values.shape
    size, marks = _piece_size(length, batch), _marks(plan, x.lengths, length)
    values = _zeroed(x.values, marks.present)

    def piece(state: Any, first: Any) -> tuple[Any, Parts]:
        before = state[0]
        p = project(params, _taken(values, first, size))
        step = partial(_forward_step, plan.cell, params, p, marks, first)
        state = _loop(step, state, size, plan.reverse, plan.unroll)
        return state, jax.tree.map(lambda a: downcast(a, values), before)

    widths = (plan.settings.hidden, *saved_widths(plan.cell, plan.settings))
    room, *rooms = (zeros((batch, length, width), values.dtype, values) for width in widths)
    state, over = (_start(plan, x), room, tuple(rooms)), _firsts(length, size)
    (carry, h, saved), before = scan(piece, state, over, reverse=plan.reverse)
    y = _zeroed(h, marks.present)
    return y, carry, _Residuals(x.values, x.lengths, before, saved)


def _forward_step(
    cell: Cell, params: Params, p: Any, marks: _Marks, first: Any, state: Any, t: Any
) -> Any:
    """Return the state after step t of a piece: the carry, and y and what is saved, written in."""
    carry, y, saved = state
    here = _taken(marks, first + t)
    carry = _cut(here.begins, carry)
    product = recurrent_product(carry[0], params["recurrent_weight"])
    new = cell.gate(_taken(p, t), product, params, carry)
    carry = _where(here.present, cell.advance(new, carry), carry)
    return carry, _put(y, carry[0], first + t), _put(saved, new, first + t)


def _backward(
    plan: _Plan, params: Params, residuals: _Residuals, dy: Sequence
) -> tuple[Params, Sequence]:
    """Return dparams and dx."""
    cell, (x, mask, befores, saved) = plan.cell, residuals
    batch, length, _ = x.shape
    size, marks = _piece_size(length, batch), _marks(plan, mask, length)
    values, transposed = _zeroed(x, marks.present), transpose_weights(params)

    def piece(state: Any, over: Any) -> tuple[Any, None]:
        dx, dcarry, total = state
        first, carry = over
        before = _replay(plan, saved, marks, first, jax.tree.map(upcast, carry), size)
        slopes, others = precompute_factors(cell, before, _taken(saved, first, size))
        read = None
        if batch == 1:
            # XLA for CPUs copies what one example reads and writes in a step, the whole of it.
            read, slopes = slopes, jax.tree.map(jnp.zeros_like, slopes)
        step = partial(_backward_step, cell, transposed, dy.values, (read, others), marks, first)
        dcarry, slopes = _loop(step, (dcarry, slopes), size, not plan.reverse, plan.unroll)
        inputs = _taken(values, first, size)
        dparams, dinputs = param_gradients(params, inputs, before[0], slopes, others)
        total = jax.tree.map(jnp.add, total, dparams)
        return (_put(dx, dinputs, first), dcarry, total), None

    total = jax.tree.map(lambda a: jnp.zeros(a.shape, wide_dtype(a.dtype)), params)
    state = jnp.zeros_like(x), _start(plan, Sequence(x, mask, dy.carry)), total
    over = _firsts(length, size), befores
    (dx, dcarry, total), _ = scan(piece, state, over, reverse=not plan.reverse)
    dparams = jax.tree.map(downcast, total, params)
    return dparams, Sequence(dx, None, None if dy.carry is None else _ended(plan, dcarry, x))


def _replay(plan: _Plan, saved: Parts, marks: _Marks, first: Any, carry: Parts, size: int) -> Parts:
    """Return the carries (B, size, ...) before all steps of a piece, from the one that came in."""
    # What a mask or a chunk changes is known one step after the other alone.
    if plan.cell.recall is not None and marks.present is None and marks.begins is None:
        return _recall(plan, jax.tree.map(upcast, _taken(saved, first, size)), carry, size)
    before = tuple(jnp.zeros((a.shape[0], size, a.shape[-1]), a.dtype) for a in carry)
    step = partial(_replay_step, plan.cell, saved, marks, first)
    return _loop(step, (carry, before), size, plan.reverse, plan.unroll)[1]


def _replay_step(cell: Cell, saved: Parts, marks: _Marks, first: Any, state: Any, t: Any) -> Any:
    """Return the carry after step t of a piece, and the carries before all steps, written in."""
    carry, before = state
    here = _taken(marks, first + t)
    carry = _cut(here.begins, carry)
    after = cell.advance(jax.tree.map(upcast, _taken(saved, first + t)), carry)
    return _where(here.present, after, carry), _put(before, carry, t)


def _recall(plan: _Plan, saved: Parts, carry: Parts, size: int) -> Parts:
    """Return what `_replay` does, all but a product and a sum for many steps at once."""
    assert plan.cell.recall is not None
    linear, (h, *rest) = plan.cell.recall(saved), carry
    if linear:
        state = rest[0], jnp.zeros_like(linear[0])
        rest = [_loop(partial(_recall_step, linear), state, size, plan.reverse, plan.unroll)[1]]
    h = h[:, None]
    after = plan.cell.advance(saved, (h, *rest))[0]
    begin, both = int(plan.reverse), (after, h) if plan.reverse else (h, after)
    before = lax.slice_in_dim(jnp.concatenate(both, 1), begin, begin + size, axis=1)
    return before, *rest


def _recall_step(linear: Parts, state: Any, t: Any) -> Any:
    """Return c after step t of a piece, and those before all steps, written in."""
    c, before = state
    a, b = _taken(linear, t)
    return a * c + b, _put(before, c, t)


def _backward_step(
    cell: Cell,
    transposed: Params,
    dy: Any,
    factors: tuple[Parts | None, Parts],
    marks: _Marks,
    first: Any,
    state: Any,
    t: Any,
) -> Any:
    """Return dcarry before step t of a piece, and the slopes of all steps, written in.

    The first factors are None where slopes are written over them.
    """
    (dcarry, slopes), (read, others) = state, factors
    dh = dcarry[0] + upcast(_taken(dy, first + t))
    of_step = _taken((slopes if read is None else read, others), t)
    dbefore, new = cell_vjp(cell, transposed, of_step, (dh, *dcarry[1:]))
    here = _taken(marks, first + t)
    new = _where(here.present, new, tuple(map(jnp.zeros_like, new)))
    dbefore = _where(here.present, dbefore, dcarry)
    if here.begins is not None:
        dbefore = _where(here.begins, tuple(map(jnp.zeros_like, dbefore)), dbefore)
    return dbefore, _put(slopes, new, t)


def _start(plan: _Plan, x: Sequence) -> Parts:
    """Return the carry before the first step, in float32 or wider: zeros where none is given."""
    if x.carry is not None:
        return tuple(map(upcast, unpack_carry(plan.cell, x.carry)))
    dtype = wide_dtype(x.values.dtype)
    widths = carry_widths(plan.cell, plan.settings)
    batch = x.values.shape[0]
    return tuple(zeros((batch, width), dtype, x.values) for width in widths)


def _ended(plan: _Plan, carry: Parts, x: Any) -> PyTree:
    """Return the carry in the dtype of x."""
    return pack_carry(plan.cell, [downcast(part, x) for part in carry])


def _marks(plan: _Plan, mask: Any, length: int) -> _Marks:
    """Return which steps are there, and which begin a chunk."""
    present = None if mask is None else mask[:, :, None]
    if plan.truncate is None or plan.truncate >= length:
        return _Marks(present, None)
    known = jnp.ones((1, length), bool) if mask is None else mask
    count = lax.cumsum(known.astype(jnp.int32), 1, reverse=plan.reverse) - 1
    return _Marks(present, (known & (count > 0) & (count % plan.truncate == 0))[:, :, None])


def _zeroed(values: Any, present: Any) -> Any:
    """Return values with zeros for padding, which may be NaN."""
    return values if present is None else jnp.where(present, values, 0)


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
    # How long a symbolic batch is, nobody knows: it may be 1.
    rows = batch if isinstance(batch, int) else 1
    enough = (k for k in range(1, length) if length % k == 0 and k * rows >= _ROWS)
    return next(enough, length)


def _loop(
    step: Callable[[Any, Any], Any], state: Any, size: int, reverse: bool, unroll: int
) -> Any:
    """Return the state after steps 0 to size - 1, or the other way round."""
    if not size:
        return state
    steps = jnp.arange(size)
    return scan(
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
