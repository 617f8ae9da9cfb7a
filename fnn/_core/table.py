"""Text tables."""

from __future__ import annotations

from collections.abc import Sequence

from fnn._core import check
from fnn._core.errors import InputError
from fnn._core.types import Unchecked

_SHORTEST = 8


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Lay out rows in aligned columns: the first to the left, numbers to the right.

    Args:
        header: the names of the columns.
        rows: as many words each.
        width: the names of the first column are cut to what the others leave of it: from the left,
            since paths differ most at their end. None for no limit.
    Raises:    InputError for what is no text, rows of another length and a width below 1.

    >>> print(table(["name", "size"], [["weight", "12"], ["bias", "3"]]))
    name    size
    weight    12
    bias       3
    >>> print(table(["name", "size"], [["encoder/0/weight", "12"]], width=16))
    name        size
    .../weight    12
    """
    cells = [_words(row) for row in (header, *check.several(rows, "rows"))]
    for row in cells:
        if len(row) != len(cells[0]):
            got, remedy = f"{len(row)} and {len(cells[0])}", "give every row a word for each column"
            raise InputError("rows as long as the header", got, remedy)
    if width is not None:
        check.count(width, "width")
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    if width is not None and widths:
        room = max(width - sum(2 + other for other in widths[1:]), _SHORTEST)
        for row in cells:
            row[0] = row[0] if len(row[0]) <= room else "..." + row[0][3 - room :]
        widths[0] = min(widths[0], room)
    right = [
        i > 0
        and all(row[i][:1].isdigit() or row[i] in ("", "-") for row in cells[1:])
        and len(rows) > 0
        for i in range(len(header))
    ]
    lines = [
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    ]
    return "\n".join(lines)


def _words(row: Unchecked) -> list[str]:
    """Return a row as a list, or raise unless it is one of texts."""
    words = list(check.several(row, "a row"))
    for word in words:
        check.text(word, "a cell", "write numbers as text, as in f'{x:.3f}'")
    return words


def in_bytes(count: float) -> str:
    """Write a number of bytes with a unit.

    Args:
        count: of 0 or more.

    >>> in_bytes(512), in_bytes(401408)
    ('512 B', '392.0 KiB')
    """
    check.number(count, "count", least=0)
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
