"""Pictures in the output of a notebook's cell."""

from __future__ import annotations

import importlib
import io
import sys
from typing import TYPE_CHECKING

from fnn._core.types import Unchecked

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def in_a_kernel() -> bool:
    """Say whether a notebook shows what is displayed: a terminal cannot show pictures."""
    module: Unchecked = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return getattr(shell, "kernel", None) is not None


def image_of(figure: Figure, words: str) -> Unchecked:
    """Return a figure as a notebook displays it.

    Args:
        figure: any of matplotlib.
        words: what is read to those who cannot see it.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, format="png")
    return importlib.import_module("IPython.display").Image(data=buffer.getvalue(), alt=words)
