"""The folder for results: one run or one sweep is in it, and what of an earlier one gives way."""

from __future__ import annotations

import shutil
from pathlib import Path

from fnn._core.errors import InputError
from fnn.cli import checkpoints

WEIGHTS, METRICS, RECORD = "model.safetensors", "metrics.csv", "run.json"
CURVES, GRADIENTS, PREDICTIONS = "curves.png", "gradients.png", "predictions.png"
COMMAND, TABLE, PARTS = "sweep.json", "runs.csv", "parts"
COORDINATES, HEAT_MAP = "parallel_coordinates.png", "heat_map.png"
# Each begins with the file that says what there is.
_OF_RUN = (RECORD, WEIGHTS, METRICS, CURVES, GRADIENTS, PREDICTIONS)
_OF_SWEEP = (COMMAND, TABLE, CURVES, COORDINATES, HEAT_MAP)


def refuse_interrupted(folder: Path) -> None:
    """Raise where a run or a sweep was interrupted: another one would take its place.

    Args:
        folder: for the results of another one.
    """
    checkpoints.refuse_interrupted(folder)
    began = (folder / COMMAND).exists() and any((folder / PARTS).glob("*/epoch-*"))
    if began and not (folder / TABLE).exists():
        raise InputError(
            "a folder without an interrupted sweep",
            str(folder),
            "go on with it by the command that began it, name another --output, or remove"
            f" {folder / COMMAND}",
        )


def clear(folder: Path, keep: str = "") -> None:
    """Remove what an earlier run or sweep wrote, and nothing else.

    Args:
        folder: for the results of another one.
        keep: the file that is replaced in one move: without it what was kept is of no use.
    """
    for names in (_OF_RUN, _OF_SWEEP):
        if (folder / names[0]).exists():
            for name in names:
                if name != keep:
                    (folder / name).unlink(missing_ok=True)
            if COMMAND in names:
                shutil.rmtree(folder / PARTS, ignore_errors=True)
