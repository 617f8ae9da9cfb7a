"""Pictures with knobs: in a notebook, elsewhere, and as a page that holds every picture."""

from __future__ import annotations

import base64
import json
import re
import sys
from types import SimpleNamespace

import IPython
import IPython.display
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from fnn import plot
from tests.core.test_errors import Bad, assert_complains, parametrize

KNOBS = {"rate": (0.01, 0.1, 1.0), "kind": ("tanh", "relu")}


def line(rate=0.5, kind="tanh"):
    figure = Figure()
    axes = figure.add_subplot(title=f"a line of {kind}")
    axes.plot([0, 1], [0, rate])
    return figure


def drawn(figure):
    return figure.axes[0].lines[0].get_ydata()[1], figure.axes[0].get_title().split()[-1]


@pytest.fixture
def notebook(monkeypatch):
    """What a kernel would show: a list of what is displayed, pictures as they are now."""
    shown = []
    shell = SimpleNamespace(kernel=True, events=SimpleNamespace(register=lambda *_: None))

    def display(what, display_id=None):
        shown.append(what)
        at = len(shown) - 1
        return SimpleNamespace(update=lambda new: shown.__setitem__(at, new))

    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.setattr(IPython.display, "display", display)
    return shown


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ({}, (0.01, "tanh")),
        ({"kind": "relu"}, (0.01, "relu")),
        ({"rate": 1, "kind": "relu"}, (1, "relu")),
    ],
)
def test_without_a_notebook_the_picture_at_the_start_is_returned(start, expected):
    assert drawn(plot.show(line, KNOBS, start=start)) == expected


def test_a_notebook_without_widgets_gets_the_picture_too(notebook, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert drawn(plot.show(line, KNOBS, start={"rate": 0.1})) == (0.1, "tanh")
    assert notebook == []


def test_a_notebook_shows_a_slider_for_each_knob_and_the_picture_follows_them(notebook):
    assert plot.show(line, KNOBS, start={"kind": "relu"}) is None
    box, first = notebook
    rate, kind, complaint = box.children
    assert [option[0] for option in rate.options] == ["0.01", "0.1", "1"]
    assert (rate.value, kind.value) == (0.01, "relu")
    assert first.alt == "rate = 0.01, kind = relu: a line of relu"
    rate.value = 1.0
    kind.value = "tanh"
    assert notebook[1].alt == "rate = 1, kind = tanh: a line of tanh"
    assert notebook[1].data != first.data
    assert complaint.value == ""


def test_a_picture_that_fails_for_a_choice_says_so_beside_the_sliders_until_one_succeeds(notebook):
    plot.show(lambda rate: line(rate) if rate < 1 else None, {"rate": (0.1, 1.0)})
    rate, complaint = notebook[0].children
    before = notebook[1]
    with pytest.raises(ValueError, match="draw to return a figure"):
        rate.value = 1.0
    assert complaint.value.startswith("InputError: ")
    assert "return a figure" in complaint.value
    assert notebook[1] is before
    rate.value = 0.1
    assert complaint.value == ""


def test_what_pyplot_drew_is_shown_once(notebook):
    plot.show(lambda rate: plt.figure(), {"rate": (0.1, 1.0)})
    notebook[0].children[0].value = 1.0
    assert plt.get_fignums() == []


def test_a_page_holds_a_picture_for_each_value_with_its_words_and_needs_nothing_else(tmp_path):
    file = tmp_path / "page.html"
    values = np.array([0.1, 1.0, 10.0])
    plot.slider_page(line, "rate", values, file, title="<A> $title", text="Turn & see")
    page = file.read_text("utf-8")
    pictures = re.findall(r'<img [^>]*src="(\S+)" alt="([^"]*)"[^>]*?( hidden)?>', page)
    assert [alt for _, alt, _ in pictures] == [
        f"rate = {rate}: a line of tanh" for rate in ("0.1", "1", "10")
    ]
    # What is seen without scripts is the first picture.
    assert [bool(hidden) for *_, hidden in pictures] == [False, True, True]
    assert '<div class="steps" hidden>' in page
    kinds = [source.partition(",")[0] for source, *_ in pictures]
    assert set(kinds) <= {"data:image/png;base64", "data:image/svg+xml;base64"}
    decoded = [base64.b64decode(source.partition(",")[2]) for source, *_ in pictures]
    assert len(set(decoded)) == 3
    assert "<h1>&lt;A&gt; $title</h1>" in page
    assert "<p>Turn &amp; see</p>" in page
    assert not re.search(r"(?:src|href)=(?![\"']?data:)", page)
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["labels"] == ["rate = 0.1", "rate = 1", "rate = 10"]
    plot.slider_page(line, "rate", values, file, title="<A> $title", text="Turn & see")
    assert file.read_text("utf-8") == page


def noise(rate):
    figure = Figure()
    x, y = np.random.default_rng(0).normal(size=(2, 20_000))
    figure.add_subplot().scatter(x, y, rate)
    return figure


@pytest.mark.parametrize(("draw", "kind"), [(line, "svg+xml"), (noise, "png")])
def test_a_picture_is_lines_unless_pixels_take_fewer_bytes(draw, kind, tmp_path):
    plot.slider_page(draw, "rate", (1,), tmp_path / "page.html", title="One")
    assert f"data:image/{kind};base64," in (tmp_path / "page.html").read_text("utf-8")


def page(draw=line, name="rate", values=(1, 2), **changed):
    plot.slider_page(draw, name, values, "page.html", **{"title": "One"} | changed)


@parametrize(
    [
        Bad("knobs", lambda: plot.show(line, [0.1]), "plot.show", "knobs by name", r"\[0.1\]"),
        Bad("no-knobs", lambda: plot.show(line, {}), "plot.show", "a knob or more", "none"),
        Bad("name", lambda: plot.show(line, {1: (1,)}), "plot.show", "a knob by the name .*", "1"),
        Bad("empty", lambda: plot.show(line, {"rate": ()}), "plot.show",
            "a value of rate or more", r"\(\)"),
        Bad("one", lambda: plot.show(line, {"rate": 0.1}), "plot.show",
            "values of rate, several of them", "0.1"),
        Bad("arrays", lambda: plot.show(line, {"rate": np.ones((2, 2))}), "plot.show",
            "values of rate such as numbers and texts", "float64 of shape .*"),
        Bad("twice", lambda: plot.show(line, {"rate": (1, 2, 1.0)}), "plot.show",
            "different values of rate", "1.0 twice"),
        Bad("unknown", lambda: plot.show(line, KNOBS, start={"speed": 1}), "plot.show",
            "a name in start of 'rate', 'kind'", "'speed'"),
        Bad("start", lambda: plot.show(line, KNOBS, start=(1,)), "plot.show", "start by name",
            r"\(1,\)"),
        Bad("not-offered", lambda: plot.show(line, KNOBS, start={"rate": 2}), "plot.show",
            "start of rate among 0.01, 0.1, 1", "2"),
        Bad("not-comparable", lambda: plot.show(line, KNOBS, start={"rate": [1]}), "plot.show",
            "start of rate among .*", r"\[1\]"),
        Bad("draw", lambda: plot.show(line, {"size": (1,)}), "plot.show",
            r"draw to be a function of \(\*, size\)", r"one of \(rate, kind\)"),
        Bad("nothing", lambda: plot.show(lambda rate: None, {"rate": (1,)}), "plot.show",
            "draw to return a figure", "None"),
        Bad("page-values", lambda: page(values=()), "plot.slider_page", "a value of rate or more",
            r"\(\)"),
        Bad("page-draw", lambda: page(3), "plot.slider_page", "draw to be a function", "3"),
        Bad("page-nothing", lambda: page(lambda rate: 3), "plot.slider_page",
            "draw to return a figure", "3"),
        Bad("page-name", lambda: page(name=2), "plot.slider_page", "a knob by the name .*", "2"),
        Bad("page-title", lambda: page(title=2), "plot.slider_page", "title of text", "2"),
        Bad("page-text", lambda: page(text=None), "plot.slider_page", "text of text", "None"),
    ]
)  # fmt: skip
def test_knobs_refuse(bad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_complains(bad, bad.call)
    assert list(tmp_path.iterdir()) == []
