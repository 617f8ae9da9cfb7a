"""Descriptions: what a layer, a loss, an optimizer, a schedule is made of.

Such a thing is a record of functions, and functions have no useful print-out and compare by
identity. `constructor` writes down the call beside them, ``dense(10)``, and everything else reads
it there:

- It prints as the call.
- It is equal to another only where that is certain: made by a constructor of fnn with equal
  arguments. So `jax.jit` finds the program of an earlier one, and never that of one that differs: a
  constructor or a function of the user's may read a variable that has changed since.
- `split` takes the run-time hyper-parameters out of it, and `Structure.build` makes it again of
  others: one compiled program serves them all.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, ParamSpec, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.errors import InputError, describe, named, naming, public_name
from fnn._core.keys import is_key, words_of

# Packages whose functions read nothing that changes: equal ones do the same.
_TRUSTED = {"builtins", "fnn", "jax", "jaxlib", "numpy"}


class RunTime(typing.NamedTuple):
    """Marks a parameter of a constructor whose numbers are inputs of the compiled program.

    ``Annotated[float, RunTime()]``; with `unless_zero` a plain 0 is no input: it leaves a part of
    the program out.
    """

    unless_zero: bool = False


class AtInit(typing.NamedTuple):
    """Marks a parameter of a constructor that `init` alone reads, as all initializers are.

    ``Annotated[float, AtInit()]``. No program of a step depends on it.
    """


Mark: typing.TypeAlias = RunTime | AtInit | None


class Call:
    """The call ``make(*args, **kwargs)``, and what makes it equal to another."""

    __slots__ = ("_hash", "args", "identity", "kwargs", "make")

    def __init__(self, make: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.make, self.args, self.kwargs = make, args, types.MappingProxyType(kwargs)
        parts = [_identity(value) for value in (*args, *kwargs.values())]
        certain = _is_built_in(make) and None not in parts
        # A call that may differ from one that looks the same is equal to itself alone.
        self.identity: Hashable = (make, len(args), *kwargs, *parts) if certain else object()
        self._hash = hash(self.identity)

    @property
    def name(self) -> str:
        """The name of the constructor."""
        return self.make.__name__

    @property
    def public_name(self) -> str:
        """The name that users call the constructor by."""
        return public_name(self.make)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments by the names of the constructor's parameters, defaults included."""
        bound = inspect.signature(self.make).bind(*self.args, **self.kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and self.identity == other.identity

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        words = [_show(value) for value in self.args]
        words += [f"{name}={_show(value)}" for name, value in self.kwargs.items()]
        line = f"{self.name}({', '.join(words)})"
        if len(line) <= 80 and "\n" not in line:
            return line
        body = ",\n".join(words).replace("\n", "\n  ")
        return f"{self.name}(\n  {body},\n)"


@dataclass(frozen=True, eq=False, repr=False)
class Described:
    """Base of immutable records made by a `constructor`: they print, compare and hash by `call`.

    A record by hand has no call, and is equal to itself alone.
    """

    # The fields that are functions: their errors bear the name of the constructor.
    functions: ClassVar[tuple[str, ...]] = ()
    _: KW_ONLY
    call: Call | None = None

    def made_by(self, call: Call) -> Self:
        """Return the same record with the call that made it, whose name its errors bear."""
        here = {name: getattr(self, name) for name in self.functions}
        renamed: dict[str, Any] = {
            name: named(call.public_name, function)
            for name, function in here.items()
            if function is not None
        }
        return dataclasses.replace(self, call=call, **renamed)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the call: functions made inside of others have no name to be found by."""
        if self.call is None:
            raise InputError(
                f"a {type(self).__name__} that a constructor made",
                describe(self),
                "mark the function that makes it with fnn.constructor, at the top of a module",
            )
        saved = [_pack(value) for value in (self.call.args, dict(self.call.kwargs))]
        return _remake, (self.call.make, *saved)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        del memo
        return self

    def __repr__(self) -> str:
        return object.__repr__(self) if self.call is None else repr(self.call)

    def __eq__(self, other: object) -> bool:
        if self is other or self.call is None:
            return self is other
        return isinstance(other, Described) and self.call == other.call

    def __hash__(self) -> int:
        return id(self) if self.call is None else hash(self.call)


class _PackedKey(typing.NamedTuple):
    """A key of `jax.random` as its words and the name of its generator, which pickle."""

    words: np.ndarray[Any, Any]
    generator: str


def _pack(value: Any) -> Any:
    if isinstance(value, jax.Array) and is_key(value):
        words = np.asarray(words_of(value))
        return _PackedKey(words, str(jax.random.key_impl(value)))
    return _map_parts(_pack, value)


def _unpack(value: Any) -> Any:
    if isinstance(value, _PackedKey):
        return jax.random.wrap_key_data(jnp.asarray(value.words), impl=value.generator)
    return _map_parts(_unpack, value)


def _map_parts(function: Callable[[Any], Any], value: Any) -> Any:
    if type(value) is dict:
        return {name: function(part) for name, part in value.items()}
    return type(value)(map(function, value)) if type(value) in (list, tuple) else value


def _remake(make: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return make(*_unpack(args), **_unpack(kwargs))


def _in_python(value: Any) -> Any:
    """Return arguments with Python's numbers for NumPy's.

    In those of 8 bits 2 times 200 may be 144, and in those of 16 bits 2^16 is infinite.
    """
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.generic) and jnp.issubdtype(value.dtype, jnp.floating):
        return float(value)
    return _map_parts(_in_python, value)


P = ParamSpec("P")
T = TypeVar("T", bound=Described)


def constructor(make: Callable[P, T]) -> Callable[P, T]:
    """Write down the call on what `make` returns: a layer, a loss, an optimizer, a schedule.

    Errors inside name the constructor. It is given Python's numbers for NumPy's. What a
    constructor outside of fnn makes is equal to itself alone.

    Args:
        make: the function that makes it, at the top of a module if it is to be pickled.
    Raises:    InputError for what is no function of a name; and from what it returns, where `make`
        makes no record of fnn.

    >>> import fnn
    >>> @fnn.constructor
    ... def double():
    ...     return fnn.stateless(
    ...         lambda key, x: (), lambda p, x: (2 * x, ()), lambda p, r, dy: ((), 2 * dy)
    ...     )
    >>> double()
    double()
    >>> fnn.dense(3) == fnn.dense(3), double() == double()
    (True, False)
    """
    if not callable(make) or not hasattr(make, "__qualname__"):
        with naming("fnn.constructor"):
            raise InputError("make to be a function of a name", describe(make), "decorate a def")
    name = public_name(make)

    @functools.wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        args, kwargs = _in_python(args), _in_python(kwargs)
        with naming(name):
            made = make(*args, **kwargs)
            is_record = isinstance(made, Described)
            if not is_record:
                expected = "a layer, a loss, an optimizer or another record of fnn"
                raise InputError(expected, describe(made), "return what was made")
        return made.made_by(Call(call, args, kwargs))

    return call


class Structure:
    """What is left of a value when its run-time numbers are taken out: hashable, to build it again.

    `numbers` of the `split` that it comes from are given back to `build`, those or others.
    Structures that differ in what `init` alone reads are equal: where a program calls `init`, it is
    to be looked up by `at_init` too.
    """

    __slots__ = ("_hash", "_node", "at_init")

    def __init__(self, node: Hashable, at_init: tuple[Hashable, ...] = ()):
        self._node, self._hash, self.at_init = node, hash(node), at_init

    def build(self, numbers: Mapping[str, Any]) -> Any:
        """Make the value again, of numbers by their paths."""
        return _build(self._node, numbers, "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and self._node == other._node

    def __hash__(self) -> int:
        return self._hash


def split(**values: Any) -> tuple[Structure, dict[str, Any]]:
    """Take the run-time hyper-parameters out of described values, by their paths.

    >>> import fnn
    >>> optimizer = fnn.optim.chain(fnn.optim.clip_by_global_norm(1.0), fnn.optim.sgd(0.1))
    >>> structure, numbers = split(optimizer=optimizer)
    >>> numbers
    {'optimizer/0/max_norm': 1.0, 'optimizer/1/learning_rate': 0.1}
    >>> structure.build({**numbers, "optimizer/1/learning_rate": 0.5})["optimizer"]
    chain(clip_by_global_norm(1.0), sgd(0.5))
    """
    numbers: dict[str, Any] = {}
    node = _split(values, "", None, None, numbers)
    return Structure(node, tuple(_at_init(node))), numbers


class _Call(typing.NamedTuple):
    make: Callable[..., Any]
    positional: int
    names: tuple[str, ...]
    parts: tuple[Hashable, ...]


class _Tree(typing.NamedTuple):
    kind: type
    names: tuple[Any, ...]
    parts: tuple[Hashable, ...]


class _Number(typing.NamedTuple):
    """The place of a run-time number."""


class _Fixed:
    """A value that belongs to the program, compared by what makes it certain to be the same."""

    __slots__ = ("identity", "value")

    def __init__(self, identity: Hashable, value: Any):
        self.identity, self.value = identity, value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Fixed) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)


class _Start:
    """What `init` alone reads: as good as any other to every program that does not call it."""

    __slots__ = ("fixed",)

    def __init__(self, fixed: Hashable):
        self.fixed = fixed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Start)

    def __hash__(self) -> int:
        return hash(_Start)


def _at_init(node: Hashable) -> Iterator[Hashable]:
    """Yield all of a structure that `init` alone reads."""
    if isinstance(node, _Start):
        yield node.fixed
    elif isinstance(node, _Call | _Tree):
        for part in node.parts:
            yield from _at_init(part)


def _split(
    value: Any, path: str, mark: Mark, owner: Call | None, numbers: dict[str, Any]
) -> Hashable:
    """Return the structure of a value, and put its numbers into `numbers`.

    `mark` says whether numbers here are inputs, `owner` whose argument it is: one that may differ
    from its like is the same only in the same call, or where nothing made it, as the same object.
    """

    def below(name: Any, part: Any, mark: Mark, owner: Call | None) -> Hashable:
        return _split(part, f"{path}/{name}" if path else str(name), mark, owner, numbers)

    if isinstance(mark, AtInit):
        return _Start(_split(value, path, None, owner, numbers))
    call = value.call if isinstance(value, Described) else None
    if call is not None and _is_built_in(call.make):
        marks, names = _marked_parameters(call.make), _names(call)
        pairs = zip(names, (*call.args, *call.kwargs.values()), strict=True)
        parts = tuple(below(name, part, marks(name), call) for name, part in pairs)
        return _Call(call.make, len(call.args), tuple(call.kwargs), parts)
    if isinstance(value, Mapping) or type(value) in (list, tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        kind = dict if isinstance(value, Mapping) else type(value)
        named = {name: below(name, part, mark, owner) for name, part in items}
        return _Tree(kind, tuple(named), tuple(named.values()))
    if mark is not None and _is_number(value) and not (mark.unless_zero and _is_zero(value)):
        numbers[path] = value
        return _Number()
    identity = _identity(value)
    if identity is None:
        identity = id(value) if owner is None else (owner, path)
    return _Fixed(identity, value)


def _build(node: Any, numbers: Mapping[str, Any], path: str) -> Any:
    def below(name: Any, part: Hashable) -> Any:
        return _build(part, numbers, f"{path}/{name}" if path else str(name))

    if isinstance(node, _Number):
        return numbers[path]
    if isinstance(node, _Start):
        return _build(node.fixed, numbers, path)
    if isinstance(node, _Tree):
        parts = [below(name, part) for name, part in zip(node.names, node.parts, strict=True)]
        return dict(zip(node.names, parts, strict=True)) if node.kind is dict else node.kind(parts)
    if isinstance(node, _Call):
        names = _positional_names(node.make, node.positional) + node.names
        values = [below(name, part) for name, part in zip(names, node.parts, strict=True)]
        keywords = zip(node.names, values[node.positional :], strict=True)
        return node.make(*values[: node.positional], **dict(keywords))
    return node.value


def _names(call: Call) -> tuple[str, ...]:
    return _positional_names(call.make, len(call.args)) + tuple(call.kwargs)


@functools.cache
def _positional_names(make: Callable[..., Any], count: int) -> tuple[str, ...]:
    """Return what arguments given by their position are called: ``0, 1, ...`` after a ``*``."""
    names: list[str] = []
    for parameter in inspect.signature(make).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += map(str, range(count - len(names)))
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return tuple(names[:count])


@functools.cache
def _marked_parameters(make: Callable[..., Any]) -> Callable[[str], Mark]:
    """Return which parameters of a constructor are inputs of the program, or of `init` alone."""
    hints = typing.get_type_hints(inspect.unwrap(make), include_extras=True)
    marks = {name: _mark(hint) for name, hint in hints.items()}
    return marks.get


def _mark(hint: Any) -> Mark:
    """Return the mark in an annotation, wherever it stands: ``Mapping[str, Hyperparameter]``."""
    if hint is jax.nn.initializers.Initializer:
        return AtInit()
    for data in getattr(hint, "__metadata__", ()):
        if isinstance(data, RunTime | AtInit):
            return data
    found = (_mark(part) for part in typing.get_args(hint))
    return next((mark for mark in found if mark is not None), None)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | str) or value is None:
        return False
    return isinstance(value, int | float | np.number | np.ndarray | jax.Array)


def _is_zero(value: Any) -> bool:
    return isinstance(value, int | float) and value == 0


def _is_built_in(make: Callable[..., Any]) -> bool:
    """Say whether a constructor stands in a module of fnn: it reads nothing but its arguments."""
    name = make.__module__ or ""
    return name.startswith("fnn.") and vars(sys.modules[name]).get(make.__qualname__) is make


def _is_trusted(function: Any) -> bool:
    return str(getattr(function, "__module__", None)).partition(".")[0] in _TRUSTED


def _show(value: Any) -> str:
    if isinstance(value, Described) or not callable(value):
        if hasattr(value, "shape") and hasattr(value, "dtype") and getattr(value, "size", 1) > 1:
            return f"<{value.dtype} of shape {tuple(value.shape)}>"
        return repr(value)
    # A function made by another, as jax.nn.initializers are, is best known by its maker's name.
    return str(getattr(value, "__qualname__", repr(value))).partition(".<locals>")[0]


def _identity(value: Any) -> Hashable | None:
    """Return what a value shares with those that are certain to be the same; None for none."""
    if isinstance(value, jax.core.Tracer):
        return None
    if isinstance(value, jax.Array | np.ndarray):
        with jax.ensure_compile_time_eval():
            data = np.asarray(words_of(value))
        return (str(value.dtype), value.shape, data.tobytes())
    if isinstance(value, Mapping | list | tuple):
        names = tuple(value) if isinstance(value, Mapping) else ()
        inside = value.values() if isinstance(value, Mapping) else value
        parts = [_identity(part) for part in inside]
        return None if None in parts else (type(value), names, *parts)
    if isinstance(value, functools.partial):
        parts = [_identity(part) for part in (value.func, value.args, dict(value.keywords))]
        return None if None in parts else (functools.partial, *parts)
    if value is None:
        # Its hash is that of any object before Python 3.12.
        return (type(None), None)
    if isinstance(value, Described | type):
        return value
    if callable(value):
        return value if _is_trusted(value) else None
    hashed: Any = type(value).__hash__
    if hashed is None or hashed is object.__hash__:
        return None
    # The type keeps 1, 1.0 and True apart, which compile to different programs.
    return (type(value), value)
