"""Reversible stacks: inputs recomputed from outputs, so that memory does not grow with depth."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import Array, Key, PyTree
from fnn.layer import Layer, output_shape


@constructor
def reversible(f: Layer, g: Layer, /, depth: int = 1) -> Layer:
    """Reversible stack: `depth` blocks that save their last output and nothing else.

    Forward, on the halves ``x_1, x_2`` of the last axis: ``y_1 = x_1 + f(x_2)``,
    ``y_2 = x_2 + g(y_1)``. Backward first runs the block the other way, ``x_2 = y_2 - g(y_1)``,
    ``x_1 = y_1 - f(x_2)``, and needs no input saved:
    ``dx_1 = dy_1 + J_g^T dy_2``, ``dx_2 = dy_2 + J_f^T dx_1``
    (Gomez et al. 2017, arXiv:1707.04585, eqs. 6-8 and algorithm 1).

    x (..., 2C) and y (..., 2C); f and g keep (..., C). Every block has parameters and states of its
    own, kept as ``{"f": ..., "g": ...}`` with a leading axis of length `depth`, as in `repeat`. The
    residuals are ``{mode: (state, y, key)}``. An input is recovered but for rounding, which adds up
    over the depth: in half precision keep stacks short.

    Raises `fnn.InputError` when the last axis is odd, f or g changes the shape of its input, or
    `depth` is not a positive integer.

    >>> import fnn, jax, jax.numpy as jnp
    >>> deep = reversible(fnn.dense(3), fnn.serial(fnn.dense(3), fnn.tanh()), depth=8)
    >>> params, state = deep.init(jax.random.key(0), jnp.ones((2, 6)))
    >>> y, state, residuals = deep.forward(params, state, jnp.ones((2, 6)))
    >>> params["f"]["weight"].shape, [leaf.shape for leaf in jax.tree.leaves(residuals)]
    ((8, 3, 3), [(2, 6)])
    """
    parts = {"f": f, "g": g}
    for name, layer in parts.items():
        if not isinstance(layer, Layer):
            raise InputError(f"a layer for {name}", describe(layer), "call the constructor")
    if not check.is_count(depth, 1):
        raise InputError("a positive depth", describe(depth), "pass an int of 1 or more")

    def init(key: Array, x: Any, /) -> tuple[PyTree, PyTree]:
        half = jax.eval_shape(lambda x: _halves(x)[0], x)

        def one(key: Array) -> tuple[PyTree, PyTree]:
            of = jax.random.split(key)
            pairs = {name: parts[name].init(of[i], half) for i, name in enumerate(parts)}
            return {n: p for n, (p, _) in pairs.items()}, {n: s for n, (_, s) in pairs.items()}

        params, state = jax.vmap(one)(jax.random.split(key, depth))
        single = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (params, state))
        for name, layer in parts.items():
            y = output_shape(layer, single[0][name], single[1][name], half)
            check.same_shape(half, y)
        return params, state

    def keys(key: Key) -> Key:
        return None if key is None else jax.random.split(key, (depth, 2))

    def apply(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree]:
        def block(carry: tuple[Any, Any], one: PyTree) -> tuple[tuple[Any, Any], PyTree]:
            (x1, x2), (p, s, k) = carry, one
            moved, f_state = f.apply(p["f"], s["f"], x2, key=_of(k, 0), train=train)
            y1 = x1 + moved
            moved, g_state = g.apply(p["g"], s["g"], y1, key=_of(k, 1), train=train)
            return (y1, x2 + moved), {"f": f_state, "g": g_state}

        halves, state = jax.lax.scan(block, _halves(x), (params, state, keys(key)), length=depth)
        return jnp.concatenate(halves, -1), state

    def forward(
        params: PyTree, state: PyTree, x: Any, /, *, key: Key = None, train: bool = False
    ) -> tuple[Any, PyTree, PyTree]:
        y, new_state = apply(params, state, x, key=key, train=train)
        return y, new_state, {"train" if train else "eval": (state, y, key)}

    def backward(params: PyTree, residuals: PyTree, dy: Any, /) -> tuple[PyTree, Any]:
        ((mode, (state, y, key)),) = residuals.items()
        train = mode == "train"

        def block(carry: PyTree, one: PyTree) -> tuple[PyTree, PyTree]:
            (y1, y2), (dy1, dy2) = carry
            p, s, k = one
            moved, _, saved = g.forward(p["g"], s["g"], y1, key=_of(k, 1), train=train)
            x2 = y2 - moved
            dg, through_g = g.backward(p["g"], saved, dy2)
            dx1 = dy1 + through_g
            moved, _, saved = f.forward(p["f"], s["f"], x2, key=_of(k, 0), train=train)
            x1 = y1 - moved
            df, through_f = f.backward(p["f"], saved, dx1)
            return ((x1, x2), (dx1, dy2 + through_f)), {"f": df, "g": dg}

        (_, dx), dparams = jax.lax.scan(
            block,
            (_halves(y), _halves(dy)),
            (params, state, keys(key)),
            length=depth,
            reverse=True,
        )
        return dparams, jnp.concatenate(dx, -1)

    return Layer(
        init,
        apply,
        forward,
        backward,
        children=parts,
        rebuild=lambda f, g: reversible(f, g, depth),
        copies=depth,
    )


def _halves(x: Array) -> tuple[Array, Array]:
    check.floating(x)
    if x.ndim == 0 or x.shape[-1] % 2:
        raise InputError("x (..., 2C)", describe(x), "give a last axis of two equal halves")
    first, second = jnp.split(x, 2, -1)
    return first, second


def _of(keys: Key, i: int) -> Key:
    return None if keys is None else keys[i]
