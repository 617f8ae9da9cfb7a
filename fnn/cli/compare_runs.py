"""``python -m fnn compare-runs``: what tells runs apart, in their settings and in their results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fnn._core.errors import InputError
from fnn._core.table import table
from fnn._core.types import Unchecked
from fnn.cli.folder import RECORD

_WIDTH = 80


def read_record(folder: Path) -> dict[str, dict[str, Unchecked]]:
    """Return settings, data, results and versions, as a run wrote them into its folder.

    Args:
        folder: of the run.
    Raises:    InputError where there are none.
    """
    file = folder / RECORD
    try:
        record = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "no JSON"
        raise InputError(
            f"the {RECORD} of a run", f"{file} ({why})", "name the folder that a run wrote to"
        ) from error
    parts = ("settings", "data", "results", "versions")
    if not isinstance(record, dict) or any(not isinstance(record.get(p), dict) for p in parts):
        raise InputError(f"the {RECORD} of a run", f"{file} of other contents", "run it again")
    return {part: record[part] for part in parts}


def compare_runs(folders: Sequence[Path]) -> str:
    """Return a table of what differs between runs, and of how they ended.

    Args:
        folders: those of two runs or more.
    Raises:    InputError for fewer than two, and for a folder without a run.
    """
    if len(folders) < 2:
        raise InputError("two runs or more", str(len(folders)), "name their folders")
    records = [read_record(folder) for folder in folders]
    merged = [
        one["settings"]
        | {"sha256 of the data": one["data"].get("sha256")}
        | {f"version of {n}": v for n, v in one["versions"].items()}
        for one in records
    ]
    names = list(dict.fromkeys(name for one in merged for name in one))
    rows = [
        (name, *(_word(one.get(name)) for one in merged))
        for name in names
        if name != "output" and any(one.get(name) != merged[0].get(name) for one in merged)
    ]
    if not rows:
        rows = [("(all the same)", *("" for _ in records))]
    results = list(dict.fromkeys(name for one in records for name in one["results"]))
    ends = [(name, *(_word(one["results"].get(name)) for one in records)) for name in results]
    heads = [str(folder) for folder in folders]
    same = all(_outcome(one) == _outcome(records[0]) for one in records)
    last = "the results are the same, to the last digit" if same and results else ""
    parts = [
        table(("setting", *heads), rows, _WIDTH),
        table(("result", *heads), ends, _WIDTH),
        last,
    ]
    return "\n\n".join(part for part in parts if part)


def _outcome(record: dict[str, dict[str, Unchecked]]) -> dict[str, Unchecked]:
    """Return the results but for the time that they took."""
    return {name: value for name, value in record["results"].items() if name != "seconds"}


def _word(value: Unchecked) -> str:
    """Return a value as a cell of a table."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 30 else f"{text[:27]}..."
