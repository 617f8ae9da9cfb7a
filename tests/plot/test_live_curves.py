"""The live plot: what it shows, and that it changes nothing of a run."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import IPython
import IPython.display
import jax
import numpy as np
import pytest
from matplotlib.image import imread

import fnn
from fnn import optim, plot
from tests.train.test_fit import bits, classes

KEY = jax.random.key(0)
DATA = classes()
module = importlib.import_module("fnn.plot.live_curves")


def train(*callbacks, epochs=3):
    model, loss = fnn.dense(3), fnn.losses.cross_entropy()
    return fnn.fit(
        model, loss, optim.sgd(0.1), DATA, epochs=epochs, batch_size=5, key=KEY, validation=DATA,
        metrics={"accuracy": fnn.accuracy}, callbacks=callbacks,
    )  # fmt: skip


@pytest.fixture
def notebook(monkeypatch):
    """What a kernel would show: every picture, and where it stands."""
    shown = []

    def display(image, display_id=None):
        place = len({at for at, _ in shown})
        shown.append((place, image.data))
        return SimpleNamespace(update=lambda new: shown.append((place, new.data)))

    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=True))
    monkeypatch.setattr(IPython.display, "display", display)
    return shown


def test_a_notebook_has_one_picture_that_is_drawn_anew_for_every_epoch(notebook):
    live = plot.live_curves(seconds=0)
    for run in range(2):
        notebook.clear()
        train(live)
        assert [place for place, _ in notebook] == [0] * 4, run
        # That of the end is the last once more.
        assert len({data for _, data in notebook}) == 3


def test_pictures_are_as_far_apart_as_was_asked_for_and_the_last_comes_at_the_end(notebook):
    train(plot.live_curves(seconds=1e6))
    assert len(notebook) == 2


def test_the_picture_is_that_of_the_history(notebook, monkeypatch):
    drawn = []
    real = module.curves
    monkeypatch.setattr(module, "curves", lambda *given: drawn.append(given) or real(*given))
    _, history = train(plot.live_curves(metric="accuracy"))
    shown, metric = drawn[-1]
    assert bits(shown.loss) == bits(history.loss)
    assert metric == "accuracy"
    assert {n: bits(v) for n, v in shown.validation.items()} == {
        n: bits(v) for n, v in history.validation.items()
    }
    means = [part.mean() for part in np.split(history.loss, 3)]
    np.testing.assert_allclose(shown.epoch_loss, means, rtol=1e-6)


def test_it_changes_no_bit_of_a_run(notebook):
    (plain, history), (end, other) = train(), train(plot.live_curves(seconds=0))
    assert bits((plain, history.loss)) == bits((end, other.loss))


def test_without_a_notebook_it_says_so_once_and_with_a_file_it_writes_that(tmp_path):
    with pytest.warns(UserWarning, match=r"^fnn\.plot\.live_curves: there is no notebook") as said:
        train(plot.live_curves())
    assert len(said) == 1
    file = tmp_path / "curves.png"
    train(plot.live_curves(file))
    assert np.ptp(imread(file)[..., :3]) == 1


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: plot.live_curves(3), "file to be a path"),
        (lambda: plot.live_curves("curves.gif"), "the name of a PNG, SVG or PDF file"),
        (lambda: plot.live_curves(seconds=-1), "seconds of 0 or more"),
        (lambda: plot.live_curves(metric=3), "the name of a metric"),
        (lambda: train(plot.live_curves("c.png", metric="error")), "metric of 'accuracy'"),
        (lambda: train(plot.live_curves("/nowhere/c.png")), "a file to write to"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make, match):
    with pytest.raises(fnn.InputError, match=match):
        make()
