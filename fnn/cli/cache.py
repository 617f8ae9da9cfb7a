"""Compiled programs, kept between runs of the command line by JAX's persistent cache.

JAX finds a program again by all that it was compiled of: the program, the releases of JAX and XLA,
the kind of device, the compiler's options. It runs to the same bits as one compiled anew. Not in
its key are the processor that a program of a CPU was compiled for, whose instructions another may
lack, and the number of cores that its loops were cut for: each kind of machine has a folder of its
own. What is kept there is machine code that later runs execute, so the folder is the user's alone.

JAX writes an entry into its place and never replaces it: what a killed process leaves is half of
one. So a run that ends notes what is there by its checksum, and the next removes what is not as it
was noted; that is compiled anew.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import platform
import stat
import zlib
from pathlib import Path

import jax

from fnn._core.atomic_write import atomic_write

_ENTRIES, _NOTED = "*-cache", "sound.json"
# A program of the command line takes some 10 kB: what came first goes first.
_MOST_BYTES = 2**28
# What the compiler goes by, as Linux names it.
_OF_PROCESSOR = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU part", "Features")


def keep_programs() -> None:
    """Let JAX keep compiled programs on disk from here on, in the user's cache folder.

    Nothing changes where the user's environment says already where they are, or that none are kept,
    and where there is no folder that is the user's alone.
    """
    config = jax.config.values
    if config["jax_compilation_cache_dir"] or not config["jax_enable_compilation_cache"]:
        return
    folder = programs_folder()
    # Without a cache a run only starts later.
    with contextlib.suppress(OSError):
        folder.mkdir(0o700, parents=True, exist_ok=True)
        if _is_own(folder):
            remove_unsound(folder)
            jax.config.update("jax_compilation_cache_dir", str(folder))
            # Many small programs come before the large one.
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            atexit.register(note_sound, folder)


def programs_folder() -> Path:
    """Return the folder of programs for this kind of machine.

    >>> programs_folder().parent.name
    'programs'
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "fnn" / "programs" / hashlib.sha256(_machine().encode()).hexdigest()[:16]


def remove_unsound(folder: Path) -> None:
    """Remove programs that are not as the last run noted them, and the oldest of too many.

    Args:
        folder: of the programs.
    """
    try:
        noted = json.loads((folder / _NOTED).read_text("utf-8"))
    except (OSError, ValueError):
        noted = {}
    found = sorted(folder.glob(_ENTRIES), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    room = _MOST_BYTES
    for file in found:
        room -= file.stat().st_size
        if room < 0 or not isinstance(noted, dict) or noted.get(file.name) != _checksum(file):
            file.unlink(missing_ok=True)


def note_sound(folder: Path) -> None:
    """Note the programs that are there as sound.

    Args:
        folder: of the programs.
    """
    with contextlib.suppress(OSError):
        noted = {file.name: _checksum(file) for file in folder.glob(_ENTRIES)}
        with atomic_write(folder / _NOTED) as temporary:
            temporary.write_text(json.dumps(noted), "utf-8")


def _checksum(file: Path) -> int:
    return zlib.crc32(file.read_bytes())


def _is_own(folder: Path) -> bool:
    """Say whether a folder is the user's, and others cannot write into it."""
    found = folder.stat()
    is_ours = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return is_ours and (os.name == "nt" or not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _machine() -> str:
    """Return what programs are compiled for that is not in their key: the processor and its cores.

    >>> _machine() == _machine()
    True
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        processor = [line for line in lines if line.startswith(_OF_PROCESSOR)]
    except OSError:
        processor = [platform.processor(), platform.node()]
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return "\n".join([platform.system(), platform.machine(), f"{cores} cores", *processor])
