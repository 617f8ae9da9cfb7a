"""Autoregressive sampling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fnn._core import check
from fnn._core.arrays import of_numpy, require_arrays
from fnn._core.description import Structure, split
from fnn._core.errors import InputError, describe, entry
from fnn._core.linear_head import LinearHead
from fnn._core.place import check_place
from fnn._core.types import Array, Input, Output, Params, Scalar, State, Unchecked
from fnn.combinators.sequence import Sequence, step_mask
from fnn.layer import Layer, require_layer
from fnn.train.generation._sampling import Draw, DrawNumbers
from fnn.train.generation._writing import (
    Inputs,
    Plan,
    Writing,
    begin,
    beside,
    go_on,
    reread,
    write,
)
from fnn.train.sharding import Layout, Sharding, layout_in_use


@entry
def generate(
    model: Layer,
    params: Params,
    state: State,
    prompt: Input,
    count: int,
    *,
    key: Array,
    source: Input = None,
    temperature: Scalar = 1.0,
    top_k: int | None = None,
    top_p: Scalar = 1.0,
    repetition_penalty: Scalar = 1.0,
    stop: int | None = None,
    window: int | None = None,
    cache: bool = True,
    mesh: Mesh | None = None,
    sharding: Sharding | None = None,
) -> Array:
    """Autoregressive sampling: what follows a prompt, one integer after the other.

    Each is drawn from ``softmax(scores at the last step / temperature)``. The prompt is read at
    once, and then every integer costs one time step, since layers that look back have a cache: keys
    and values of attention, the hidden state of recurrent layers. The model sees the prompt and all
    that was drawn, or at most `window` of them: when so many are read, the newer half is read
    again, and there is room for as many more. One compiled program; a new key, source, temperature,
    top_p, repetition_penalty or stop compiles nothing.

    An encoder-decoder is given what it translates as `source`. Its encoder reads it once, with the
    prompt, which begins with the integer that begins every target, and attention to it has keys and
    values from there on.

    Args:
        model: maps integers (B, T) to scores (B, T, K) of what comes next, or to the
            `fnn.LinearHead` of them; with a source it maps the pair of both to them.
        params: its parameters.
        state: what its layers remember.
        prompt: (B, T) integers of 0 or more, B and T at least 1; for prompts of different lengths a
            `fnn.Sequence` of them with lengths (B,), at least 1, which are padded behind.
        count: how many integers to draw, 0 or more.
        key: for the draws; the same key gives the same bits.
        source: what the rows are about, as an encoder takes it: an array (B, ...), a `fnn.Sequence`
            whose padding changes nothing, or a tuple or dict of these; None for a model of one
            input.
        temperature: 0 or more, a number or a traced one; below 1 the likely becomes likelier, and 0
            takes the highest score.
        top_k: of how many with the highest scores to draw; None for all K.
        top_p: in (0, 1]: draw of the fewest whose probabilities add up to it (the nucleus).
        repetition_penalty: above 0: what a score is divided by, or multiplied where it is below 0,
            if its integer occurs in what was read or drawn; above 1 makes repetition less likely.
        stop: the integer that ends a row, which is filled with it from there on; None for none.
        window: how many positions the model sees at most; None for all, which learned positions may
            not have.
        cache: False to read all again for every integer, which is slower: for a model with a layer
            that has no cache. It then sees as many as the prompt has, moving on by one.
        mesh: devices that the rows and their caches are split over, as in `fnn.predict`; None for
            the mesh that the parameters lie on, if they do.
        sharding: where parameters are to lie, as in `fnn.predict`. Of a layer that lies in parts
            over the first axis either these are gathered or what goes in, whichever is smaller.
    Shapes:    prompt (B, T); source (B, ...); the result (B, count), integers of the dtype of the
        prompt
    Raises:    InputError for another prompt, longer than the window or the positions that were
        learned; for a source of another batch, or that is no array, or beside a model of one input,
        and for none where one is attended to; for another count or key; for top_k above K, stop
        outside of 0..K - 1 and other options out of range; for a model that has a layer without a
        cache, gives no scores (B, T, K), more of them than the dtype of the prompt can count, or
        NaN, and for parameters and state of another model.
    Source:    Fan et al. 2018, arXiv:1805.04833, top_k; Holtzman et al. 2019, arXiv:1904.09751,
        top_p; Keskar et al. 2019, arXiv:1909.05858, section 4.1, repetition_penalty.

    >>> import fnn, numpy as np
    >>> cycle = fnn.from_function(lambda x: jax.nn.one_hot((x + 1) % 4, 4))
    >>> cycle = fnn.positionwise(cycle)
    >>> generate(cycle, (), (), np.array([[0, 1]]), 5, key=jax.random.key(0), temperature=0.0)
    Array([[2, 3, 0, 1, 2]], dtype=int32)
    """
    drawing = _Drawing(temperature, top_k, top_p, repetition_penalty, stop)
    given = _Given(prompt, source)
    used = _Model(model, params, state, layout_in_use(params, mesh, sharding))
    asked = _asked(used, given, count, key, drawing, window, cache)
    if not count:
        return jnp.zeros((asked.prompt.shape[0], 0), asked.prompt.dtype)
    drawn, complete = _write(asked.plan, asked.inputs, asked.prompt, asked.lengths)
    if not isinstance(complete, jax.core.Tracer):
        _check_complete(complete)
    return drawn


@entry
def generate_stream(
    model: Layer,
    params: Params,
    state: State,
    prompt: Input,
    count: int,
    *,
    key: Array,
    source: Input = None,
    temperature: Scalar = 1.0,
    top_k: int | None = None,
    top_p: Scalar = 1.0,
    repetition_penalty: Scalar = 1.0,
    stop: int | None = None,
    window: int | None = None,
    cache: bool = True,
    mesh: Mesh | None = None,
    sharding: Sharding | None = None,
) -> Iterator[np.ndarray]:
    """Autoregressive sampling as a stream: what `fnn.generate` draws, as soon as it is drawn.

    The integers are those of `fnn.generate`, and end where every row has stopped.

    Args:
        model: as for `fnn.generate`, and all that follow.
        params: its parameters.
        state: what its layers remember.
        prompt: (B, T) integers, or a `fnn.Sequence` of them.
        count: how many integers to draw at most.
        key: for the draws.
        source: of an encoder-decoder, what the rows are about; None for a model of one input.
        temperature: 0 or more.
        top_k: of how many with the highest scores to draw; None for all.
        top_p: in (0, 1], the probability of the nucleus.
        repetition_penalty: above 0.
        stop: the integer that ends a row; None for none.
        window: how many positions the model sees at most; None for all.
        cache: False to read all again for every integer.
        mesh: devices that the rows are split over; None for those of the parameters.
        sharding: where parameters are to lie; None for where they do.
    Shapes:    prompt (B, T); every item (B,), integers of the same dtype
    Raises:    InputError as `fnn.generate` does.

    >>> import fnn, numpy as np
    >>> cycle = fnn.from_function(lambda x: jax.nn.one_hot((x + 1) % 4, 4))
    >>> cycle, prompt = fnn.positionwise(cycle), np.array([[0, 1]])
    >>> stream = generate_stream(
    ...     cycle, (), (), prompt, 9, key=jax.random.key(0), temperature=0.0, stop=0
    ... )
    >>> [drawn.tolist() for drawn in stream]
    [[2], [3], [0]]
    """
    drawing = _Drawing(temperature, top_k, top_p, repetition_penalty, stop)
    given = _Given(prompt, source)
    used = _Model(model, params, state, layout_in_use(params, mesh, sharding))
    asked = _asked(used, given, count, key, drawing, window, cache)
    return _stream(asked) if count else iter(())


class _Model(NamedTuple):
    layer: Layer
    params: Params
    state: State
    layout: Layout | None


class _Given(NamedTuple):
    """What is read before anything is drawn."""

    prompt: Unchecked
    source: Unchecked


class _Drawing(NamedTuple):
    """How to draw, as it was asked for."""

    temperature: Scalar
    top_k: int | None
    top_p: Scalar
    repetition_penalty: Scalar
    stop: int | None


class _Asked(NamedTuple):
    """What was asked for, checked: the program, and what it is given."""

    plan: Plan
    inputs: Inputs
    prompt: Array
    lengths: Array | None


def _asked(
    model: _Model,
    given: _Given,
    count: Unchecked,
    key: Unchecked,
    drawing: _Drawing,
    window: Unchecked,
    cache: Unchecked,
) -> _Asked:
    """Check what was asked for."""
    require_layer(model.layer)
    check.count(count, "count", least=0)
    check.flag(cache, "cache")
    _check_drawing(drawing)
    prompt, lengths = _checked_prompt(given.prompt)
    source = _checked_source(given.source, prompt.shape[0])
    room = _checked_window(window, prompt.shape[1], int(count), bool(cache), lengths)
    x = beside(prompt, source)
    check_place(model.layer, model.params, model.state, x)
    structure, layer_numbers = split(model=model.layer)
    # What has no cache, or no position left, says so; seen before, it is not traced again.
    place = model.params, model.state
    y = _read.eval_shape(structure, room if cache else None, layer_numbers, *place, x)
    classes = _classes(y, prompt)
    _check_indices(drawing, classes)
    draw, draw_numbers = _split(drawing)
    plan = Plan(
        model=structure,
        draw=draw,
        total=int(count),
        window=room,
        classes=classes,
        cached=bool(cache),
        moves=bool(cache) and prompt.shape[1] + int(count) - 1 > room,
        stops=drawing.stop is not None,
        layout=model.layout,
    )
    stop = jnp.asarray(drawing.stop or 0, jnp.int32)
    inputs = Inputs(layer_numbers, draw_numbers, *place, source, stop, check.key(key))
    return _placed(_Asked(plan, inputs, prompt, lengths))


def _placed(asked: _Asked) -> _Asked:
    """Put what the program is given onto its mesh."""
    layout = asked.plan.layout
    if layout is None:
        return asked
    params = layout.put_params(asked.inputs.params)
    rest = asked.inputs._replace(params=None), asked.prompt, asked.lengths
    inputs, prompt, lengths = layout.put_whole(jax.tree.map(jnp.asarray, rest))
    return _Asked(asked.plan, inputs._replace(params=params), prompt, lengths)


def _read_prompt(
    structure: Structure,
    window: int | None,
    layer_numbers: dict[str, Array],
    params: Params,
    state: State,
    x: Input,
) -> Output:
    """Return what a model makes of a prompt, with room in its caches or, for None, without them."""
    model: Layer = structure.build(layer_numbers)["model"]
    if window is None:
        return model.apply(params, state, x)[0]
    return model.prefill(params, state, x, window=window)[0]


_read = jax.jit(_read_prompt, static_argnums=(0, 1))


def _check_drawing(drawing: _Drawing) -> None:
    check.number(drawing.temperature, "temperature", least=0, remedy="pass one such as 0.8")
    if drawing.top_k is not None:
        check.count(drawing.top_k, "top_k")
    check.number(drawing.top_p, "top_p", above=0, most=1, remedy="pass a probability such as 0.9")
    remedy = "pass 1 for none, or one such as 1.2"
    check.number(drawing.repetition_penalty, "repetition_penalty", above=0, remedy=remedy)
    if drawing.stop is not None:
        check.count(drawing.stop, "stop", least=0)


def _split(drawing: _Drawing) -> tuple[Draw, DrawNumbers]:
    """Return what of drawing shapes the program, and its numbers."""
    temperature, greedy = drawing.temperature, False
    if not isinstance(temperature, jax.core.Tracer):
        # In the precision of the scores, where 1e-50 is 0.
        greedy = not np.asarray(temperature).astype(jnp.result_type(float))
    plain = [
        isinstance(value, int | float) and value == 1
        for value in (drawing.top_p, drawing.repetition_penalty)
    ]
    top_k = None if greedy or drawing.top_k is None else int(drawing.top_k)
    draw = Draw(bool(greedy), top_k, not (greedy or plain[0]), not plain[1])
    return draw, DrawNumbers(
        1.0 if greedy else temperature, drawing.top_p, drawing.repetition_penalty
    )


def _checked_prompt(prompt: Unchecked) -> tuple[Array, Array | None]:
    """Return a prompt as an array and its lengths, or raise unless it is (B, T) integers."""
    lengths: Unchecked = None
    if isinstance(prompt, Sequence):
        prompt, lengths, carry = prompt
        if carry is not None:
            raise InputError("a prompt without carry", "one", "read what was before it again")
    if not hasattr(prompt, "dtype"):
        try:
            prompt = np.asarray(prompt)
        except ValueError as error:
            remedy = "pad them behind to one length, and pass fnn.Sequence(prompt, lengths)"
            raise InputError("a prompt (B, T) of integers", describe(prompt), remedy) from error
    is_integer = hasattr(prompt, "__jax_array__") or isinstance(prompt, np.ndarray | jax.Array)
    is_integer = is_integer and jnp.issubdtype(prompt.dtype, jnp.integer)
    if not is_integer or prompt.ndim != 2 or not prompt.size:
        remedy = "pass a batch of prompts"
        if isinstance(prompt, np.ndarray) and prompt.dtype.kind in "SU":
            remedy = "encode it by the text that was learned: text.encode(prompt)[None]"
        raise InputError("a prompt (B, T) of integers", describe(prompt), remedy)
    check.values(
        prompt, lambda x: x < 0, "a prompt of 0 or more", "pass indices into the scores", "prompt"
    )
    prompt = jnp.asarray(prompt)
    return prompt, None if lengths is None else _checked_lengths(lengths, *prompt.shape)


def _checked_lengths(lengths: Unchecked, batch: int, steps: int) -> Array:
    lengths = jnp.asarray(lengths)
    if lengths.shape != (batch,) or not jnp.issubdtype(lengths.dtype, jnp.integer):
        remedy = "give each prompt its length"
        raise InputError(f"lengths of shape ({batch},) of integers", describe(lengths), remedy)
    expected, remedy = f"lengths in 1..{steps}", "count what is there, padding left out"
    check.values(lengths, lambda n: (n < 1) | (n > steps), expected, remedy, "lengths")
    return jnp.clip(lengths.astype(jnp.int32), 1, steps)


def _checked_source(source: Unchecked, batch: int) -> Input:
    """Return a source as arrays, or raise unless they are rows of the batch."""
    if source is None:
        return None
    source = jax.tree.map(_of_list, source, is_leaf=lambda part: isinstance(part, list))
    source = require_arrays(source, "source")
    for leaf in jax.tree.leaves(source):
        if leaf.shape[:1] != (batch,):
            remedy = "give every prompt a source of its own"
            raise InputError(f"source of shape ({batch}, ...)", describe(leaf), remedy)
    for part in jax.tree.leaves(source, is_leaf=lambda part: isinstance(part, Sequence)):
        step_mask(part)
    found: Input = jax.tree.map(jnp.asarray, source)
    return found


def _of_list(part: Unchecked) -> Unchecked:
    """Return an array in place of a list of numbers."""
    return of_numpy(part, "source") if isinstance(part, list) else part


def _checked_window(
    window: Unchecked, steps: int, count: int, cache: bool, lengths: Array | None
) -> int:
    """Return for how many positions there is to be room."""
    if window is not None:
        check.count(window, "window")
        if steps > window:
            remedy = f"pass the last of it, as in prompt[:, -{window}:]"
            raise InputError(f"a prompt of {window} steps at most", f"{steps}", remedy)
    if not cache and lengths is not None:
        remedy = "pass those of one length together, or a model whose layers have caches"
        raise InputError("prompts of one length without a cache", "a fnn.Sequence", remedy)
    if not cache and window is not None:
        remedy = "leave it out: without a cache the model sees as many as the prompt has"
        raise InputError("no window without a cache", f"{window}", remedy)
    return max(steps, steps + count - 1) if window is None else int(window)


def _classes(y: Unchecked, prompt: Array) -> int:
    """Return K, or raise unless a model gives scores (B, T, K), whose indices the prompt holds."""
    scores = jax.eval_shape(lambda y: y.logits, y) if isinstance(y, LinearHead) else y
    if getattr(scores, "shape", ())[:2] != prompt.shape or len(scores.shape) != 3:
        raise InputError(
            f"a model that gives scores ({prompt.shape[0]}, {prompt.shape[1]}, K)",
            describe(scores),
            "let it end in a layer of one score for each possible integer, as fnn.dense(K)",
        )
    classes: int = scores.shape[-1]
    if classes - 1 > jnp.iinfo(prompt.dtype).max or not classes:
        raise InputError(
            f"a prompt whose dtype holds 0..{classes - 1}",
            describe(prompt),
            "convert it, as in prompt.astype('int32')",
        )
    return classes


def _check_indices(drawing: _Drawing, classes: int) -> None:
    """Raise for what asks for more than there are scores."""
    if drawing.top_k is not None and drawing.top_k > classes:
        expected, remedy = f"top_k in 1..{classes}", "there are no more scores; None draws of all"
        raise InputError(expected, f"{drawing.top_k}", remedy)
    if drawing.stop is not None and drawing.stop >= classes:
        expected, remedy = f"stop in 0..{classes - 1}", "name an integer that has a score"
        raise InputError(expected, f"{drawing.stop}", remedy)


def _check_complete(complete: Array) -> None:
    if not complete:
        raise InputError(
            "scores that are numbers", "NaN", "look at the parameters, or at fnn.trace_activations"
        )


_write = jax.jit(write, static_argnums=0)
_begin = jax.jit(begin, static_argnums=0)
_go_on = jax.jit(go_on, static_argnums=0, donate_argnums=2)
_reread = jax.jit(reread, static_argnums=0)


def _stream(asked: _Asked) -> Iterator[np.ndarray]:
    """Yield what is drawn, step by step."""
    plan, inputs, prompt, lengths = asked
    writing: Writing = _begin(plan, inputs, prompt, lengths)
    for number in range(plan.total):
        if number:
            full = plan.moves and int(writing.position.max()) >= plan.window
            writing = (_reread if full else _go_on)(plan, inputs, writing)
        _check_complete(writing.complete)
        # A copy, since the next step writes over it.
        yield np.array(writing.newest)
        if plan.stops and bool(writing.stopped.all()):
            return
