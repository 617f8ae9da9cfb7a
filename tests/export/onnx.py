"""Every layer as an ONNX file: ONNX Runtime computes what fnn does, or the error says why not.

    python -m tests.export.onnx                  a table of all cases, and its totals
    python -m tests.export.onnx --only PART      of those with PART in their name
    python -m tests.export.onnx --json FILE      kept in a file, from which it goes on

A row is a case, a column whether the file takes batches of any size or of one; a cell is "ok", or
what went wrong. The file is written with a few examples. Of any size it is run on more of them, of
one on the same; y is that of fnn, up to the rounding of a sum of as many terms as y has.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import fnn
from fnn.lab.check import moved_place
from tests import cases
from tests.export.command import print_table
from tests.sharding.table import BATCH, PLACE_KEY, difference, grown
from tests.xla import compile_in_haste

FEW = 3
COLUMNS = {"any batch size": True, "one batch size": False}


class Job(NamedTuple):
    """A model at one place, an input of BATCH examples, and the model that is right."""

    model: Any
    params: Any
    state: Any
    x: Any
    right: Any


def of_layer(case: Any) -> Job:
    """Draw parameters, state and x of a case."""
    x = case.draw(np.random.default_rng(3), next(iter(case.shapes.values())))
    x = grown(x, np.shape(jax.tree.leaves(x)[0])[0])
    layer = case.make()

    params, state = jax.jit(functools.partial(moved_place, layer))(x, PLACE_KEY)
    return Job(layer, params, state, x, layer)


def planted() -> Job:
    """A layer that computes other numbers than it should: what the table has to see."""
    x = np.random.default_rng(3).normal(size=(BATCH, 3)).astype(np.float32)
    wrong, right = (fnn.from_function(lambda x, a=a: a * x) for a in (2.0001, 2.0))
    return Job(wrong, (), (), x, right)


def jobs() -> dict[str, Callable[[], Job]]:
    """Return all cases by name, and what makes them."""
    return {case.name: functools.partial(of_layer, case) for case in cases.LAYERS}


def few(tree: Any) -> Any:
    """Return the first examples of a batch."""
    return jax.tree.map(lambda a: a[:FEW] if np.ndim(a) and len(a) == BATCH else a, tree)


def of_runtime(file: Path, x: Any) -> list[np.ndarray]:
    """Return what ONNX Runtime computes, in the order of the names of its outputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return session.run(sorted(one.name for one in session.get_outputs()), named("x", x))


def named(root: str, tree: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a tree as they are called in the file."""
    paths = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), np.asarray(leaf))
        for path, leaf in jax.tree.leaves_with_path(tree)
    ]
    return {f"{root}/{path}" if path else root: leaf for path, leaf in paths}


def export(file: Path, job: Job, any_batch: bool) -> None:
    """Write the file of a model, with a few examples."""
    place = job.params, job.state
    fnn.export_onnx(file, job.model, *place, few(job.x), any_batch=any_batch)


def cell(job: Job, any_batch: bool) -> str:
    """Return "ok", or what is wrong with the file of a model."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        try:
            export(file, job, any_batch)
        except fnn.InputError as error:
            return str(error)
        x = job.x if any_batch else few(job.x)
        y, _ = jax.jit(job.right.apply)(job.params, job.state, x)
        expected = named("y", y)
        found = dict(zip(sorted(expected), of_runtime(file, x), strict=True))
    apart = difference(found, expected)
    return "ok" if apart <= 1 else f"differs, {apart:.3g} roundings"


def row(job: Job) -> dict[str, str]:
    """Return the row of a case."""
    return {column: cell(job, any_batch) for column, any_batch in COLUMNS.items()}


def main() -> None:
    compile_in_haste()
    made = {**jobs(), "planted": planted}
    rows = {name: lambda make=make: row(make()) for name, make in made.items()}
    print_table(__doc__.split("\n")[0], rows, {"ok"})


if __name__ == "__main__":
    main()
