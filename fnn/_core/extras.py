"""Packages that fnn can do without."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, where: str, extra: str = "run") -> ModuleType:
    """Import a package of an extra, or say what to install.

    Args:
        module: what is imported, such as ``"matplotlib.figure"``.
        where: what needs it: a name behind ``fnn.``, as users call it, or a command.
        extra: the extra of fnn that brings it.
    Raises:    ImportError where it is not installed.

    >>> require("math", "fit").floor(2.5)
    2
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        caller = where if " " in where else f"fnn.{where}"
        raise ImportError(
            f"{caller}: expected the package {module.split('.')[0]}, got none installed; "
            f"install the extra with pip install 'fnn[{extra}]'"
        ) from error
