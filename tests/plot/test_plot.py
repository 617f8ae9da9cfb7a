"""Pictures: drawn of whatever training leaves behind, and written whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.text import Text

import fnn
from fnn import landscapes, optim, plot
from fnn.landscapes.trajectory import Trajectory
from fnn.train.fit import History
from tests.core.test_errors import Bad, assert_complains, parametrize

NAN, INF = np.nan, np.inf
NOTHING = np.array([])


def drawn(figure):
    """Draw a figure for real: what matplotlib refuses, it refuses then. Warnings are errors."""
    figure.canvas.draw()
    return figure


def history(steps, epochs, **validation):
    return History(
        *(np.asarray(a, "float64") for a in (steps, epochs)),
        {name: np.asarray(a, "float64") for name, a in validation.items()},
        0.0,
        0.0,
    )


HISTORIES = {
    "empty": history([], []),
    "empty-validation": history([], [], loss=[], accuracy=[]),
    "nan": history([NAN] * 4, [NAN] * 2, loss=[NAN, NAN], accuracy=[NAN, NAN]),
    "inf": history([1, INF, NAN, -INF], [INF, 1], loss=[INF, NAN], accuracy=[INF, 1]),
    "zero": history([0, 0], [0]),
    "negative": history([-1, -2], [-1]),
    "beyond-float32": history([1e-300, 1e300], [1e300]),
    "stopped": history([3, 2, 1], [2.5, 1], loss=[2], accuracy=[0.5]),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_curves_are_drawn_of_any_history(name):
    figure = drawn(plot.curves(HISTORIES[name]))
    assert figure.axes[0].get_xlabel() == "epoch"


def test_curves_hold_every_loss_and_the_metric_asked_for():
    one = history([4, 3, 2, 1], [3.5, 1.5], loss=[3, 2], accuracy=[0.25, 0.5], top_3=[0.75, 1])
    left, right = drawn(plot.curves(one, "top_3")).axes
    assert [line.get_ydata().tolist() for line in left.lines] == [[4, 3, 2, 1], [3.5, 1.5], [3, 2]]
    assert left.get_yscale() == "log"
    assert right.lines[0].get_ydata().tolist() == [0.75, 1]
    assert right.get_ylabel() == "top_3"
    assert drawn(plot.curves(one)).axes[1].get_ylabel() == "accuracy"
    # Without any loss above 0 the axis is not logarithmic.
    assert plot.curves(HISTORIES["negative"]).axes[0].get_yscale() == "linear"


def flat(p):
    return p.sum(-1) * 0


def path(*points):
    return {"path": Trajectory(np.array(points, "float64"), np.zeros(len(points)))}


@pytest.mark.parametrize(
    "function", [flat, lambda p: flat(p) * NAN, lambda p: np.where(p[..., 0] > 0, p[..., 0], NAN),
                 lambda p: np.full(p.shape[:-1], INF)],
    ids=["flat", "nan", "half-nan", "inf"],
)  # fmt: skip
@pytest.mark.parametrize("d", [1, 2])
def test_descent_is_drawn_over_functions_that_are_flat_or_not_finite(function, d):
    axes = drawn(plot.descent(function, path([0.5] * d, [NAN] * d), (-1,) * d, (1,) * d)).axes[0]
    assert axes.get_xlim() == (-1, 1)


NET = fnn.dense(2)
NET_PARAMS = NET.init(jax.random.key(0), jnp.zeros((1, 2)))[0]
FEW = History(np.ones(2), np.ones(2), {"loss": np.ones(2), "accuracy": np.ones(2)}, 0.0, 0.0)
# Every picture where it is small, as its words are not.
SMALL = {
    "activation_functions": lambda: plot.activation_functions({"a long name of it": fnn.tanh()}),
    "batch_histograms": lambda: plot.batch_histograms({"before normalization": np.ones((2, 3))}),
    "confusion_matrix": lambda: plot.confusion_matrix([0, 1], [0, 1], names=["airplane", "car"]),
    "curves": lambda: plot.curves(FEW),
    "descent": lambda: plot.descent(flat, path([0.5], [0.25]), (-1,), (1,)),
    "dropout_masks": lambda: plot.dropout_masks(
        fnn.dropout(0.5), jnp.ones(4), key=jax.random.key(0), count=1
    ),
    "feature_maps": lambda: plot.feature_maps(jnp.ones((6, 6, 1))),
    "feature_maps, two of them": lambda: plot.feature_maps(jnp.ones((6, 6, 2)), jnp.ones((8, 8))),
    "filters": lambda: plot.filters(np.ones((3, 3, 1, 1))),
    "graph": lambda: plot.graph(fnn.graph(lambda w: w, 2.0)),
    "loss_functions": lambda: plot.loss_functions({"squared": fnn.losses.squared_error()}),
    "predictions": lambda: plot.predictions(np.zeros((1, 8, 8)), [1], [[0.2, 0.8]]),
    "recurrence": lambda: plot.recurrence({"a long name": np.ones((1, 3, 2))}),
    "regions": lambda: plot.regions(NET, NET_PARAMS, (), np.eye(2), [0, 1]),
}  # fmt: skip


def outside(figure):
    """The words of a figure that are cut off at its edge."""
    drawn(figure)
    # Numbers on axes are left out: those beyond the limits are there too, and are not drawn.
    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    numbers = {one for axis in axes for one in axis.findobj(Text) if one is not axis.label}
    words = [one for one in figure.findobj(Text) if one not in numbers and one.get_text().strip()]
    boxes = {one.get_text(): one.get_window_extent() for one in words if one.get_visible()}
    size = figure.bbox.size
    return [text for text, box in boxes.items() if min(*box.p0, *(size - box.p1)) < -1]


@pytest.mark.parametrize("name", SMALL)
def test_no_word_of_a_picture_is_cut_off(name):
    assert outside(SMALL[name]()) == []


def test_a_word_that_is_cut_off_is_seen():
    figure = SMALL["curves"]()
    figure.suptitle("a title " * 40)
    assert outside(figure) == ["a title " * 40]


@pytest.mark.parametrize("name", ["saddle", "double_well"])
def test_descent_that_diverges_is_drawn(name):
    function = getattr(landscapes, name)()
    start = np.ones(len(function.low), "float32")
    for steps in (100, 200):
        run = landscapes.descend(optim.sgd(5.0), function, start, steps)
        assert not np.isfinite(run.points[-1]).all()
        figure = drawn(plot.descent(function, {"away": run}))
        step = int(np.isfinite(run.values).argmin())
        assert [text.get_text() for text in figure.axes[0].texts] == [f"diverged at step {step}"]


def test_descent_tells_in_a_legend_what_its_marks_are_and_of_no_divergence_where_there_is_none():
    saddle = landscapes.saddle()
    run = landscapes.descend(optim.sgd(0.1), saddle, [1.0, 0.1], 20)
    figure = drawn(plot.descent(saddle, {"first": run, "second": run}))
    (legend,) = figure.legends
    marks = ["minimum", "steps", "start", "end"]
    assert [text.get_text() for text in legend.get_texts()] == marks
    assert not [text for axes in figure.axes for text in axes.texts]


def test_filters_are_drawn_of_any_numbers():
    spoiled = np.ones((3, 3, 3, 4))
    spoiled[0, 0, 0, 0], spoiled[1, 1, 1, 1] = NAN, INF
    for weight in (
        np.zeros((3, 3, 1, 4)),
        np.full((3, 3, 1, 4), NAN),
        spoiled,
        spoiled[:, :, :1],
        jnp.ones((3, 3, 3, 17), "bfloat16"),
        np.ones((3, 3, 1, 2), int),
    ):
        figure = drawn(plot.filters(weight))
        assert sum(len(axes.images) for axes in figure.axes) == weight.shape[-1]


def test_the_scale_of_filters_is_that_of_the_largest_finite_weight():
    weight = np.array([0.5, -2.0, NAN, INF]).reshape(1, 1, 1, 4)
    image = plot.filters(weight).axes[0].images[0]
    assert (image.norm.vmin, image.norm.vmax) == (-2, 2)


def test_predictions_mark_mistakes_and_count_what_is_not_a_number_as_one():
    shares = np.array([[0.9, 0.1], [0.2, 0.8], [NAN, 0.1]])
    figure = drawn(plot.predictions(np.zeros((3, 4, 4)), np.array([0, 0, 0], "uint8"), shares))
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == ["1  80%\nis 0", "?\nis 0", "0  90%"]
    assert figure.get_suptitle().split(": ")[1].startswith("1 of 3 right")


@pytest.mark.parametrize(
    ("images", "shares"),
    [(np.zeros((0, 4, 4)), np.zeros((0, 3))), (np.full((3, 4, 4), NAN), np.full((3, 3), NAN)),
     (np.full((3, 4, 4), INF), np.full((3, 3), INF)),
     (jnp.zeros((3, 4, 4), "bfloat16"), jnp.ones((3, 3), "float16"))],
    ids=["none", "nan", "inf", "half"],
)  # fmt: skip
def test_predictions_are_drawn_of_any_numbers(images, shares):
    drawn(plot.predictions(images, np.arange(len(images)), shares, ["a", "b", "c"]))


def compared(*layers, x=((1.0, 2.0),), costs=False):
    model, x = fnn.serial(*layers), jnp.asarray(x)
    params, state = model.init(jax.random.key(0), x)
    batch = x, 0 * model.apply(params, state, x)[0]
    loss = fnn.losses.squared_error()
    return fnn.compare(model, loss, params, state, batch, key=jax.random.key(1), costs=costs)


def test_gradients_are_drawn_with_costs_without_leaves_and_where_they_are_not_finite():
    figure = drawn(plot.gradients(compared(fnn.dense(2), fnn.tanh(), costs=True)))
    assert len(figure.axes) == 4
    whole = compared(fnn.dense(2))
    none = whole._replace(leaves=())
    drawn(plot.gradients(none))
    leaf = whole.leaves[0]
    for value in (NAN, INF, 0.0):
        bad = leaf._replace(norm=value, manual=leaf.manual._replace(error=value))
        figure = drawn(plot.gradients(whole._replace(leaves=(bad, leaf))))
        written = [text.get_text() for text in figure.axes[0].texts]
        assert written == ["not finite"] * (not np.isfinite(value))


def test_a_figure_is_written_whole_or_not_at_all(tmp_path):
    figure, file = plot.curves(HISTORIES["stopped"]), tmp_path / "curves.png"
    plot.save(figure, file)
    before = file.read_bytes()
    assert before.startswith(b"\x89PNG")

    class Broken:
        def savefig(self, name, **_):
            name.write_bytes(b"half")
            raise OSError("the disk is full")

    with pytest.raises((OSError, fnn.InputError)):
        plot.save(Broken(), file)
    assert file.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.parametrize(
    ("suffix", "start"),
    [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG"), ("PNG", b"\x89PNG")],
)
def test_a_figure_is_written_as_its_name_ends_with_its_words_the_same_every_time(
    tmp_path, suffix, start
):
    written = []
    for name in ("one", "two"):
        figure = plot.filters(np.eye(3).reshape(3, 3, 1, 1))
        figure.set_label("A diagonal of ones.")
        plot.save(figure, tmp_path / f"{name}.{suffix}")
        written.append((tmp_path / f"{name}.{suffix}").read_bytes())
    assert written[0] == written[1]
    assert written[0].startswith(start)
    assert b"A diagonal of ones." in written[0]


@parametrize(
    [
        Bad("no-history", lambda: plot.curves(3), "plot.curves", "a History", "3"),
        Bad(
            "metric",
            lambda: plot.curves(HISTORIES["stopped"], "recall"),
            "plot.curves",
            "a metric of 'accuracy'",
            "'recall'",
        ),
        Bad(
            "no-metric",
            lambda: plot.curves(HISTORIES["zero"], "accuracy"),
            "plot.curves",
            "a history of a fit with metrics",
            "'accuracy'",
        ),
        Bad(
            "no-points",
            lambda: plot.descent(flat, {"": Trajectory(np.zeros((0, 1)), NOTHING)}, (0,), (1,)),
            "plot.descent",
            r"paths of points \(steps \+ 1, 1\)",
            r"\{'': \(0, 1\)\}",
        ),
        Bad(
            "no-paths",
            lambda: plot.descent(flat, path([0.0])["path"], (0,), (1,)),
            "plot.descent",
            r"paths of points \(steps \+ 1, 1\)",
            "Trajectory",
        ),
        Bad(
            "corner",
            lambda: plot.descent(flat, path([0.0]), (1,), (1,)),
            "plot.descent",
            "corners low and high of one or two numbers",
            r"\(1,\) and \(1,\)",
        ),
        Bad(
            "no-filter",
            lambda: plot.filters(np.zeros((3, 3, 1, 0))),
            "plot.filters",
            r"a weight \(H, W, 1, O\) or \(H, W, 3, O\)",
            r"float64 of shape \(3, 3, 1, 0\)",
        ),
        Bad("text", lambda: plot.filters("w"), "plot.filters", "weight of numbers", "'w'"),
        Bad(
            "label",
            lambda: plot.predictions(np.zeros((1, 2, 2)), [2], np.ones((1, 2))),
            "plot.predictions",
            "labels of 0 to 1",
            r"2 at labels\[0\]",
        ),
        Bad(
            "float-label",
            lambda: plot.predictions(np.zeros((1, 2, 2)), [1.0], np.ones((1, 2))),
            "plot.predictions",
            "labels of integers",
            r"\[1\.0\]",
        ),
        Bad(
            "channels",
            lambda: plot.predictions(np.zeros((1, 2, 2, 1)), [1], np.ones((1, 2))),
            "plot.predictions",
            r"images of shape \(n, H, W\)",
            r"\(1, 2, 2, 1\)",
        ),
        Bad(
            "names",
            lambda: plot.predictions(np.zeros((1, 2, 2)), [1], np.ones((1, 2)), ["a"]),
            "plot.predictions",
            "2 names",
            "1",
        ),
        Bad("comparison", lambda: plot.gradients(None), "plot.gradients", "a Comparison", "None"),
        Bad("figure", lambda: plot.save(None, "x.png"), "plot.save", "a figure", "None"),
        Bad(
            "ending",
            lambda: plot.save(plot.curves(HISTORIES["zero"]), "x.jpg"),
            "plot.save",
            "the name of a PNG, SVG or PDF file",
            "'x.jpg'",
        ),
    ]
)
def test_pictures_refuse(bad):
    assert_complains(bad, bad.call)
