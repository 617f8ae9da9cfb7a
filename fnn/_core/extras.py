"""Packages that fnn can do without."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, where: str, extra: str = "run") -> ModuleType:
    """Import a package of an extra, or say what to install.

    Args:
        module: what is imported, such as ``"matplotlib.figure"``.
        where: the name of the function that needs it, as users call it after ``fnn.``.
        extra: the extra of fnn that brings it.
    Raises:    ImportError where it is not installed.

    >>> require("math", "fit").floor(2.5)
    2
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"fnn.{where}: expected the package {module.split('.')[0]}, got none installed; "
            f"install the extra with pip install 'fnn[{extra}]'"
        ) from error
