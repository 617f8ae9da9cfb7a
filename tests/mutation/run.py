"""Tests run again and again in one process, with one function after the other changed in it.

A fault is planted by giving functions that are there another code, in memory: nothing is imported
anew, and no file is written. What was traced or remembered before is forgotten first.
"""

from __future__ import annotations

import functools
import gc
import importlib
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import pytest
from _pytest.runner import runtestprotocol

Code = types.CodeType


class OutOfTime(BaseException):
    """A test has taken longer than it may."""


class Tests:
    """A plugin of pytest: tests collected once, and run by name for as long as `use` goes on."""

    __test__ = False

    def __init__(self, use: Callable[[Tests], None]) -> None:
        self.use = use
        self.items: dict[str, pytest.Item] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        self.use(self)
        return True

    def passes(self, name: str, seconds: float) -> bool:
        """Run a test; raise `OutOfTime` where it takes too long."""
        item: Any = self.items[name]
        item._initrequest()
        late = False

        def stop(number: int, frame: Any) -> None:
            nonlocal late
            late = True
            raise OutOfTime

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            reports = runtestprotocol(item, log=False, nextitem=None)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        if late:
            raise OutOfTime
        return not any(report.failed for report in reports)


def session(paths: Sequence[str], use: Callable[[Tests], None]) -> None:
    """Collect the tests of some paths, and hand them to `use`."""
    plain = ["-n", "0", "-p", "no:cacheprovider", "--no-header", "-q"]
    code = pytest.main([*plain, *paths], plugins=[Tests(use)])
    if code:
        raise SystemExit(f"pytest: {code}")


@contextmanager
def planted(path: str, source: str, changed: str) -> Iterator[int]:
    """Let a module of the package be that of another source; yield how many functions changed.

    Args:
        path: of its file, from the root.
        source: what the file holds.
        changed: the same with a fault in it.
    """
    name = path.removesuffix(".py").replace("/", ".")
    importlib.import_module(name)
    pairs = dict(_pairs(compile(source, path, "exec"), compile(changed, path, "exec")))
    swapped = []
    try:
        for function in gc.get_objects():
            if type(function) is types.FunctionType and function.__module__ == name:
                old = function.__code__
                new = pairs.get(old)
                if new is not None and new.co_freevars == old.co_freevars:
                    swapped.append((function, old))
                    function.__code__ = new
        forget()
        yield len(swapped)
    finally:
        for function, old in swapped:
            function.__code__ = old
        forget()


def _pairs(old: Code, new: Code) -> Iterator[tuple[Code, Code]]:
    """Yield the codes of a module that differ, each with the one in its place."""
    olds, news = ([c for c in code.co_consts if isinstance(c, Code)] for code in (old, new))
    for one, other in zip(olds, news, strict=False):
        if one != other:
            yield one, other
            yield from _pairs(one, other)


def forget() -> None:
    """Forget what was traced, compiled or remembered."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("fnn", "tests")):
            for value in list(vars(module).values()):
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()
    jax.clear_caches()


def seconds(start: float) -> float:
    """Return the seconds that this process has computed since a start."""
    return time.process_time() - start
