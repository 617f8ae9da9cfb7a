"""Names of a package that are loaded when asked for: a script starts without what it does not use.

Type checkers read the same names from imports under ``if TYPE_CHECKING``, and nothing of the else.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def on_demand(
    package: str, names: Mapping[str, str], submodules: str = ""
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and the `__dir__` of a package that loads names when asked for them.

    `names` are the names that each module of the package holds, with spaces between them, and
    `submodules` the modules that are names of the package themselves. No name may be that of
    another module of the package: importing that module would put it in the name's place.

    >>> get, names = on_demand("fnn", {"layers.cell": "gru_cell lstm_cell"}, submodules="plot")
    >>> get("lstm_cell").__module__, get("plot").__name__
    ('fnn.layers.cell', 'fnn.plot')
    >>> {"lstm_cell", "plot", "__name__"} <= set(names())
    True
    """
    places = {name: module for module, held in names.items() for name in held.split()}
    modules = submodules.split()

    def get(name: str) -> Any:
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{places[name]}"), name)
        # Kept, so that asking costs no more the second time than for any other name.
        setattr(sys.modules[package], name, value)
        return value

    def names_of() -> list[str]:
        return sorted({*vars(sys.modules[package]), *places, *modules})

    return get, names_of
