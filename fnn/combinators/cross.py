"""A pair ``(x, memory)``: what layers work on, and what it attends to, which they pass on.

``fnn.attention`` makes y of a pair; with these around it, pairs go through a whole stack: that of
an encoder-decoder, whose memory is what an encoder makes of a source. In generation the source is
read once, with the prompt; for every step after that a pair is ``(x, None)``, and what layers need
of the memory stands in their caches.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.tree import inexact_leaves, shape_witness
from fnn._core.types import (
    Array,
    Cache,
    Cotangent,
    Input,
    Key,
    Output,
    Params,
    Residuals,
    State,
)
from fnn.combinators.residual import add_input, add_trees
from fnn.combinators.sequence import Sequence
from fnn.layer import Layer, require_layer, stateless, wrapping


@constructor
def over_query(layer: Layer, /) -> Layer:
    """Layer over the query: it acts on the first of a pair, and the second passes on.

    Forward:   y = (f(x), memory)
    Backward:  dx = (J^T dy[0], dy[1])

    Args:
        layer: f.
    Shapes:    x and y are pairs (x, memory) of arrays or sequences
    Saves:     what the layer saves
    Raises:    InputError for what is no layer, and when x is no pair.

    >>> import fnn, jax.numpy as jnp
    >>> over_query(fnn.relu()).apply((), (), (jnp.array([-1.0]), jnp.array([-2.0])))[0]
    (Array([0.], dtype=float32), Array([-2.], dtype=float32))
    """
    require_layer(layer)

    def init(key: Array, x: Input, /) -> tuple[Params, State]:
        return layer.init(key, _pair(x)[0])

    def apply(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        x, memory = _pair(x)
        y, state = layer.apply(params, state, x, key=key, train=train)
        return (y, memory), state

    def forward(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        x, memory = _pair(x)
        y, state, residuals = layer.forward(params, state, x, key=key, train=train)
        return (y, memory), state, residuals

    def backward(
        params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        dparams, dx = layer.backward(params, residuals, dy[0])
        return dparams, (dx, dy[1])

    def prefill(
        params: Params, state: State, x: Input, /, *, window: int, lengths: Array | None = None
    ) -> tuple[Output, Cache]:
        x, memory = _pair(x)
        y, cache = layer.prefill(params, state, x, window=window, lengths=lengths)
        return (y, memory), cache

    def decode(
        params: Params, state: State, cache: Cache, x: Input, position: Array, /
    ) -> tuple[Output, Cache]:
        x, memory = _pair(x)
        y, cache = layer.decode(params, state, cache, x, position)
        return (y, memory), cache

    functions = init, apply, forward, backward
    return wrapping(over_query, layer, functions, (prefill, decode))


@constructor
def over_memory(layer: Layer, /) -> Layer:
    """Layer over the memory, such as an encoder: it acts on the second of a pair.

    In front of the layers of a decoder it makes an encoder-decoder, of a target and a source. The
    layer may look at all of the memory in both directions: `fnn.generate` reads it once.

    Forward:   y = (x, f(memory))
    Backward:  dx = (dy[0], J^T dy[1])

    Args:
        layer: f.
    Shapes:    x and y are pairs (x, memory) of arrays, sequences or trees
    Saves:     what the layer saves
    Raises:    InputError for what is no layer, and when x is no pair.
    Source:    Sutskever, Vinyals and Le 2014, arXiv:1409.3215, section 2.

    >>> import fnn, jax.numpy as jnp
    >>> over_memory(fnn.relu()).apply((), (), (jnp.array([-1.0]), jnp.array([-2.0])))[0]
    (Array([-1.], dtype=float32), Array([0.], dtype=float32))
    """
    require_layer(layer)

    def init(key: Array, x: Input, /) -> tuple[Params, State]:
        return layer.init(key, _pair(x)[1])

    def apply(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        x, memory = _pair(x)
        memory, state = layer.apply(params, state, memory, key=key, train=train)
        return (x, memory), state

    def forward(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        x, memory = _pair(x)
        memory, state, residuals = layer.forward(params, state, memory, key=key, train=train)
        return (x, memory), state, residuals

    def backward(
        params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        dparams, dmemory = layer.backward(params, residuals, dy[1])
        return dparams, (dy[0], dmemory)

    def prefill(
        params: Params, state: State, x: Input, /, *, window: int, lengths: Array | None = None
    ) -> tuple[Output, Cache]:
        del window, lengths
        return apply(params, state, x)[0], ()

    def decode(
        params: Params, state: State, cache: Cache, x: Input, position: Array, /
    ) -> tuple[Output, Cache]:
        del params, state, position
        return _pair(x), cache

    functions = init, apply, forward, backward
    return wrapping(over_memory, layer, functions, (prefill, decode))


@constructor
def take_query() -> Layer:
    """Query of a pair: the memory is left behind, where the decoder of a model ends.

    Forward:   y = x[0]
    Backward:  dx = (dy, 0)

    Shapes:    x a pair (x, memory) of arrays, sequences or trees, y its first
    Saves:     the shapes of the memory
    Raises:    InputError when x is no pair.

    >>> import jax.numpy as jnp
    >>> take_query().apply((), (), (jnp.array([-1.0]), jnp.array([-2.0])))[0]
    Array([-1.], dtype=float32)
    """
    return stateless(lambda key, x: (), _taken, _put_back, positionwise=True)


def _taken(params: Params, x: Input) -> tuple[Output, Residuals]:
    del params
    y, memory = _pair(x)
    return y, jax.tree.map(shape_witness, inexact_leaves(memory))


def _put_back(params: Params, residuals: Residuals, dy: Cotangent) -> tuple[Params, Cotangent]:
    del params
    unused = jax.tree.map(lambda a: jnp.zeros(a.shape[1:], a.dtype), residuals)
    return (), (dy, unused)


@constructor
def residual_cross(layer: Layer, /) -> Layer:
    """Residual connection around cross-attention: added to the first of a pair.

    It is `fnn.residual` for what attends to a memory. Of sequences the values are added.

    Forward:   y = (x + f(x, memory), memory)
    Backward:  dx = (dy[0] + gx, dy[1] + gm), with the gradients (gx, gm) of f for dy[0]

    Args:
        layer: f, which takes a pair and makes what has the shape of its first.
    Shapes:    x and y are pairs (x, memory) of arrays or sequences
    Saves:     what the layer saves
    Raises:    InputError for what is no layer, when x is no pair, and when f(x, memory) has another
        shape than x.
    Source:    Vaswani et al. 2017, arXiv:1706.03762, section 3.1, the decoder.

    >>> import fnn, jax, jax.numpy as jnp
    >>> layer, x = residual_cross(fnn.attention(2)), (jnp.ones((1, 3, 4)), jnp.ones((1, 5, 6)))
    >>> params, state = layer.init(jax.random.key(0), x)
    >>> [part.shape for part in layer.apply(params, state, x)[0]]
    [(1, 3, 4), (1, 5, 6)]
    """
    require_layer(layer)

    def init(key: Array, x: Input, /) -> tuple[Params, State]:
        return layer.init(key, _pair(x))

    def apply(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        x, memory = _pair(x)
        y, state = layer.apply(params, state, (x, memory), key=key, train=train)
        return (add_input(x, y), memory), state

    def forward(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        x, memory = _pair(x)
        y, state, residuals = layer.forward(params, state, (x, memory), key=key, train=train)
        return (add_input(x, y), memory), state, residuals

    def backward(
        params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        dparams, (dx, dmemory) = layer.backward(params, residuals, dy[0])
        return dparams, (add_trees(dy[0], dx), jax.tree.map(jnp.add, dy[1], dmemory))

    def prefill(
        params: Params, state: State, x: Input, /, *, window: int, lengths: Array | None = None
    ) -> tuple[Output, Cache]:
        x, memory = _pair(x)
        y, cache = layer.prefill(params, state, (x, memory), window=window, lengths=lengths)
        return (add_input(x, y), memory), cache

    def decode(
        params: Params, state: State, cache: Cache, x: Input, position: Array, /
    ) -> tuple[Output, Cache]:
        x, memory = _pair(x)
        y, cache = layer.decode(params, state, cache, (x, memory), position)
        return (add_input(x, y), memory), cache

    functions = init, apply, forward, backward
    return wrapping(residual_cross, layer, functions, (prefill, decode))


def _pair(x: Input) -> tuple[Input, Input]:
    """Return x, a pair."""
    if isinstance(x, Sequence) or not isinstance(x, tuple) or len(x) != 2:
        remedy = "pass what is attended to beside x, to fnn.generate as source="
        raise InputError("a pair (x, memory)", describe(x), remedy)
    return x
