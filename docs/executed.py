"""Lessons as they run: each is executed once for its text and for the sources of fnn, and kept.

``python docs/executed.py notebooks/01_knobs.py ...`` prints a folder for each, which holds what the
lesson wrote and ``lesson.ipynb``, the notebook with its outputs. The tests of the lessons and the
site use them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import sys
import time
from pathlib import Path

import filelock

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "build/lessons"
NOTEBOOK = "lesson.ipynb"
# Those of other sources stay for as long as somebody may be reading them.
_OLD = 3600.0
_TIMEOUT = 300
# What decides over the outputs beside the sources.
_PACKAGES = (
    "jax", "jaxlib", "numpy", "matplotlib", "ipykernel", "ipywidgets", "jupytext", "nbclient",
)  # fmt: skip
# Pictures tell those who cannot see them what they show.
_STARTUP = """
import IPython.core.pylabtools as _tools
_print_figure = _tools.print_figure


def _print_with_words(figure, *args, **kwargs):
    from fnn.plot._knobs import words
    found = _print_figure(figure, *args, **kwargs)
    return found if found is None else (found, {"alt": words(figure, {})})


_tools.print_figure = _print_with_words
"""


def executed(lesson: Path) -> Path:
    """Return the folder of a lesson that was executed; do it where nobody did yet."""
    name = f"{lesson.stem}-{_key(lesson)}"
    folder = KEPT / name
    KEPT.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(KEPT / f"{lesson.stem}.lock"):
        if not folder.exists():
            working = KEPT / f"{name}.working"
            shutil.rmtree(working, ignore_errors=True)
            working.mkdir()
            _execute(lesson, working)
            working.rename(folder)
            _clear(lesson.stem, folder)
    return folder


def _key(lesson: Path) -> str:
    found = hashlib.sha256(f"{sys.version}{lesson.name}".encode())
    for name in _PACKAGES:
        found.update(f"{name} {importlib.metadata.version(name)}\n".encode())
    files = sorted((ROOT / "fnn").rglob("*"))
    sources = [file for file in files if file.suffix in (".py", ".pyi", ".npz")]
    for file in (Path(__file__), lesson, *sources):
        content = file.read_bytes()
        found.update(f"{file.name} {len(content)}\n".encode() + content)
    return found.hexdigest()[:16]


def _execute(lesson: Path, folder: Path) -> None:
    """Run a notebook from top to bottom in a folder, with a kernel of its own."""
    settings = folder / ".ipython"
    startup = settings / "profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "00-words.py").write_text(_STARTUP, "utf-8")
    os.environ |= {
        # Others may hold the accelerator too, if there is one: take no more of it than needed.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        # Jupyter and matplotlib keep their own files: beside the results, not at home.
        "IPYTHONDIR": str(settings),
        "JUPYTER_RUNTIME_DIR": str(folder / ".runtime"),
        # The kernel of this interpreter, not one that the user installed under the same name.
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    os.environ.pop("MPLBACKEND", None)
    # Jupyter looks at the environment when it is imported.
    import jupytext
    import nbformat
    from nbclient import NotebookClient

    notebook = jupytext.read(lesson)
    client = NotebookClient(
        notebook, timeout=_TIMEOUT, kernel_name="python3", record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )  # fmt: skip
    client.execute()
    nbformat.write(notebook, folder / NOTEBOOK)
    for name in (settings, folder / ".runtime"):
        shutil.rmtree(name, ignore_errors=True)


def _clear(stem: str, newest: Path) -> None:
    """Remove what the lesson gave with other sources."""
    for folder in KEPT.glob(f"{stem}-*"):
        if folder != newest and time.time() - folder.stat().st_mtime > _OLD:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(executed(Path(argument).resolve()))
