"""What all pictures share: the palette, the figure, the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fnn._core.atomic_write import atomic_write
from fnn._core.errors import entry
from fnn._core.extras import require

# Okabe and Ito's colors, told apart by color-blind eyes.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"


@entry
def save(figure: Any, file: Path | str) -> None:
    """Write a figure as PNG; the file appears once it is whole."""
    with atomic_write(file) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def new_figure(width: float, height: float) -> Any:
    figure = require("matplotlib.figure", "plot").Figure((width, height), layout="constrained")
    require("matplotlib.backends.backend_agg", "plot").FigureCanvasAgg(figure)
    return figure
