"""Live plot: learning curves that grow while training goes on."""

from __future__ import annotations

import importlib
import math
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fnn._core import check
from fnn._core.atomic_write import as_path, check_file
from fnn._core.errors import InputError, describe, entry
from fnn._core.types import Unchecked
from fnn.plot._figure import save, suffix_of
from fnn.plot._notebook import image_of, in_a_kernel
from fnn.plot.curves import curves
from fnn.train.loop._events import Callback, Event
from fnn.train.loop._record import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More steps than these no screen tells apart.
_DRAWN = 4000


class _LiveCurves:
    def __init__(self, file: Path | None, metric: str | None, seconds: float):
        self.file, self.metric, self.seconds = file, metric, seconds
        self._begin(True)

    def _begin(self, shown: bool) -> None:
        """Forget the run before."""
        self.losses: list[np.ndarray] = []
        self.means: list[float] = []
        self.measured: list[dict[str, float]] = []
        self.shown, self.drawn_at = shown, -math.inf
        self.handle: Unchecked = None

    def __call__(self, event: Event) -> None:
        if event.kind == "start":
            self._begin(in_a_kernel())
            if self.metric is not None:
                known = [name for name in event.metrics if name != "loss"]
                check.one_of(self.metric, "metric", known, "pass it to fit, with validation data")
            if self.file is not None:
                check_file(self.file)
            elif not self.shown:
                words = "there is no notebook to draw in; pass file= for a picture on the disk"
                warnings.warn(f"fnn.plot.live_curves: {words}", stacklevel=2)
        elif event.kind == "validation":
            self.measured.append(dict(event.metrics))
        elif event.kind == "epoch" and len(event.losses):
            losses = event.losses
            self.losses.append(losses)
            self.means.append(float(np.mean(losses)))
            if time.monotonic() >= self.drawn_at + self.seconds:
                self._draw()
        elif event.kind == "end" and self.means:
            self._draw()

    def _draw(self) -> None:
        """Draw what there is, in the notebook and into the file."""
        if not self.shown and self.file is None:
            return
        figure = self._figure()
        if self.file is not None:
            save(figure, self.file)
        if self.shown:
            image = image_of(figure, str(figure.get_label()))
            if self.handle is None:
                display = importlib.import_module("IPython.display").display
                self.handle = display(image, display_id=True)
            else:
                self.handle.update(image)
        self.drawn_at = time.monotonic()

    def _figure(self) -> Figure:
        names = self.measured[0] if self.measured else {}
        validation = {name: np.array([one[name] for one in self.measured]) for name in names}
        loss = np.concatenate(self.losses)
        thinned = loss[:: max(1, -(-len(loss) // _DRAWN))]
        history = History(thinned, np.array(self.means), validation, 0.0, 0.0)
        return curves(history, self.metric)


@entry
def live_curves(
    file: Path | str | None = None, *, metric: str | None = None, seconds: float = 1.0
) -> Callback:
    """Live plot: a callback that draws the learning curves of `fnn.fit` while it trains.

    In a notebook it shows one picture that is drawn anew, after epochs. Elsewhere it warns once
    that there is nowhere to draw, unless it is given a file. It changes nothing of the run.

    Args:
        file: a PNG, SVG or PDF to write as well, each time whole; None for none.
        metric: the validation metric to draw, as in `fnn.plot.curves`.
        seconds: at least so much time lies between two pictures, 0 or more; there is one at the
            end.
    Raises:    InputError for a file that cannot be written to, which the run notices before its
        first step, and for a metric that is not measured.

    >>> import fnn, jax, jax.numpy as jnp, pathlib, tempfile
    >>> file, x = pathlib.Path(tempfile.mkdtemp(), "curves.png"), jnp.ones((4, 1))
    >>> _ = fnn.fit(
    ...     fnn.dense(1), fnn.losses.squared_error(), fnn.optim.sgd(0.1), (x, x), epochs=2,
    ...     batch_size=2, key=jax.random.key(0), callbacks=[live_curves(file)],
    ... )
    >>> file.read_bytes()[1:4]
    b'PNG'

    """
    place: Unchecked = None if file is None else as_path(file)
    if place is not None:
        suffix_of(place)
    if metric is not None and not isinstance(metric, str):
        raise InputError("the name of a metric", describe(metric), "pass one of those of fit")
    check.number(seconds, "seconds", least=0)
    return _LiveCurves(place, metric, float(seconds))
