"""Packages that fnn can do without."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, where: str, extra: str = "run") -> Any:
    """Import a package of an extra, or say what to install.

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
