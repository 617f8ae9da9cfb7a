"""Layers over the parts of a tree, each its own."""

from __future__ import annotations

import jax

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
from fnn._core.types import Array, Cotangent, Input, Key, Output, Params, Residuals, State
from fnn.combinators._parts import branching, fold, parts_of
from fnn.layer import Layer


@constructor
def over_parts(*layers: Layer, **named: Layer) -> Layer:
    """Layers over parts: each acts on its own part of a tuple, or of a dict.

    It is `fnn.parallel` for inputs that are apart already: the two images of a siamese network
    (with `fnn.shared`), a model of several inputs, or heads that go on. Layer `i` draws its
    randomness from ``jax.random.fold_in(key, i)``.

    Forward:   y_i = f_i(x_i)
    Backward:  dx_i = J_i^T dy_i

    Args:
        layers: one for each part of a tuple, one or more; `fnn.identity` passes a part on.
        named: the same by name, for the parts of a dict.
    Shapes:    x and y are tuples, or dicts, of one part for each layer
    Saves:     what each layer saves
    Raises:    InputError when positional and named layers are mixed, or something is no layer, and
        when x has other parts.

    >>> import fnn, jax.numpy as jnp
    >>> x = jnp.array([-1.0, 2.0])
    >>> over_parts(fnn.relu(), fnn.identity()).apply(((), ()), ((), ()), (x, x))[0]
    (Array([0., 2.], dtype=float32), Array([-1.,  2.], dtype=float32))
    """
    parts, pack = parts_of(layers, named)

    def check_parts(x: Input) -> None:
        wanted = f"a dict of {', '.join(named)}" if named else f"a tuple of {len(layers)}"
        fits = isinstance(x, dict) and set(x) == set(named) if named else type(x) is tuple
        if not fits or len(x) != len(parts):
            got = f"a dict of {', '.join(map(str, x))}" if isinstance(x, dict) else describe(x)
            raise InputError(f"x to be {wanted}", got, "give one part to each layer")

    def init(key: Array, x: Input, /) -> tuple[Params, State]:
        check_parts(x)
        key = check.key(key)
        pairs = [
            layer.init(jax.random.fold_in(key, i), x[name]) for i, (name, layer) in enumerate(parts)
        ]
        return pack(p for p, _ in pairs), pack(s for _, s in pairs)

    def apply(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        check_parts(x)
        results = [
            layer.apply(params[name], state[name], x[name], key=fold(key, i), train=train)
            for i, (name, layer) in enumerate(parts)
        ]
        return pack(y for y, _ in results), pack(s for _, s in results)

    def forward(
        params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        check_parts(x)
        results = [
            layer.forward(params[name], state[name], x[name], key=fold(key, i), train=train)
            for i, (name, layer) in enumerate(parts)
        ]
        return (
            pack(y for y, _, _ in results),
            pack(s for _, s, _ in results),
            pack(r for _, _, r in results),
        )

    def backward(
        params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        pairs = [layer.backward(params[name], residuals[name], dy[name]) for name, layer in parts]
        return pack(dparams for dparams, _ in pairs), pack(dx for _, dx in pairs)

    return branching(over_parts, layers, named, (init, apply, forward, backward))
