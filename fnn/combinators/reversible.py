"""Reversible stacks: inputs recomputed from outputs, so that memory does not grow with depth."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.mesh import scan
from fnn._core.types import (
    Array,
    Cache,
    Cotangent,
    Input,
    Key,
    Output,
    Params,
    PyTree,
    Residuals,
    State,
)
from fnn.combinators._parts import copy_of, first_of, key_of, split
from fnn.layer import Layer, output_shape, require_layer


@constructor
def reversible(f: Layer, g: Layer, /, depth: int = 1) -> Layer:
    """Reversible stack: blocks that save their last output and nothing else.

    Every block has parameters and states of its own, kept as ``{"f": ..., "g": ...}`` with a
    leading axis of length `depth`, as in `repeat`. An input is recovered but for rounding, which
    adds up over the depth: in half precision keep stacks short.

    Forward:   on the halves x_1, x_2 of the last axis: y_1 = x_1 + f(x_2), y_2 = x_2 + g(y_1)
    Backward:  first the block the other way, x_2 = y_2 - g(y_1), x_1 = y_1 - f(x_2); then
        dx_1 = dy_1 + J_g^T dy_2, dx_2 = dy_2 + J_f^T dx_1

    Args:
        f: what is added to the first half, a layer that keeps its shape.
        g: what is added to the second half, likewise.
        depth: the number of blocks.
    Shapes:    x, y (..., 2C); f and g keep (..., C)
    Saves:     {mode: (state, y, key)}, the mode being "train" or "eval"
    Raises:    InputError when the last axis is odd, when f or g is no layer or changes the shape of
        its input, and for a depth below 1.
    Source:    Gomez et al. 2017, arXiv:1707.04585, eqs. 6-8 and algorithm 1.

    >>> import fnn, jax, jax.numpy as jnp
    >>> deep = reversible(fnn.dense(3), fnn.serial(fnn.dense(3), fnn.tanh()), depth=8)
    >>> params, state = deep.init(jax.random.key(0), jnp.ones((2, 6)))
    >>> y, state, residuals = deep.forward(params, state, jnp.ones((2, 6)))
    >>> params["f"]["weight"].shape, [leaf.shape for leaf in jax.tree.leaves(residuals)]
    ((8, 3, 3), [(2, 6)])
    """
    for name, layer in (("f", f), ("g", g)):
        require_layer(layer, f"a layer for {name}")
    check.count(depth, "depth")
    stack = _Stack(f, g, depth)
    return Layer(
        stack.init,
        stack.apply,
        stack.forward,
        stack.backward,
        children={"f": f, "g": g},
        rebuild=lambda f, g: reversible(f, g, depth),
        copies=depth,
        prefill=stack.prefill,
        decode=stack.decode,
    )


class _Stack(NamedTuple):
    """The functions of a stack of blocks."""

    f: Layer
    g: Layer
    depth: int

    def init(self, key: Array, x: Input, /) -> tuple[Params, State]:
        half = jax.eval_shape(lambda x: _halves(x)[0], x)
        parts = {"f": self.f, "g": self.g}

        def one(key: Array) -> tuple[Params, State]:
            keys = jax.random.split(key)
            pairs = {name: parts[name].init(keys[i], half) for i, name in enumerate(parts)}
            return {n: p for n, (p, _) in pairs.items()}, {n: s for n, (_, s) in pairs.items()}

        params, state = jax.vmap(one)(jax.random.split(check.key(key), self.depth))
        p, s = first_of((params, state))
        for name, layer in parts.items():
            check.same_shape(half, output_shape(layer, p[name], s[name], half))
        return params, state

    def apply(
        self, params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        def block(carry: tuple[Array, Array], one: PyTree) -> tuple[tuple[Array, Array], State]:
            (x1, x2), (p, s, k) = carry, one
            moved, f_state = self.f.apply(p["f"], s["f"], x2, key=key_of(k, 0), train=train)
            y1 = x1 + moved
            moved, g_state = self.g.apply(p["g"], s["g"], y1, key=key_of(k, 1), train=train)
            return (y1, x2 + moved), {"f": f_state, "g": g_state}

        blocks = params, state, split(key, (self.depth, 2))
        halves, state = scan(block, _halves(x), blocks, length=self.depth)
        return jnp.concatenate(halves, -1), state

    def forward(
        self, params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        y, new_state = self.apply(params, state, x, key=key, train=train)
        return y, new_state, {"train" if train else "eval": (state, y, key)}

    def backward(
        self, params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        ((mode, (state, y, key)),) = residuals.items()
        train = mode == "train"

        def block(carry: PyTree, one: PyTree) -> tuple[PyTree, Params]:
            (y1, y2), (dy1, dy2) = carry
            p, s, k = one
            moved, _, saved = self.g.forward(p["g"], s["g"], y1, key=key_of(k, 1), train=train)
            x2 = y2 - moved
            dg, through_g = self.g.backward(p["g"], saved, dy2)
            dx1 = dy1 + through_g
            moved, _, saved = self.f.forward(p["f"], s["f"], x2, key=key_of(k, 0), train=train)
            x1 = y1 - moved
            df, through_f = self.f.backward(p["f"], saved, dx1)
            return ((x1, x2), (dx1, dy2 + through_f)), {"f": df, "g": dg}

        blocks, carry = (params, state, split(key, (self.depth, 2))), (_halves(y), _halves(dy))
        (_, dx), dparams = scan(block, carry, blocks, length=self.depth, reverse=True)
        return dparams, jnp.concatenate(dx, -1)

    def prefill(
        self,
        params: Params,
        state: State,
        x: Input,
        /,
        *,
        window: int,
        lengths: Array | None = None,
    ) -> tuple[Output, Cache]:
        x1, x2 = _halves(x)
        caches = []
        for i in range(self.depth):
            p, s = copy_of((params, state), i)
            moved, f = self.f.prefill(p["f"], s["f"], x2, window=window, lengths=lengths)
            x1 = x1 + moved
            moved, g = self.g.prefill(p["g"], s["g"], x1, window=window, lengths=lengths)
            x2 = x2 + moved
            caches.append({"f": f, "g": g})
        return jnp.concatenate((x1, x2), -1), tuple(caches)

    def decode(
        self, params: Params, state: State, cache: Cache, x: Input, position: Array, /
    ) -> tuple[Output, Cache]:
        x1, x2 = _halves(x)
        caches = []
        for i, one in enumerate(cache):
            p, s = copy_of((params, state), i)
            moved, f = self.f.decode(p["f"], s["f"], one["f"], x2, position)
            x1 = x1 + moved
            moved, g = self.g.decode(p["g"], s["g"], one["g"], x1, position)
            x2 = x2 + moved
            caches.append({"f": f, "g": g})
        return jnp.concatenate((x1, x2), -1), tuple(caches)


def _halves(x: Input) -> tuple[Array, Array]:
    """Return the two halves of the last axis."""
    check.floating(x)
    if x.ndim == 0 or x.shape[-1] % 2:
        raise InputError("x (..., 2C)", describe(x), "give a last axis of two equal halves")
    first, second = jnp.split(x, 2, -1)
    return first, second
