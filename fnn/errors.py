"""One form for every complaint: expected, got, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import jax
import numpy as np


class InputError(ValueError):
    """Input that breaks a contract: says who found it, what was expected, what came, the remedy.

    Inside a model the message ends with the path of the layer, the same path that its parameters
    have: ``(at layer 'hidden/0')``.
    """

    def __init__(self, where: str, expected: str, got: str, remedy: str):
        super().__init__(where, expected, got, remedy)
        self.path: tuple[str, ...] = ()

    def __str__(self) -> str:
        where, expected, got, remedy = self.args
        path = "/".join(name for name in self.path if name)
        location = f" (at layer '{path}')" if path else ""
        return f"fnn.{where}: expected {expected}, got {got}; {remedy}{location}"


@contextmanager
def at(name: str) -> Iterator[None]:
    """Run one child of a combinator: an error inside learns the child's name on its way out."""
    try:
        with jax.named_scope(name or "layer"):
            yield
    except InputError as error:
        error.path = (name, *error.path)
        raise


def is_count(value: Any, least: int) -> bool:
    """Say whether a value is an integer of `least` or more; a numpy integer is one, True is not.

    >>> is_count(3, 1), is_count(0, 1), is_count(True, 0), is_count(2.0, 1)
    (True, False, False, False)
    """
    if isinstance(value, bool):
        return False
    return isinstance(value, Integral) and int(value) >= least


def describe(value: Any) -> str:
    """Say what an argument is, in the words of an error message.

    >>> import numpy as np
    >>> describe(np.zeros((3, 5), "uint8")), describe(0.5), describe("tanh")
    ('uint8 of shape (3, 5)', '0.5', "'tanh'")
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:50]}..."


def check_values(
    where: str,
    values: Any,
    wrong: Callable[[Any], Any],
    expected: str,
    remedy: str,
    name: str = "target",
) -> None:
    """Raise for the first wrong one of some values, where they are known: not so under jit."""
    if isinstance(values, jax.core.Tracer | jax.ShapeDtypeStruct):
        return
    known = np.atleast_1d(np.asarray(values))
    found = np.argwhere(wrong(known))
    if len(found):
        place = ", ".join(map(str, found[0]))
        raise InputError(where, expected, f"{known[tuple(found[0])]} at {name}[{place}]", remedy)


def check_key(where: str, key: Any) -> jax.Array:
    """Return a key, or raise `InputError` unless it is one of `jax.random`."""
    dtype: Any = getattr(key, "dtype", None)
    if dtype is None or not (
        jax.numpy.issubdtype(dtype, jax.dtypes.prng_key) or dtype == jax.numpy.uint32
    ):
        raise InputError(
            where, "a key", describe(key), "make one from a seed with jax.random.key(0)"
        )
    return key
