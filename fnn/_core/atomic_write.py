"""Files written whole or not at all.

A file is written under a temporary name in the same folder and takes its place in one move, so that
a reader, or a run that is killed, sees the old file or the new one and nothing between. The
temporary is opened exclusively, so that nobody else's file or link is written to, and stays locked
while it is written: one that nobody holds is left from a process that was killed, and is removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fnn._core.errors import InputError, describe, entry
from fnn._core.types import Unchecked

locks: Any
try:
    import fcntl as locks
except ImportError:
    # Windows: temporaries of killed processes stay.
    locks = None

_TEMPORARY = re.compile(r"\.fnn-[0-9a-f]{16}(\.[^.]*)?")
# Not on every system.
_NO_FOLLOW, _NO_WAIT = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)
_LOCK = ".fnn-lock"
# A longer end of a name is no file type, and the temporary name must fit where the name does.
_LONGEST_SUFFIX = 16


def as_path(value: Unchecked, name: str = "file") -> Path:
    """Return the path of a file or a folder, or raise unless it is one.

    Args:
        value: a string or a `pathlib.Path`.
        name: what it is called.

    >>> as_path("a/b").name
    'b'
    """
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise InputError(f"{name} to be a path", describe(value), "pass a string or a pathlib.Path")
    return Path(value)


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Write a file whole or not at all: yield a temporary name, which takes its place at the end.

    The contents are on the disk before the file appears. A link is kept, and the file that it
    points to replaced; an existing file keeps its permissions, a new one has those of the umask.
    After an exception nothing has changed.

    Args:
        path: the file; its folder must exist.
    Raises:    InputError where no file can be written; OSError where writing it fails.

    >>> import pathlib, tempfile
    >>> target = pathlib.Path(tempfile.mkdtemp(), "note.txt")
    >>> with atomic_write(target) as temporary:
    ...     _ = temporary.write_text("whole")
    ...     target.exists()
    False
    >>> target.read_text()
    'whole'
    """
    target, mode = check_file(path)
    try:
        _sweep(target.parent)
        temporary, descriptor = _open_exclusively(target)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield temporary
        _finish(temporary, mode)
        temporary.replace(target)
        _sync_folder(target.parent)
    finally:
        # Removed while it is locked: nobody else may take the name for a left-over.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)


def check_file(path: Path | str) -> tuple[Path, int]:
    """Return the place of a file to be written, links followed, and the permissions it is to have.

    Args:
        path: the file.
    Raises:    InputError where something else than a file is, or no folder around it.
    """
    file = as_path(path)
    try:
        target = Path(os.path.realpath(file))
        found = target.lstat()
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise _unwritable(path, error) from error
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise InputError(
            "a file to write to", f"{path} (which is no file)", "name another file, or remove it"
        )
    if found is not None and not os.access(target, os.W_OK):
        raise InputError(
            "a file to write to", f"{path} (which is read-only)", "name another file, or remove it"
        )
    if not target.parent.is_dir():
        raise InputError(
            "a file to write to", f"{path} (whose folder is missing)", "make the folder first"
        )
    return target, 0o666 & ~_umask() if found is None else stat.S_IMODE(found.st_mode)


@entry
def output_folder(folder: Path | str) -> Path:
    """Make a folder, and prove that files can be written there.

    Args:
        folder: the folder; those around it are made too.
    Raises:    InputError when files cannot be written there.
    """
    folder = as_path(folder, "folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            "a folder to write to", f"{folder} ({error.strerror})", "name another folder"
        ) from error
    return folder


class FolderLock:
    """Lock on a folder, which one process at a time holds; the system frees it when that ends.

    Args:
        folder: that exists and can be written to.
    Raises:    InputError where another holds it.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> lock = FolderLock(folder)
    >>> lock.close()
    >>> FolderLock(folder).close()
    """

    def __init__(self, folder: Path | str):
        file = Path(folder, _LOCK)
        try:
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o666)
        except OSError as error:
            raise _unwritable(file, error) from error
        self._free = weakref.finalize(self, os.close, self._descriptor)
        if locks is None:
            return
        try:
            locks.flock(self._descriptor, locks.LOCK_EX | locks.LOCK_NB)
        except OSError as error:
            self.close()
            raise InputError(
                "a folder that no other run writes to",
                f"{folder} (where one writes now)",
                "wait for it, or name another folder",
            ) from error

    @property
    def closed(self) -> bool:
        """Whether the lock was given back."""
        return not self._free.alive

    def close(self) -> None:
        """Give the lock back."""
        self._free()


def _unwritable(path: Path | str, error: OSError) -> InputError:
    """Return what is said of a file that cannot be opened for writing."""
    return InputError("a file to write to", f"{path} ({error.strerror})", "name another file")


def _open_exclusively(target: Path) -> tuple[Path, int | None]:
    """Make a temporary beside a file, which nobody else has; return its name and its lock, if any.

    Windows has none, and there a file that is open can take no other name.
    """
    suffix = target.suffix if len(os.fsencode(target.suffix)) <= _LONGEST_SUFFIX else ""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_FOLLOW
    while True:
        temporary = target.with_name(f".fnn-{secrets.token_hex(8)}{suffix}")
        try:
            descriptor = os.open(temporary, flags, 0o600)
        except FileExistsError:
            continue
        if locks is None:
            os.close(descriptor)
            return temporary, None
        with contextlib.suppress(OSError):
            locks.flock(descriptor, locks.LOCK_EX)
        # Between the two lines somebody may have swept it.
        if os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)


def _finish(temporary: Path, mode: int) -> None:
    """Give a written file its permissions, and bring it to the disk."""
    descriptor = os.open(temporary, os.O_RDWR | _NO_FOLLOW)
    try:
        if hasattr(os, "fchmod"):
            os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk, where the system can do so for a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove the temporaries in a folder that no process holds."""
    if locks is None:
        return
    for file in [Path(one.path) for one in os.scandir(folder) if _TEMPORARY.fullmatch(one.name)]:
        with contextlib.suppress(OSError):
            descriptor = os.open(file, os.O_RDWR | _NO_FOLLOW | _NO_WAIT)
            try:
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    locks.flock(descriptor, locks.LOCK_EX | locks.LOCK_NB)
                    file.unlink()
            finally:
                os.close(descriptor)


def _umask() -> int:
    """Return the umask: on Linux without setting it for a moment, which other threads would see."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
