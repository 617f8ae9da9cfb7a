"""What was measured on this machine, kept between runs in the cache folder of the user.

A file holds what was measured on one machine, under one release of fnn and JAX and one set of
flags: with others it is measured anew. What a layer costs is kept by what it prints, where a
constructor of fnn made it, and by the shapes of its input.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax

import fnn
from fnn._core.atomic_write import atomic_write
from fnn._core.description import Described
from fnn._core.errors import InputError
from fnn._core.types import PyTree, Unchecked
from fnn.lab._measure import Way, machine

Ways = dict[str, Way]
_FLAGS = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
_CONFIG = ("jax_enable_x64", "jax_default_matmul_precision")


def cache_folder() -> Path:
    """Return where measurements are kept: ``fnn/tune`` of the user's folder for caches."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    # As the standard says: a path that is not absolute does not count.
    try:
        base = Path(home) if Path(home).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        # A user without a home: nothing can be kept there, and the table says so.
        base = Path(os.devnull)
    return base / "fnn" / "tune"


class Remembered:
    """Measurements of this machine by what they are of; new ones are written by `close`.

    Args:
        read: whether to take what was measured before.
    """

    def __init__(self, *, read: bool) -> None:
        self.machine = machine()
        self._asked, self._taken, self._notes = 0, 0, list[str]()
        digest = hashlib.sha256(self.machine.encode()).hexdigest()
        self._file = cache_folder() / f"{digest[:16]}.json"
        self._known = self._read() if read else {}
        self._new: dict[str, dict[str, Unchecked]] = {}

    def ways(self, what: tuple[PyTree, ...], specs: PyTree, measure: Callable[[], Ways]) -> Ways:
        """Return a measurement, from before or made now.

        Args:
            what: the layers and losses that are measured.
            specs: the arrays that they are measured on.
            measure: makes it.
        """
        key = _key_of(what, specs)
        self._asked += 1
        if key in self._known:
            self._taken += 1
            return {name: _way(saved) for name, saved in self._known[key].items()}
        found = measure()
        if key:
            self._new[key] = {name: way._asdict() for name, way in found.items()}
        return found

    def elsewhere(self, what: tuple[PyTree, ...], specs: PyTree) -> list[str]:
        """Return the names of other machines on which the same was asked, and note it for this one.

        Args:
            what: the layers and losses.
            specs: the arrays.
        """
        key, found = _key_of(what, specs), []
        if not key:
            return []
        if key not in self._known:
            self._new[key] = {}
        for file in sorted(self._file.parent.glob("*.json")):
            if file != self._file:
                # What another machine left damaged is nothing to say here.
                with contextlib.suppress(OSError, ValueError):
                    name, _, measured = _parsed(file)
                    found += [name] if key in measured else []
        return found

    def close(self) -> list[str]:
        """Keep what was measured, and say what was taken, what was damaged, what cannot be kept."""
        notes = self._notes
        if self._taken:
            notes.append(
                f"{self._taken} of {self._asked} measurements were made before on this machine;"
                " remember=False makes them anew."
            )
        if self._new:
            # Another process may have written meanwhile.
            measured = self._read(quiet=True) | self._new
            try:
                self._write(measured)
            except (OSError, InputError) as error:
                notes.append(f"What was measured could not be kept: {error}.")
        return notes

    def _write(self, measured: dict[str, dict[str, Unchecked]]) -> None:
        digest = _digest(json.dumps(measured, sort_keys=True))
        found = {"machine": self.machine, "release": _release(), "sha256": digest}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._file) as temporary:
            temporary.write_text(json.dumps(found | {"measured": measured}) + "\n", "utf-8")

    def _read(self, *, quiet: bool = False) -> dict[str, dict[str, Unchecked]]:
        """Return what was measured before under the same release; nothing from a damaged file."""
        try:
            name, release, measured = _parsed(self._file)
        except OSError:
            # Where a file cannot be read, none can be written, and `close` says so.
            return {}
        except ValueError as error:
            if not quiet:
                why = " ".join(str(error).split())
                self._notes.append(f"{self._file} is damaged ({why}), and was not used.")
            return {}
        return measured if (name, release) == (self.machine, _release()) else {}


def _parsed(file: Path) -> tuple[str, str, dict[str, dict[str, Unchecked]]]:
    """Return machine, release and measurements of a file; raise `ValueError` for a damaged one."""
    found = json.loads(file.read_text("utf-8"))
    if not isinstance(found, dict) or set(found) != {"machine", "release", "sha256", "measured"}:
        raise ValueError("other contents")
    if _digest(json.dumps(found["measured"], sort_keys=True)) != found["sha256"]:
        raise ValueError("its checksum differs")
    return str(found["machine"]), str(found["release"]), found["measured"]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _release() -> str:
    """Return what is measured with: the releases, flags, and the last change of fnn's own files."""
    try:
        version = importlib.metadata.version("fnn")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    folder = Path(fnn.__path__[0])
    changed = max(file.stat().st_mtime_ns for file in folder.rglob("*.py"))
    flags = [f"{name}={os.environ.get(name, '')}" for name in _FLAGS]
    flags += [f"{name}={getattr(jax.config, name)}" for name in _CONFIG]
    return f"fnn {version} of {changed}, jax {jax.__version__}, {', '.join(flags)}"


def _way(saved: Mapping[str, Unchecked]) -> Way:
    return Way(**dict(saved) | {"seconds": tuple(saved["seconds"])})


def _key_of(what: tuple[PyTree, ...], specs: PyTree) -> str:
    """Return what a measurement is kept by, ``""`` where that is not certain."""
    if not all(map(_is_certain, what)):
        return ""
    shapes = [f"{leaf.dtype}{leaf.shape}" for leaf in jax.tree.leaves(specs)]
    text = "\n".join([*map(repr, what), str(jax.tree.structure(specs)), *shapes])
    # An address says nothing to another process.
    return "" if " at 0x" in text else _digest(text)


def _is_certain(value: Unchecked) -> bool:
    """Say whether what prints alike is alike: made by constructors of fnn, of such arguments."""
    if isinstance(value, Described):
        call = value.call
        known = call is not None and isinstance(call.identity, tuple)
        return known and all(_is_certain(part) for part in _arguments(value))
    if isinstance(value, Mapping):
        return all(map(_is_certain, value.values()))
    return not isinstance(value, list | tuple) or all(map(_is_certain, value))


def _arguments(value: Described) -> Iterator[Unchecked]:
    if value.call is not None:
        yield from value.call.args
        yield from value.call.kwargs.values()
