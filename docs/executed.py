"""Lessons and examples as they run: each once for its text and for the code of fnn, and kept.

``python docs/executed.py notebooks/01_knobs.py examples/vae.py ...`` prints a folder for each,
which holds what the program wrote, and of a lesson ``lesson.ipynb``, the notebook with its outputs,
of an example ``printed.txt``. The tests of lessons and examples and the site use them.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import filelock

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "build/lessons"
NOTEBOOK, PRINTED = "lesson.ipynb", "printed.txt"
EXAMPLES = ROOT / "examples"
# Those of other sources stay for as long as somebody may be reading them.
_OLD = 3600.0
_TIMEOUT, _EXAMPLE_TIMEOUT = 300, 900
# What decides over the outputs beside the code.
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


def executed(program: Path) -> Path:
    """Return the folder of a lesson or an example that was executed; do it where nobody did yet."""
    name = f"{program.stem}-{_key(program)}"
    folder = KEPT / name
    KEPT.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(KEPT / f"{program.stem}.lock"):
        if not folder.exists():
            working = KEPT / f"{name}.working"
            shutil.rmtree(working, ignore_errors=True)
            working.mkdir()
            (_run if program.parent == EXAMPLES else _execute)(program, working)
            working.rename(folder)
            _clear(program.stem, folder)
    return folder


def _key(program: Path) -> str:
    found = hashlib.sha256(f"{sys.version}{program.name}".encode())
    for name in _PACKAGES:
        found.update(f"{name} {importlib.metadata.version(name)}\n".encode())
    files = sorted((ROOT / "fnn").rglob("*"))
    sources = [file for file in files if file.suffix in (".py", ".pyi", ".npz")]
    if program.parent == EXAMPLES:
        # What they share, and where some find their data.
        sources += sorted(EXAMPLES.glob("_*.py"))
        found.update(os.environ.get("FNN_DATA", "").encode())
    for file in (Path(__file__), program, *sources):
        content = file.read_bytes()
        if file.suffix in (".py", ".pyi") and file != program:
            content = code(content)
        found.update(f"{file.name} {len(content)}\n".encode() + content)
    return found.hexdigest()[:16]


@functools.cache
def code(source: bytes) -> bytes:
    """Return what a file in Python does: its syntax tree without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.dump(tree).encode()


def _run(example: Path, folder: Path) -> None:
    """Run an example as a reader would, with warnings as errors, and keep what it prints."""
    environment = os.environ | {
        # Others may hold the accelerator too, if there is one: take no more of it than needed.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    environment.pop("MPLBACKEND", None)
    result = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=_EXAMPLE_TIMEOUT,
    )  # fmt: skip
    if result.returncode:
        raise RuntimeError(f"{example.name}:\n{result.stdout}\n{result.stderr}")
    (folder / PRINTED).write_text(result.stdout, "utf-8")


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
