"""Layers over the parts of a tree, each its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from fnn._core import check
from fnn._core.description import constructor
from fnn._core.errors import InputError, describe
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
    of = _Parts(*parts_of(layers, named), named=bool(named))
    functions = of.init, of.apply, of.forward, of.backward
    return branching(over_parts, layers, named, functions, (of.prefill, of.decode))


class _Parts(NamedTuple):
    """The functions of layers, each over its own part."""

    layers: list[tuple[Any, Layer]]
    pack: Callable[[Iterable[Any]], PyTree]
    named: bool

    def check(self, x: Input) -> None:
        """Raise unless x has one part for each layer, and no others."""
        names = [name for name, _ in self.layers]
        wanted = f"a dict of {', '.join(names)}" if self.named else f"a tuple of {len(names)}"
        fits = isinstance(x, dict) and set(x) == set(names) if self.named else type(x) is tuple
        if not fits or len(x) != len(names):
            got = f"a dict of {', '.join(map(str, x))}" if isinstance(x, dict) else describe(x)
            raise InputError(f"x to be {wanted}", got, "give one part to each layer")

    def init(self, key: Array, x: Input, /) -> tuple[Params, State]:
        self.check(x)
        keys = (jax.random.fold_in(check.key(key), i) for i in range(len(self.layers)))
        pairs = [layer.init(k, x[name]) for (name, layer), k in zip(self.layers, keys, strict=True)]
        return self.pack(p for p, _ in pairs), self.pack(s for _, s in pairs)

    def apply(
        self, params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State]:
        self.check(x)
        results = [
            layer.apply(params[name], state[name], x[name], key=fold(key, i), train=train)
            for i, (name, layer) in enumerate(self.layers)
        ]
        return self.pack(y for y, _ in results), self.pack(s for _, s in results)

    def forward(
        self, params: Params, state: State, x: Input, /, *, key: Key = None, train: bool = False
    ) -> tuple[Output, State, Residuals]:
        self.check(x)
        results = [
            layer.forward(params[name], state[name], x[name], key=fold(key, i), train=train)
            for i, (name, layer) in enumerate(self.layers)
        ]
        y, state, residuals = (self.pack(part) for part in zip(*results, strict=True))
        return y, state, residuals

    def backward(
        self, params: Params, residuals: Residuals, dy: Cotangent, /
    ) -> tuple[Params, Cotangent]:
        pairs = [
            layer.backward(params[name], residuals[name], dy[name]) for name, layer in self.layers
        ]
        return self.pack(dparams for dparams, _ in pairs), self.pack(dx for _, dx in pairs)

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
        self.check(x)
        pairs = [
            layer.prefill(params[name], state[name], x[name], window=window, lengths=lengths)
            for name, layer in self.layers
        ]
        return self.pack(y for y, _ in pairs), self.pack(c for _, c in pairs)

    def decode(
        self, params: Params, state: State, cache: Cache, x: Input, position: Array, /
    ) -> tuple[Output, Cache]:
        self.check(x)
        # What was a memory is None: it was read with the prompt.
        pairs = [
            (None, cache[name])
            if x[name] is None
            else layer.decode(params[name], state[name], cache[name], x[name], position)
            for name, layer in self.layers
        ]
        return self.pack(y for y, _ in pairs), self.pack(c for _, c in pairs)
