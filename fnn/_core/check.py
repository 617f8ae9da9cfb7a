"""Checks of input, as a vocabulary: each raises `InputError`, and names neither function nor layer.

The function that a user called is named by `fnn._core.errors.naming`, the layer by its combinator.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Integral
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fnn._core.errors import InputError, describe, unnamed
from fnn._core.keys import is_key
from fnn._core.types import Array, PyTree, Unchecked

T = TypeVar("T")


def count(value: Unchecked, name: str, least: int = 1, remedy: str = "") -> None:
    """Raise unless a value is an integer of `least` or more; a numpy integer is one, True is not.

    >>> count(3, "width")
    >>> count(2.0, "width")
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn: expected width of 1 or more, got 2.0; pass an int of 1 or more

    No array of JAX is longer than 2**31 - 1, and no loop counts further.
    """
    if not is_count(value, least):
        if isinstance(value, Integral) and int(value) >= 2**31:
            raise InputError(f"{name} below 2**31", describe(value), "pass a smaller int")
        remedy = remedy or f"pass an int of {least} or more"
        raise InputError(f"{name} of {least} or more", describe(value), remedy)


def is_count(value: Unchecked, least: int) -> bool:
    """Say whether a value is an integer of `least` or more, and of 32 bits.

    >>> is_count(3, 1), is_count(0, 1), is_count(True, 0), is_count(2.0, 1), is_count(2**31, 1)
    (True, False, False, False, False)
    """
    known = isinstance(value, Integral) and not isinstance(value, bool)
    return known and least <= int(value) < 2**31


def axis(value: Unchecked) -> None:
    """Raise unless a value is an integer: the axis of an array that is not known yet.

    >>> axis(-1)
    >>> axis("last")
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn: expected axis to be an int, got 'last'; name an axis of x
    """
    if not is_count(value, -(2**31)):
        raise InputError("axis to be an int", describe(value), "name an axis of x")


def flag(value: Unchecked, name: str, remedy: str = "pass one of them") -> None:
    """Raise unless a value is True or False.

    >>> flag(True, "causal")
    """
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} of True or False", describe(value), remedy)


def text(value: Unchecked, name: str, remedy: str = "pass a text") -> None:
    """Raise unless a value is a text.

    >>> text("loss", "metric")
    >>> text(3, "metric")
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn: expected metric of text, got 3; pass a text
    """
    if not isinstance(value, str):
        raise InputError(f"{name} of text", describe(value), remedy)


def one_of(
    value: Unchecked, name: str, known: Iterable[str], remedy: str = "pass one of them"
) -> None:
    """Raise unless a value is one of some names.

    >>> one_of("tanh", "activation", ("tanh", "relu"))
    """
    names = tuple(known)
    if not isinstance(value, str) or value not in names:
        raise InputError(f"{name} of {', '.join(map(repr, names))}", describe(value), remedy)


def function(
    value: Unchecked,
    name: str,
    remedy: str = "pass it uncalled, as in jnp.sin",
    *,
    takes: str = "",
) -> None:
    """Raise unless a value is a function and, as far as that is known, takes some arguments.

    Args:
        value: what may be one.
        name: what it is called.
        remedy: what to do.
        takes: its arguments as a signature names them, ``"params, x, *, key"``; those before the
            star are given by position.

    >>> function(len, "activation")
    >>> function(lambda x: x, "init", takes="key, x")
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn: expected init to be a function of (key, x), got one of (x); \
    pass it uncalled, as in jnp.sin
    """
    if not callable(value):
        raise InputError(f"{name} to be a function", describe(value), remedy)
    positional, _, keywords = takes.partition("*, ")
    places = tuple(filter(None, positional.split(", ")))
    names = dict.fromkeys(filter(None, keywords.split(", ")))
    value = unnamed(value)
    if not takes or _plainly_takes(value, len(places), names):
        return
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError) as error:  # Functions written in C may not tell.
        if isinstance(value, type):
            raise InputError(
                f"{name} to be a function of ({takes})", describe(value), remedy
            ) from error
        return
    try:
        signature.bind(*places, **names)
    except TypeError as error:
        given = f"one of ({', '.join(signature.parameters)})"
        raise InputError(f"{name} to be a function of ({takes})", given, remedy) from error


def _plainly_takes(value: Unchecked, places: int, names: Iterable[str]) -> bool:
    """Say whether a function takes such arguments, as most do: `inspect` is slow."""
    if not isinstance(value, types.FunctionType) or hasattr(value, "__wrapped__"):
        return False
    code = value.__code__
    by_name = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    least = code.co_argcount - len(value.__defaults__ or ())
    required = set(by_name) - set(value.__kwdefaults__ or ())
    return least <= places <= code.co_argcount and required <= set(names) <= set(by_name)


def several(
    value: Unchecked, name: str, remedy: str = "pass a list or a tuple"
) -> Iterator[Unchecked]:
    """Return an iterator over the members of a value, or raise unless it has some kind of these.

    A text is one, and an array of no axes has none, though its class could have.

    >>> list(several((1, 2), "sizes"))
    [1, 2]
    >>> several(jnp.ones(()), "sizes")
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn: expected sizes, several of them, got float32 of shape (); \
    pass a list or a tuple
    """
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return iter(value)
    except TypeError as error:
        raise InputError(f"{name}, several of them", describe(value), remedy) from error


def floating(x: Unchecked, name: str = "x") -> None:
    """Raise unless a value is an array of floating-point numbers.

    >>> floating(jnp.ones(3))
    """
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
        remedy = "convert it first, as in jnp.asarray(x, 'float32') / 255 for images"
        if isinstance(x, Mapping | tuple):
            remedy = (
                "pick one of its arrays, or give each a loss by fnn.losses.weighted_sum, "
                "a layer by fnn.over_parts"
            )
        raise InputError(f"{name} of a floating dtype", describe(x), remedy)


def shape(
    x: Unchecked,
    pattern: str,
    name: str = "x",
    remedy: str = "reshape it, or initialize the layer for this shape",
    **sizes: int,
) -> None:
    """Raise unless an array has the shape of a pattern: letters for axes, ``...`` for any number.

    Args:
        x: the array.
        pattern: ``"B ... C"``, or ``"... I"``.
        name: what the array is called.
        remedy: what to do.
        sizes: how long an axis is, by its letter; others have any length.

    >>> shape(jnp.ones((2, 3, 4)), "B ... C", C=4)
    >>> shape(jnp.ones((3, 5)), "... I", I=4)
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn: expected x of shape (..., 4), got (3, 5); reshape it, or \
    initialize the layer for this shape

    """
    axes = pattern.split()
    got = tuple(getattr(x, "shape", ()))
    fixed = [axis for axis in axes if axis != "..."]
    fits = len(got) >= len(fixed) if "..." in axes else len(got) == len(fixed)
    if fits:
        before = axes.index("...") if "..." in axes else len(axes)
        found = (*got[:before], *(got[before - len(fixed) :] if before < len(fixed) else ()))
        fits = all(sizes.get(axis, n) == n for axis, n in zip(fixed, found, strict=True))
    if not fits:
        words = [str(sizes.get(axis, axis)) for axis in axes]
        inside = f"{words[0]}," if len(words) == 1 else ", ".join(words)
        raise InputError(f"{name} of shape ({inside})", str(got), remedy)


def same_shape(x: PyTree, y: PyTree, remedy: str = "make the widths equal") -> None:
    """Raise unless two trees of arrays have the same structure and shapes.

    >>> same_shape(jnp.ones(3), jnp.zeros(3))
    """
    structures: list[Unchecked] = [jax.tree.structure(tree) for tree in (x, y)]
    if structures[0] != structures[1] or any(
        a.shape != b.shape for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    ):
        shapes = [str(jax.tree.map(lambda a: tuple(a.shape), tree)) for tree in (x, y)]
        raise InputError(f"shapes {shapes[0]} in and out", shapes[1], remedy)


def values(
    array: Unchecked,
    wrong: Callable[[Unchecked], Unchecked],
    expected: str,
    remedy: str,
    name: str = "target",
) -> None:
    """Raise for the first wrong one of some values, where they are known: not so under jit.

    >>> values(jnp.array([0.5]), lambda t: t < 0, "targets of 0 or more", "clip them")
    """
    if isinstance(array, jax.core.Tracer | jax.ShapeDtypeStruct):
        return
    known = np.atleast_1d(np.asarray(array))
    found = np.argwhere(wrong(known))
    if len(found):
        position = ", ".join(map(str, found[0]))
        raise InputError(expected, f"{known[tuple(found[0])]} at {name}[{position}]", remedy)


def key(value: Unchecked) -> Array:
    """Return a key, or raise unless it is one key of `jax.random`, of the new or the old style.

    >>> key(jax.random.key(0)).shape
    ()
    >>> key(jax.random.split(jax.random.key(0)))
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn: expected one key, got 2 keys, of shape (2,); pass one of \
    them, or map over them with jax.vmap
    """
    dtype, shape = getattr(value, "dtype", None), tuple(getattr(value, "shape", ()))
    typed = is_key(value)
    # The old style is the data of a key: 2 words of threefry, or 4 of other generators.
    if not typed and not (dtype == jnp.uint32 and shape and shape[-1] in (2, 4)):
        raise InputError("a key", describe(value), "make one from a seed with jax.random.key(0)")
    batch = shape if typed else shape[:-1]
    if batch:
        raise InputError(
            "one key",
            f"{math.prod(batch)} keys, of shape {batch}",
            "pass one of them, or map over them with jax.vmap",
        )
    found: Array = value
    return found


def number(
    value: Unchecked,
    name: str,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
    remedy: str = "pass one number in that range",
) -> None:
    """Raise unless a value is one finite real number in a range, in Python, NumPy or JAX.

    The value counts, in the precision that JAX computes in: 1e300 is infinite in float32, and
    1 - 1e-12 is 1. Of a traced one only the shape and the dtype are known.

    >>> number(np.float32(0.5), "momentum", least=0, below=1)
    >>> number(1.5, "momentum", least=0, below=1)
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn: expected momentum in [0, 1), got 1.5; pass one number in \
    that range
    """
    known = None
    if _is_real_scalar(value):
        if isinstance(value, jax.core.Tracer):
            return
        known = _in_precision(value)
        if math.isfinite(known) and least <= known <= most and above < known < below:
            return
        value = value if type(value) in (int, float) else f"{known:g}"
    got = value if isinstance(value, str) and known is not None else describe(value)
    raise InputError(f"{name} {_range(least, above, most, below)}", got, remedy)


def hyperparameter(
    value: Unchecked,
    name: str,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
    remedy: str = "pass one number in that range, or a schedule of such numbers",
) -> None:
    """Raise unless a value is a number in a range, or a schedule whose first values are.

    A schedule is any function of the step; it is evaluated at steps 0, 1 and 2, unless something
    around it is being traced.

    >>> hyperparameter(lambda step: jnp.where(step < 2, 0.1, 0.01), "learning_rate", least=0)
    >>> hyperparameter(lambda step: jnp.where(step < 2, 0.1, -0.1), "learning_rate", least=0)
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn: expected learning_rate of 0 or more, got -0.1 at step 2; \
    pass one number in that range, or a schedule of such numbers
    """
    bounds: dict[str, Unchecked] = {"least": least, "above": above, "most": most, "below": below}
    bounds["remedy"] = remedy
    if not callable(value):
        number(value, name, **bounds)
        return
    for step in map(jnp.int32, range(3)):
        if isinstance(step, jax.core.Tracer):
            return
        try:
            known = value(step)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"{name} from a schedule, a function of the step",
                f"{type(error).__name__} at step {step}",
                "make it a function that JAX can trace, of one integer to one number",
            ) from error
        try:
            number(known, name, **bounds)
        except InputError as error:
            expected, got, _ = error.args
            raise InputError(expected, f"{got} at step {step}", remedy) from None


def _in_precision(value: Unchecked) -> float:
    """Return a number as it is in the dtype that JAX gives to Python's numbers."""
    with np.errstate(over="ignore", under="ignore"):
        try:
            return float(np.asarray(value).astype(jnp.result_type(float)))
        except OverflowError:
            return math.inf


def _is_real_scalar(value: Unchecked) -> bool:
    if isinstance(value, bool | np.bool_) or getattr(value, "shape", ()) != ():
        return False
    if np.ma.is_masked(value):  # what is not there is no number
        return False
    if isinstance(value, int | float):
        return True
    return isinstance(value, np.generic | np.ndarray | jax.Array) and any(
        jnp.issubdtype(value.dtype, kind) for kind in (jnp.floating, jnp.integer)
    )


def is_zero(value: Unchecked) -> bool:
    """Say whether a coefficient is a plain 0, which leaves its term out of the program.

    >>> is_zero(0.0), is_zero(0.1), is_zero(jnp.zeros(()))
    (True, False, False)
    """
    return isinstance(value, int | float) and value == 0


def _range(least: float, above: float, most: float, below: float) -> str:
    if (least, above, most, below) == (-math.inf, -math.inf, math.inf, math.inf):
        return "of one finite number"
    if math.inf in (most, below) and most == below:
        return f"above {above:g}" if above > -math.inf else f"of {least:g} or more"
    low = f"({above:g}" if above > -math.inf else f"[{least:g}"
    return f"in {low}, {most:g}]" if most < math.inf else f"in {low}, {below:g})"


def returned(value: T, parts: str, function: str) -> T:
    """Return what a user's function returned; raise unless it is a tuple of the parts it should be.

    Args:
        value: what it returned.
        parts: the names of the parts, such as ``"y, residuals"``.
        function: what the function is called.

    >>> returned((1, 2), "y, residuals", "forward")
    (1, 2)
    >>> returned(1, "y, residuals", "forward")
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn: expected (y, residuals) of forward, got 1; return these, in \
    this order
    """
    if not isinstance(value, tuple | list) or len(value) != parts.count(",") + 1:
        raise InputError(f"({parts}) of {function}", describe(value), "return these, in this order")
    return value
