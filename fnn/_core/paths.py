"""Values by paths and patterns over them: which of them one path means."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

T = TypeVar("T")
D = TypeVar("D")


def matches(path: str, pattern: str) -> bool:
    """Say whether a path is a pattern, or is matched by it as a file name is.

    >>> matches("out/weight", "*/weight"), matches("a[0]", "a[0]"), matches("out/bias", "out")
    (True, True, False)
    """
    return path == pattern or fnmatchcase(path, pattern)


def value_at(path: str, values: Mapping[str, T], default: D) -> T | D:
    """Return the value of a path: its own before that of any pattern, of these the first match's.

    The path says more of it than any pattern, wherever it stands in the mapping.

    Args:
        path: names with slashes between them.
        values: by paths and patterns over them.
        default: where none matches.

    >>> rates = {"*": 1, "*/bias": 2, "out/bias": 3}
    >>> value_at("out/bias", rates, 0), value_at("in/bias", rates, 0), value_at("x", {"y": 1}, 0)
    (3, 1, 0)
    """
    if path in values:
        return values[path]
    found = (value for pattern, value in values.items() if matches(path, pattern))
    return next(found, default)
