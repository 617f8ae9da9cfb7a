"""One form for every complaint: who found it, what was expected, what came, and what to do."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

import jax
import numpy as np

# Rooms whose names are asked for as ``fnn.optim.sgd``; those of all others as ``fnn.dense``.
_NAMESPACES = ("losses", "optim", "landscapes", "datasets", "networks", "plot")
# Rooms of which the main names are asked for as ``fnn.fit``, all others as ``fnn.train.grid``.
_SHARED = ("train", "lab")


class InputError(ValueError):
    """Input that breaks a contract: says who found it, what was expected, what came, the remedy.

    It is raised with the last three; `naming` adds the function that the user called, and `at` the
    path of the layer, which is that of its parameters: ``(at layer 'hidden/0')``.
    """

    def __init__(self, expected: str, got: str, remedy: str):
        super().__init__(expected, got, remedy)
        self.where = ""
        self.path: tuple[str, ...] = ()

    def __str__(self) -> str:
        expected, got, remedy = self.args
        path = "/".join(name for name in self.path if name)
        location = f" (at layer '{path}')" if path else ""
        return f"{self.where or 'fnn'}: expected {expected}, got {got}; {remedy}{location}"


P = ParamSpec("P")
T = TypeVar("T")
# The functions that `named` returned.
_named: WeakSet[Callable[..., Any]] = WeakSet()


def public_name(function: Callable[..., Any]) -> str:
    """Return the name that users call a function by.

    >>> import fnn
    >>> public_name(fnn.dense), public_name(fnn.optim.sgd), public_name(fnn.optim.schedule.cosine)
    ('fnn.dense', 'fnn.optim.sgd', 'fnn.optim.schedule.cosine')
    >>> public_name(fnn.fit), public_name(fnn.train.grid)
    ('fnn.fit', 'fnn.train.grid')
    """
    # What `exec` made is of no module.
    package, *rooms = (function.__module__ or "__main__").split(".")
    *outer, name = function.__qualname__.split(".")
    if name == "__call__":
        name = outer[-1]
    if package != "fnn":
        return name
    # Names of the package itself, once it is loaded; before that nothing is asked for.
    main = getattr(sys.modules.get(package), "__all__", ())
    namespaces = _NAMESPACES if name in main else (*_NAMESPACES, *_SHARED)
    within = [room for room in rooms[:1] if room in namespaces]
    if within == ["train"]:
        within += [room for room in rooms if room in ("callbacks", "transforms")]
    if within == ["optim"]:
        within += [room for room in rooms if room in ("schedule", "distributions", "constraint")]
        within = within[:1] if name == "project" else within
    return ".".join([package, *within, name])


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Run a function that has a public name: an error inside that has none yet takes it."""
    try:
        yield
    except InputError as error:
        error.where = error.where or name
        raise


def named(name: str, function: Callable[P, T]) -> Callable[P, T]:
    """Return a function whose errors have a public name, in place of one given before."""
    inside = unnamed(function)

    @functools.wraps(inside)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with naming(name):
            return inside(*args, **kwargs)

    _named.add(call)
    return call


def unnamed(function: Callable[P, T]) -> Callable[P, T]:
    """Return the function that `named` was given.

    >>> unnamed(named("other", len)) is len
    True
    """
    inside: Callable[P, T] = function
    if isinstance(function, types.FunctionType):
        inside = inspect.unwrap(function, stop=lambda one: one not in _named)
    return inside


def entry(function: Callable[P, T]) -> Callable[P, T]:
    """Mark a function that users call: errors inside say its name.

    It is given Python's integers for NumPy's, in which 200 times 2 may be 144.

    >>> @entry
    ... def reader():
    ...     raise InputError("a file", "none", "name one")
    >>> reader()
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn.reader: expected a file, got none; name one
    """
    name = public_name(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        positional: Any = map(_python_int, args)
        by_name: Any = {word: _python_int(value) for word, value in kwargs.items()}
        with naming(name):
            return function(*positional, **by_name)

    _named.add(call)
    return call


def _python_int(value: Any) -> Any:
    return int(value) if isinstance(value, np.integer) else value


@contextmanager
def at(name: str) -> Iterator[None]:
    """Run one child of a combinator: an error inside learns the child's name on its way out."""
    try:
        with jax.named_scope(name or "layer"):
            yield
    except InputError as error:
        error.path = (name, *error.path)
        raise


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
