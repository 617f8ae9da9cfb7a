"""The program of generation: read the prompt, then draw, read what was drawn, and draw again.

A row of the batch holds the integers at positions 0, 1, 2 and so on, its prompt first. What the
model has read of it stands in a cache with room for `window` of them; when a row is full, the newer
half of what it holds is read again as if it were a prompt, and the row goes on from there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from fnn._core.description import Structure
from fnn._core.linear_head import LinearHead
from fnn._core.types import Array, Cache, Input, Output, Params, PyTree, State
from fnn.layer import Layer
from fnn.train._gathering import gathering
from fnn.train.generation._sampling import Draw, DrawNumbers, draw
from fnn.train.sharding import Layout


class Plan(NamedTuple):
    """What shapes the program.

    `classes` is K, `moves` says that a row may become full, and `layout` is None without a mesh.
    """

    model: Structure
    draw: Draw
    total: int
    window: int
    classes: int
    cached: bool
    moves: bool
    stops: bool
    layout: Layout | None


class Inputs(NamedTuple):
    """What the program is given; `source` is None for a model of one input."""

    layer_numbers: dict[str, Array]
    draw_numbers: DrawNumbers
    params: Params
    state: State
    source: Input
    stop: Array
    key: Array


class Writing(NamedTuple):
    """Where generation stands.

    `newest` (B,) were drawn last, and are not read yet; they will stand at `position`, () or (B,)
    where rows differ. Of all that a row holds `seen` (B, window) are kept for reading it again, and
    `used` (B, K) tell what occurs in it; None where nobody asks. `number` counts the draws, and
    `complete` says that all scores were numbers.
    """

    newest: Array
    position: Array
    cache: Cache
    seen: Array | None
    used: Array | None
    stopped: Array
    number: Array
    complete: Array


_Rows: TypeAlias = tuple[Array, Array | None]


class _Reader(NamedTuple):
    """How a model reads: a prompt and its lengths, or one more integer for each row.

    Both return scores (B, K) of what comes next, and the cache.
    """

    prefill: Callable[[Array, Array | None], tuple[Array, Cache]]
    decode: Callable[[Cache, Array, Array], tuple[Array, Cache]]


def write(plan: Plan, inputs: Inputs, prompt: Array, lengths: Array | None) -> tuple[Array, Array]:
    """Return all that is drawn (B, count), and whether all scores were numbers."""
    writing = begin(plan, inputs, prompt, lengths)
    filling = inputs.stop.astype(prompt.dtype)
    drawn = jnp.full((prompt.shape[0], plan.total), filling).at[:, 0].set(writing.newest)

    def goes_on(carry: tuple[Writing, Array]) -> Array:
        return (carry[0].number < plan.total) & ~carry[0].stopped.all()

    def has_room(carry: tuple[Writing, Array]) -> Array:
        return goes_on(carry) & (carry[0].position.max() < plan.window)

    def put(writing: Writing, drawn: Array) -> tuple[Writing, Array]:
        column = writing.newest[:, None]
        place = writing.number - 1
        return writing, jax.lax.dynamic_update_slice_in_dim(drawn, column, place, 1)

    def step(carry: tuple[Writing, Array]) -> tuple[Writing, Array]:
        return put(go_on(plan, inputs, carry[0]), carry[1])

    def move(carry: tuple[Writing, Array]) -> tuple[Writing, Array]:
        carry = put(reread(plan, inputs, carry[0]), carry[1])
        return jax.lax.while_loop(has_room, step, carry)

    carry = jax.lax.while_loop(has_room if plan.moves else goes_on, step, (writing, drawn))
    if plan.moves:
        carry = jax.lax.while_loop(goes_on, move, carry)
    return _whole(plan, (carry[1], carry[0].complete))


def begin(plan: Plan, inputs: Inputs, prompt: Array, lengths: Array | None) -> Writing:
    """Read the prompt (B, T), whose rows have so many integers, and draw the first ones."""
    batch, steps = prompt.shape
    used = None
    if plan.draw.penalized:
        indices = prompt.astype(jnp.int32)
        if lengths is not None:
            there = jnp.arange(steps, dtype=lengths.dtype)[None] < lengths[:, None]
            indices = jnp.where(there, indices, plan.classes)
        used = jnp.zeros((batch, plan.classes), bool)
        used = used.at[jnp.arange(batch)[:, None], indices].set(True, mode="drop")
    prompt, lengths, used = _split(plan, (prompt, lengths, used))
    scores, cache = _reader(plan, inputs).prefill(prompt, lengths)
    writing = Writing(
        newest=prompt[:, 0],
        position=jnp.int32(steps) if lengths is None else lengths.astype(jnp.int32),
        cache=cache,
        seen=_padded(prompt, plan.window) if plan.moves else None,
        used=used,
        stopped=jnp.zeros(batch, bool),
        number=jnp.int32(0),
        complete=jnp.bool_(True),
    )
    return _drawn(plan, inputs, writing, scores)


def go_on(plan: Plan, inputs: Inputs, writing: Writing) -> Writing:
    """Read the newest integer of every row, and draw another."""
    position = writing.position
    seen = writing.seen
    if seen is not None:
        seen = _put(seen, writing.newest, position)
    scores, cache = _reader(plan, inputs).decode(writing.cache, writing.newest, position)
    writing = writing._replace(seen=seen, cache=cache, position=position + 1)
    return _drawn(plan, inputs, writing, scores)


def reread(plan: Plan, inputs: Inputs, writing: Writing) -> Writing:
    """Read the newer half of every full row again, and all of the others, and draw another."""
    kept, lengths = _kept(plan, writing)
    scores, cache = _reader(plan, inputs).prefill(kept, lengths)
    position = jnp.int32(kept.shape[1]) if lengths is None else lengths
    seen = _padded(kept, plan.window)
    writing = writing._replace(seen=seen, cache=cache, position=position)
    return _drawn(plan, inputs, writing, scores)


def _kept(plan: Plan, writing: Writing) -> _Rows:
    """Return what is read again, and how much of each row that is."""
    assert writing.seen is not None
    half = max(plan.window // 2, 1)
    if not writing.position.ndim:
        both = jnp.concatenate([writing.seen, writing.newest[:, None]], 1)
        return both[:, -half:], None
    position = writing.position
    both = _put(_padded(writing.seen, plan.window + 1), writing.newest, position)
    first = jnp.where(position == plan.window, plan.window + 1 - half, 0)
    places = first[:, None] + jnp.arange(plan.window, dtype=first.dtype)[None]
    kept = jnp.take_along_axis(both, jnp.minimum(places, plan.window), 1)
    return kept, position + 1 - first


def _drawn(plan: Plan, inputs: Inputs, writing: Writing, scores: Array) -> Writing:
    """Draw the next integer of every row: where it has stopped, the stop again."""
    key = jax.random.fold_in(inputs.key, writing.number)
    drawn = draw(plan.draw, inputs.draw_numbers, scores, writing.used, key)
    newest, stopped = drawn.astype(writing.newest.dtype), writing.stopped
    known = ~jnp.isnan(scores).any(-1)
    if plan.stops:
        stop = inputs.stop.astype(newest.dtype)
        newest = jnp.where(stopped, stop, newest)
        known, stopped = known | stopped, stopped | (newest == stop)
    used = writing.used
    if used is not None:
        used = used.at[jnp.arange(len(newest)), newest].set(True)
    newest, stopped, complete = _whole(plan, (newest, stopped, writing.complete & known.all()))
    return writing._replace(
        newest=newest, used=used, stopped=stopped, number=writing.number + 1, complete=complete
    )


def _reader(plan: Plan, inputs: Inputs) -> _Reader:
    model: Layer = plan.model.build(inputs.layer_numbers)["model"]
    params, state, source = inputs.params, inputs.state, inputs.source
    if plan.layout is not None:
        model, source = gathering(plan.layout, model, params), _split(plan, source)

    def prefill(tokens: Array, lengths: Array | None) -> tuple[Array, Cache]:
        x = beside(tokens, source)
        y, cache = model.prefill(params, state, x, window=plan.window, lengths=lengths)
        return last_scores(y, lengths), cache

    def decode(cache: Cache, newest: Array, position: Array) -> tuple[Array, Cache]:
        # The source was read with the prompt.
        x = newest[:, None] if source is None else (newest[:, None], None)
        y, cache = model.decode(params, state, cache, x, position)
        return last_scores(y), cache

    def read(tokens: Array) -> tuple[Array, Cache]:
        return last_scores(model.apply(params, state, beside(tokens, source))[0]), tokens

    if plan.cached:
        return _Reader(prefill, decode)
    return _Reader(
        lambda tokens, lengths: read(tokens),
        lambda cache, newest, position: read(jnp.concatenate([cache[:, 1:], newest[:, None]], 1)),
    )


def _split(plan: Plan, rows: PyTree) -> PyTree:
    """Return arrays (B, ...) split over the devices of the mesh, where there is one."""
    return rows if plan.layout is None else plan.layout.split(rows)


def _whole(plan: Plan, tree: PyTree) -> PyTree:
    """Return arrays that every device of the mesh has: what is drawn every process looks at."""
    return tree if plan.layout is None else plan.layout.replicated(tree)


def beside(tokens: Array, source: Input) -> Input:
    """Return what a model is given: integers (B, T), beside a source where there is one."""
    return tokens if source is None else (tokens, source)


def last_scores(y: Output, lengths: Array | None = None) -> Array:
    """Return the scores (B, K) at the last step of every row, of (B, T, K) or of a linear head."""
    if isinstance(y, LinearHead):
        return y._replace(features=_last(y.features, lengths)).logits
    return _last(y, lengths)


def _last(y: Array, lengths: Array | None) -> Array:
    if lengths is None:
        return y[:, -1]
    return jnp.take_along_axis(y, lengths[:, None, None] - 1, 1)[:, 0]


def _padded(tokens: Array, width: int) -> Array:
    """Return integers (B, T) with zeros behind, (B, width)."""
    return jnp.pad(tokens, ((0, 0), (0, width - tokens.shape[1])))


def _put(rows: Array, newest: Array, position: Array) -> Array:
    """Write an integer into every row (B, W), at one position or at one of each."""
    if not position.ndim:
        return jax.lax.dynamic_update_slice_in_dim(rows, newest[:, None], position, 1)
    return jax.vmap(functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0))(
        rows, newest[:, None], position
    )
