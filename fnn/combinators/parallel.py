"""Parallel branches."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn._core.description import constructor
from fnn._core.types import Array, Key, PyTree
from fnn.combinators._parts import branching, fold, parts_of
from fnn.layer import Layer


@constructor
def parallel(*branches: Layer, **named: Layer) -> Layer:
    """Parallel branches: the same input to each; the output is the tuple (or dict) of theirs.

    Forward ``y_i = f_i(x)``; backward ``dx = sum_i J_i^T dy_i``. Follow it with `concatenate` or
    `add` to join the branches. Branch `i` draws its randomness from ``jax.random.fold_in(key, i)``.

    Raises `fnn.InputError` as `serial` does.

    >>> import fnn, jax, jax.numpy as jnp
    >>> wide = fnn.serial(parallel(fnn.tanh(), fnn.relu()), fnn.concatenate())
    >>> wide.apply(*wide.init(jax.random.key(0), jnp.ones(2)), jnp.array([-1.0, 0.0]))[0]
    Array([-0.7615942,  0.       ,  0.       ,  0.       ], dtype=float32)
    """
    parts, pack = parts_of(branches, named)

    def init(key: Array, x: Any, /) -> tuple[PyTree, PyTree]:
        pairs = [branch.init(jax.random.fold_in(key, i), x) for i, (_, branch) in enumerate(parts)]
        return pack(p for p, _ in pairs), pack(s for _, s in pairs)

    def apply(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree]:
        results = [
            branch.apply(params[name], state[name], x, key=fold(key, i), train=train)
            for i, (name, branch) in enumerate(parts)
        ]
        return pack(y for y, _ in results), pack(s for _, s in results)

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        results = [
            branch.forward(params[name], state[name], x, key=fold(key, i), train=train)
            for i, (name, branch) in enumerate(parts)
        ]
        return (
            pack(y for y, _, _ in results),
            pack(s for _, s, _ in results),
            pack(r for _, _, r in results),
        )

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        pairs = [branch.backward(params[name], residuals[name], dy[name]) for name, branch in parts]
        dx = pairs[0][1]
        for _, branch_dx in pairs[1:]:
            dx = jax.tree.map(jnp.add, dx, branch_dx)
        return pack(dparams for dparams, _ in pairs), dx

    return branching(parallel, branches, named, (init, apply, forward, backward))
