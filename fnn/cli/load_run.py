"""A run of the command line read back: its network, for new inputs as its file had them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from fnn._core import check
from fnn._core.arrays import require_arrays
from fnn._core.atomic_write import as_path
from fnn._core.errors import InputError, entry, named
from fnn._core.types import Array, Output, Params, State, Unchecked
from fnn.cli.compare_runs import read_record
from fnn.cli.data import Scaling
from fnn.cli.folder import RECORD, WEIGHTS
from fnn.cli.run import build
from fnn.cli.settings import from_plain
from fnn.layer import Layer
from fnn.train.evaluate import predict
from fnn.train.files.weights import load_weights

# Errors of a method bear the name of the class.
_entry = functools.partial(named, "fnn.Run")


class Run(NamedTuple):
    """Trained network of a run of the command line, with what was done to its data.

    Args:
        model: the network.
        params: its trained parameters.
        state: its state.
        example: the shape of one input.
        mean: what was subtracted from the inputs: () or one for each column.
        std: what they were divided by then.
        columns: the names of the columns of the file, none where it had none.
        classes: the names of the classes in the order of the outputs, none where these are values.

    """

    model: Layer
    params: Params
    state: State
    example: tuple[int, ...]
    mean: np.ndarray
    std: np.ndarray
    columns: tuple[str, ...]
    classes: tuple[str, ...]

    @_entry
    def predict(self, x: Array) -> Output:
        """Return the outputs for new inputs, which are scaled as those of the run were.

        Args:
            x: (n, D) or (n, H, W), in the units of the file; bytes of images from 0 to 255.
        Shapes:    the result (n, K): a score for each of `classes`, or the values
        Raises:    InputError for inputs of another shape, and what is not finite.
        """
        x = require_arrays(x)
        axes = "D" if len(self.example) == 1 else "HW"
        remedy = "pass rows as the file of the run has them, without the target"
        sizes: dict[str, Unchecked] = dict(zip(axes, self.example, strict=True))
        check.shape(x, " ".join(["n", *axes]), remedy=remedy, **sizes)
        scaled = Scaling(self.mean, self.std).scaled(np.asarray(x))
        return predict(self.model, self.params, self.state, scaled)


@entry
def load_run(folder: Path | str) -> Run:
    """Read a run that `python -m fnn` wrote into a folder, to apply its network to new inputs.

    Inputs are scaled as they were for training, by what the run remembers of its data; the file
    that it learned from is not needed.

    Args:
        folder: of the run, with its ``run.json`` and its weights.
    Raises:    InputError where there is no run, none that has ended, and for damaged weights.

    >>> load_run("a-run-to-come")
    Traceback (most recent call last):
    fnn._core.errors.InputError: fnn.load_run: expected the run.json of a run, got \
    a-run-to-come/run.json (No such file or directory); name the folder that a run wrote to
    """
    place = as_path(folder, "folder")
    record = read_record(place)
    settings, data = from_plain(record["settings"]), record["data"]
    if not record["results"]:
        remedy = f"go on with it by python -m fnn resume {place}"
        raise InputError("a run that has ended", f"{place}, of one that has not", remedy)
    try:
        example, outputs = tuple(map(int, data["example"])), int(data["outputs"])
        mean, std = (np.array(data[name], np.float64) for name in ("mean", "std"))
        columns, classes = (tuple(map(str, data[name])) for name in ("columns", "classes"))
    except (KeyError, TypeError, ValueError) as error:
        got = f"{place / RECORD} with other data ({error})"
        raise InputError("the data of a run of this version", got, "run it again") from error
    model, _ = build(settings, example, outputs)
    spec = jax.ShapeDtypeStruct((1, *example), "float32")
    like = jax.eval_shape(model.init, jax.random.key(0), spec)
    params, state = load_weights(place / WEIGHTS, like)
    return Run(model, params, state, example, mean, std, columns, classes)
