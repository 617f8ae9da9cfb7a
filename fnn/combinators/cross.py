"""A pair ``(x, memory)``: what layers work on, and what it attends to, which they pass on.

``fnn.attention`` makes y of a pair; with these two around it, pairs go through a whole stack.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import Array, Cotangent, Input, Key, Output, Params, Residuals, State
from fnn.combinators.residual import add_input, add_trees
from fnn.combinators.sequence import Sequence
from fnn.layer import Layer, require_layer, wrapping


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

    return wrapping(over_query, layer, (init, apply, forward, backward))


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

    return wrapping(residual_cross, layer, (init, apply, forward, backward))


def _pair(x: Input) -> tuple[Input, Input]:
    """Return x, a pair."""
    if isinstance(x, Sequence) or not isinstance(x, tuple) or len(x) != 2:
        raise InputError("a pair (x, memory)", describe(x), "pass what is attended to beside x")
    return x
