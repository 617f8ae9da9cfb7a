"""``python -m fnn predict``: what the network of a run says of new rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fnn._core.atomic_write import atomic_write, check_file
from fnn._core.errors import InputError, unnamed
from fnn._core.types import Unchecked
from fnn.cli.data import is_number, read, read_rows
from fnn.cli.load_run import Run, load_run

_ENDINGS = (".csv", ".npz")


def predict(folder: Path, file: Path, out: Path | None = None) -> None:
    """Print what a finished run predicts for every row of a file, or write it into another.

    A row for a row, as CSV: the class and the score of each, or the values.

    Args:
        folder: of the run.
        file: ends in .csv, with a row for each input, or in .npz, with an array x. Where the run
            knows names of columns and the file has names, the columns are taken by these.
        out: the file to write; None for the standard output.
    Raises:    InputError where there is no run that has ended, a file that cannot be read or does
        not fit it, outputs that are no numbers, and where nothing can be written.
    """
    if out is not None:
        check_file(out)
        if out.resolve() == file.resolve():
            raise InputError("another file to write to", f"{out}, which is read", "name another")
    # Errors are to bear the name of the command.
    run = unnamed(load_run)(folder)
    x: Unchecked = read_inputs(file, run)
    outputs = np.asarray(unnamed(Run.predict)(run, x))
    if not np.isfinite(outputs).all():
        row = int(np.flatnonzero(~np.isfinite(outputs).all(1))[0]) + 1
        raise InputError("outputs that are numbers", f"others in row {row}", "train another run")
    text = as_csv(outputs, run.classes)
    if out is None:
        print(text, end="")
        return
    with atomic_write(out) as temporary:
        temporary.write_text(text, "utf-8")
    print(f"predictions for {len(outputs):,} rows written to {out}")


def read_inputs(file: Path, run: Run) -> np.ndarray:
    """Return the inputs in a file, (n, D) or (n, H, W), as they stand there.

    Args:
        file: as `predict` takes it.
        run: that they are for.
    Raises:    InputError for a file that cannot be read, columns that the run does not know, and
        what is no finite number.
    """
    if file.suffix not in _ENDINGS:
        raise InputError("rows in FILE.csv or FILE.npz", repr(str(file)), "pass one of these")
    x = read(file, _arrays if file.suffix == ".npz" else lambda file: _rows(file, run.columns))
    if x.dtype.kind not in "uif" or not np.isfinite(x).all():
        raise InputError("finite numbers", f"others in {file}", "mend it")
    return x


def as_csv(outputs: np.ndarray, classes: Sequence[str]) -> str:
    """Return outputs as CSV with a row of names.

    Args:
        outputs: (n, K).
        classes: the names of the classes, none where the outputs are values.

    >>> print(as_csv(np.array([[0.5, 2.0]], "float32"), ("cat", "dog")), end="")
    class,score of cat,score of dog
    dog,0.5,2.0
    >>> print(as_csv(np.array([[0.5]], "float32"), ()), end="")
    value
    0.5
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if classes:
        writer.writerow(["class", *(f"score of {name}" for name in classes)])
    else:
        several = outputs.shape[1] > 1
        writer.writerow([f"value {i + 1}" if several else "value" for i in range(outputs.shape[1])])
    for row in outputs:
        found = [classes[int(row.argmax())]] if classes else []
        writer.writerow([*found, *map(str, row)])
    return text.getvalue()


def _arrays(file: Path) -> np.ndarray:
    """Read the array x."""
    with file.open("rb") as opened, np.load(opened) as arrays:
        if "x" not in arrays:
            raise InputError("an array x", f"{', '.join(arrays) or 'none'}", f"mend {file}")
        x: np.ndarray = arrays["x"]
    return x


def _rows(file: Path, columns: Sequence[str]) -> np.ndarray:
    """Read rows of numbers; of a file with names those columns that the run has names of."""
    rows = read_rows(file)
    if rows and not all(map(is_number, rows[0])):
        names, rows = [name.strip() for name in rows[0]], rows[1:]
        if columns:
            rows = _by_name(names, rows, columns, file)
    if not rows:
        raise InputError("a row or more", "none", f"mend {file}")
    for number, row in enumerate(rows, 1):
        wrong = [word for word in row if not is_number(word)]
        if len(row) != len(rows[0]) or wrong:
            raise InputError(
                f"rows of {len(rows[0])} numbers",
                f"{repr(wrong[0]) if wrong else f'{len(row)} columns'} in row {number}",
                f"mend {file}",
            )
    return np.array([[float(word) for word in row] for row in rows])


def _by_name(
    names: list[str], rows: list[list[str]], columns: Sequence[str], file: Path
) -> list[list[str]]:
    """Return the columns of a run in its order, of rows that have all that are named."""
    for name in columns:
        if names.count(name) != 1:
            got = f"{names.count(name)} of that name in {file}"
            raise InputError(f"a column {name!r}, as the run has", got, "name it in the first row")
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            got = f"{len(row)} columns in row {number}"
            raise InputError(f"rows of {len(names)} columns", got, f"mend {file}")
    places = [names.index(name) for name in columns]
    return [[row[place] for place in places] for row in rows]
