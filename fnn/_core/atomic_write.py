"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fnn._core.errors import InputError, entry


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary name beside `path`, which takes its place when all went well.

    >>> import pathlib, tempfile
    >>> target = pathlib.Path(tempfile.mkdtemp(), "note.txt")
    >>> with atomic_write(target) as temporary:
    ...     _ = temporary.write_text("whole")
    ...     target.exists()
    False
    >>> target.read_text()
    'whole'
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@entry
def output_folder(folder: Path | str) -> Path:
    """Make a folder, and prove that files can be written there.

    Raises `InputError` when they cannot.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            "a folder to write to", f"{folder} ({error.strerror})", "name another folder"
        ) from error
    return folder
