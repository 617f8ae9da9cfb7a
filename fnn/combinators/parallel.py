"""Parallel branches."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
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
from fnn.combinators._parts import branching, fold, parts_of
from fnn.layer import Layer


@constructor
def parallel(*branches: Layer, **named: Layer) -> Layer:
    """Parallel branches: the same input to each; the output is the tuple (or dict) of theirs.

    Follow it with `concatenate` or `add` to join the branches. Branch `i` draws its randomness from
    ``jax.random.fold_in(key, i)``.

    Forward:   y_i = f_i(x)
    Backward:  dx = sum_i J_i^T dy_i

    Args:
        branches: the layers, one or more.
        named: the same by name, in place of `branches`.
    Shapes:    x is what every branch takes, y the tuple or dict of what they make
    Saves:     what each branch saves
    Raises:    InputError when positional and named layers are mixed, or something is no layer.

    >>> import fnn, jax, jax.numpy as jnp
    >>> wide = fnn.serial(parallel(fnn.tanh(), fnn.relu()), fnn.concatenate())
    >>> wide.apply(*wide.init(jax.random.key(0), jnp.ones(2)), jnp.array([-1.0, 0.0]))[0]
    Array([-0.7615942,  0.       ,  0.       ,  0.       ], dtype=float32)
    """
    parts, pack = parts_of(branches, named)

    def init(key: Array, x: Input, /) -> tuple[Params, State]:
        key = check.key(key)
        pairs = [branch.init(jax.random.fold_in(key, i), x) for i, (_, branch) in enumerate(parts)]
        return pack(p for p, _ in pairs), pack(s for _, s in pairs)

    def apply(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        results = [
            branch.apply(params[name], state[name], x, key=fold(key, i), train=train)
            for i, (name, branch) in enumerate(parts)
        ]
        return pack(y for y, _ in results), pack(s for _, s in results)

    def forward(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        results = [
            branch.forward(params[name], state[name], x, key=fold(key, i), train=train)
            for i, (name, branch) in enumerate(parts)
        ]
        return (
            pack(y for y, _, _ in results),
            pack(s for _, s, _ in results),
            pack(r for _, _, r in results),
        )

    def backward(
        params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        pairs = [branch.backward(params[name], residuals[name], dy[name]) for name, branch in parts]
        dx = pairs[0][1]
        for _, branch_dx in pairs[1:]:
            dx = jax.tree.map(jnp.add, dx, branch_dx)
        return pack(dparams for dparams, _ in pairs), dx

    def prefill(
        params: Params, state: State, x: Input, /, *, window: int, lengths: Array | None = None
    ) -> tuple[Output, Cache]:
        pairs = [
            branch.prefill(params[name], state[name], x, window=window, lengths=lengths)
            for name, branch in parts
        ]
        return pack(y for y, _ in pairs), pack(c for _, c in pairs)

    def decode(
        params: Params, state: State, cache: Cache, x: Input, position: Array, /
    ) -> tuple[Output, Cache]:
        pairs = [
            branch.decode(params[name], state[name], cache[name], x, position)
            for name, branch in parts
        ]
        return pack(y for y, _ in pairs), pack(c for _, c in pairs)

    functions = init, apply, forward, backward
    return branching(parallel, branches, named, functions, (prefill, decode))
