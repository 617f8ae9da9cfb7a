"""Public names on their way out: they go on working, and say once what takes their place."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from fnn._core import check
from fnn._core.errors import InputError, describe, public_name

P = ParamSpec("P")
T = TypeVar("T")


def deprecated(since: str, instead: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Mark a public function that will be removed: its first call in a process warns.

    It stands above `fnn.constructor` and every other decorator, so that the warning points at the
    caller's line. One name warns once, from wherever it is called, also where a filter shows every
    warning: a training loop says it once and not at every step.

    Args:
        since: the version of fnn that warns first, as in ``"0.4"``.
        instead: what to use in its place, as one would write it, or what to do.
    Raises:    InputError for a `since` that is no version, and for an `instead` that is no text.

    >>> @deprecated("0.4", "fnn.relu")
    ... def rectifier():
    ...     return "max(x, 0)"
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     rectifier(), rectifier()
    ('max(x, 0)', 'max(x, 0)')
    >>> [str(one.message) for one in caught]
    ['fnn.rectifier is deprecated since fnn 0.4 and will be removed; use fnn.relu']
    """
    check.text(since, "since")
    check.text(instead, "instead")
    if not re.fullmatch(r"\d+(\.\d+)+", since):
        raise InputError("a version such as '0.4' as since", describe(since), "name one")

    return functools.partial(_marked, since=since, instead=instead)


def _marked(function: Callable[P, T], since: str, instead: str) -> Callable[P, T]:
    name = public_name(function)
    words = f"{name} is deprecated since fnn {since} and will be removed; use {instead}"
    has_warned = False

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        nonlocal has_warned
        if not has_warned:
            # First, since a filter may make an error of the warning.
            has_warned = True
            warnings.warn(words, DeprecationWarning, stacklevel=2)
        return function(*args, **kwargs)

    return call
