"""Values that remember the call that made them.

A layer, a loss and an update rule are tuples of functions, and functions have no useful print-out
and compare by identity. Remembering the call gives all three: ``dense(10)`` prints as
``dense(10)``; two of them are equal and hash alike, so that `jax.jit` takes them as static
arguments and a second training run finds the program of the first; and a model can be taken apart
and put together again, layer by layer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Origin:
    """The call ``make(*args, **kwargs)``."""

    make: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def __repr__(self) -> str:
        words = [_show(value) for value in self.args]
        words += [f"{name}={_show(value)}" for name, value in self.kwargs.items()]
        name = self.make.__name__
        line = f"{name}({', '.join(words)})"
        if len(line) <= 80 and "\n" not in line:
            return line
        body = ",\n".join(words).replace("\n", "\n  ")
        return f"{name}(\n  {body},\n)"

    def identity(self) -> Hashable:
        """Return what two equal calls share: the maker and its arguments, arrays by value."""
        return (
            self.make,
            tuple(_key(value) for value in self.args),
            tuple((name, _key(value)) for name, value in self.kwargs.items()),
        )


class Made:
    """Mixin for what is made of functions: print, compare and hash by the call that made it."""

    origin: Origin | None = None

    def __repr__(self) -> str:
        return super().__repr__() if self.origin is None else repr(self.origin)

    def __eq__(self, other: object) -> bool:
        if self.origin is None or not isinstance(other, Made) or other.origin is None:
            return self is other
        return self.origin.identity() == other.origin.identity()

    def __hash__(self) -> int:
        return id(self) if self.origin is None else hash(self.origin.identity())


P = ParamSpec("P")
T = TypeVar("T", bound=Made)


def constructor(make: Callable[P, T]) -> Callable[P, T]:
    """Let what `make` returns remember how it was made.

    >>> import fnn
    >>> @fnn.constructor
    ... def double():
    ...     return fnn.stateless(
    ...         lambda key, x: (), lambda p, x: (2 * x, ()), lambda p, r, dy: ((), 2 * dy)
    ...     )
    >>> double()
    double()
    >>> double() == double()
    True
    """

    @functools.wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        made = make(*args, **kwargs)
        made.origin = Origin(call, args, kwargs)
        return made

    return call


def _show(value: Any) -> str:
    if isinstance(value, Made) or not callable(value):
        if hasattr(value, "shape") and hasattr(value, "dtype") and getattr(value, "size", 1) > 1:
            return f"<{value.dtype} of shape {tuple(value.shape)}>"
        return repr(value)
    # A function made by another, as jax.nn.initializers are, is best known by its maker's name.
    return str(getattr(value, "__qualname__", repr(value))).partition(".<locals>")[0]


def _key(value: Any) -> Hashable:
    if isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer):
        data = (
            jax.random.key_data(value)
            if jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
            else value
        )
        return (str(value.dtype), value.shape, np.asarray(data).tobytes())
    if isinstance(value, Mapping):
        return (type(value), *((name, _key(part)) for name, part in value.items()))
    if type(value) in (list, tuple):
        return (type(value), *(_key(part) for part in value))
    try:
        hash(value)
    except TypeError:
        return ("by identity", id(value))
    # The type keeps 1, 1.0 and True apart, which compile to different programs.
    return (type(value), value)
