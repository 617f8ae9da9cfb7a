"""Names of a package that are loaded when asked for, read from the stub beside its ``__init__``.

A public name is registered once, in ``__init__.pyi``, where type checkers and editors read it; a
script starts without the modules that it does not use.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def attach_stub(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a package, as its stub lists its names.

    The stub holds imports alone: ``from fnn.layers.dense import dense as dense`` for a name, ``from
    fnn import losses as losses`` for a package.

    >>> get, names, listed = attach_stub("fnn")
    >>> get("lstm_cell").__module__, get("losses").__name__, "lstm_cell" in listed
    ('fnn.layers.recurrent.cell', 'fnn.losses', True)
    """
    module = sys.modules[package]
    stub = Path(str(module.__file__)).with_suffix(".pyi")
    places: dict[str, str] = {}
    for node in ast.parse(stub.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            places |= {alias.asname or alias.name: node.module for alias in node.names}
    listed = sorted(places)
    module.__class__ = type("LazyPackage", (_LazyPackage,), {"public": frozenset(places)})

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        place = importlib.import_module(places[name])
        full = f"{places[name]}.{name}"
        value = place.__dict__.get(name) or importlib.import_module(full)
        # Kept, so that asking costs no more the second time than for any other name.
        module.__dict__[name] = value
        return value

    def names() -> list[str]:
        return sorted({*module.__dict__, *listed})

    return get, names, listed


class _LazyPackage(ModuleType):
    """A package whose public names are not overwritten by the modules of the same name.

    Importing ``fnn.losses.ctc`` sets the attribute ``ctc`` of `fnn.losses` to the module; the name
    is that of the loss.
    """

    public: frozenset[str] = frozenset()

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in self.public and isinstance(value, ModuleType)):
            super().__setattr__(name, value)
