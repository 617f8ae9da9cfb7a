"""Pictures of lessons and experiments: the data that they draw, read from the figure."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import plot
from fnn.lab import Flow, LayerFlow
from fnn.train.fit import History
from tests.core.test_errors import Bad, assert_complains, parametrize
from tests.tolerance import rounding

NAN, INF = np.nan, np.inf
KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)


def legend(axes):
    return [text.get_text() for text in axes.get_legend().texts]


def lines(axes, gid=None):
    """The data of the lines of a panel by their labels."""
    found = [line for line in axes.lines if gid is None or line.get_gid() == gid]
    return {line.get_label(): np.asarray(line.get_xydata()) for line in found}


def test_activations_are_drawn_with_the_slopes_of_jax_grad():
    layers = {"tanh": fnn.tanh(), "softplus": fnn.softplus()}
    left, right = plot.activation_functions(layers, -3.0, 2.0).axes
    for name, function in {"tanh": jnp.tanh, "softplus": jax.nn.softplus}.items():
        x, y = lines(left, "curve")[name].T
        slope = lines(right, "curve")[name][:, 1]
        assert (x[0], x[-1]) == (-3, 2)
        np.testing.assert_allclose(y, function(x), atol=rounding("float32", 10))
        expected = jax.vmap(jax.grad(function))(jnp.asarray(x, "float32"))
        np.testing.assert_allclose(slope, expected, atol=rounding("float32", 10))


def test_losses_are_drawn_over_error_and_margin_with_their_slopes():
    left, right = plot.loss_functions({"squared": fnn.losses.squared_error()}).axes
    error, value = lines(left)["squared"].T
    np.testing.assert_allclose(value, error**2, rtol=rounding("float32", 10))
    np.testing.assert_allclose(lines(right)["squared"][:, 1], 2 * error, atol=1e-6)
    left, right = plot.loss_functions({"hinge": fnn.losses.hinge()}, over="margin").axes
    margin, value = lines(left)["hinge"].T
    np.testing.assert_allclose(value, np.maximum(1 - margin, 0), atol=rounding("float32", 10))
    assert (lines(right)["hinge"][:, 1] == np.where(margin < 1, -1, 0)).mean() > 0.99
    # A mistake counts 1 below 0 and nothing above, and nothing descends it.
    assert lines(left)["0/1: a mistake"].tolist() == [[-3, 1], [0, 1]]
    assert lines(right)["0/1: a mistake"][:, 1].tolist() == [0, 0]


XOR = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float32")


def test_regions_are_those_of_the_model_and_lines_are_where_its_neurons_are_zero():
    model = fnn.serial(fnn.dense(3), fnn.relu(), fnn.dense(2))
    params, state = model.init(KEY, XOR)
    params[0]["bias"] = jnp.array([0.1, -0.2, 0.3])
    axes = plot.regions(model, params, state, XOR, np.array([0, 1, 1, 0])).axes[0]
    ground = np.asarray(axes.images[0].get_array())
    low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
    x = np.linspace(low[0], high[0], len(ground)).astype("float32")
    middle = np.stack([x, np.full_like(x, (low[1] + high[1]) / 2)], 1)
    expected = model.apply(params, state, middle)[0].argmax(1)
    assert ground[len(ground) // 2].tolist() == expected.tolist()
    neurons = [line for line in axes.lines if line.get_gid() == "neuron"]
    assert len(neurons) == 3
    for line, weight, bias in zip(neurons, params[0]["weight"].T, params[0]["bias"], strict=True):
        for point in (line.get_xy1(), line.get_xy2()):
            assert abs(np.dot(point, weight) + bias) < 1e-5
    # An arrow for each points to where it is positive.
    arrows = [text for text in axes.texts if text.arrow_patch is not None]
    for arrow, weight, bias in zip(arrows, params[0]["weight"].T, params[0]["bias"], strict=True):
        assert np.dot(arrow.xy, weight) + bias > 0


@pytest.mark.parametrize("stretched", [1.0, 1.2, 3.0])
def test_labels_and_legend_of_regions_are_within_the_picture(stretched):
    figure = plot.regions(MODEL, PARAMS, (), XOR * np.array([stretched, 1]), np.zeros(4, int))
    figure.canvas.draw()
    axes = figure.axes[0]
    for part in (axes.title, axes.xaxis.label, axes.yaxis.label, figure.legends[0]):
        box = part.get_window_extent()
        assert min(*box.p0, *(figure.bbox.size - box.p1)) >= 0


def test_regions_ring_what_is_wrong_and_leave_white_what_is_no_number():
    model = fnn.dense(1)
    params = {"weight": jnp.array([[1.0], [0.0]]), "bias": jnp.array([-0.5])}
    run = model, params, (), XOR
    drawn = lines(plot.regions(*run, np.array([0, 0, 1, 0])).axes[0])
    assert drawn["wrong: 1 of 4"].tolist() == [[1, 1]]
    everywhere_one = plot.regions(*run, np.ones(4, int), threshold=-2.0).axes[0]
    assert len(lines(everywhere_one)["wrong: 0 of 4"]) == 0
    broken = {"weight": jnp.full((2, 1), NAN), "bias": jnp.zeros(1)}
    axes = plot.regions(model, broken, (), XOR, np.ones(4, int)).axes[0]
    assert axes.images[0].get_array().mask.all()


def flow(size):
    return Flow(size, 0.0, size, 0.0, -1)


def trace(deviations, norms):
    rows = [
        LayerFlow(str(i), "dense", flow(y), flow(dy))
        for i, (y, dy) in enumerate(zip(deviations, norms, strict=True))
    ]
    return fnn.Activations(tuple(rows), 1.0)


def test_activations_over_depth_are_those_of_the_traces_and_what_has_no_place_is_marked():
    traces = {"good": trace([1, 2, 3], [0.1, 0.2, 0.3]), "bad": trace([1, 0, NAN], [INF, 1, 1])}
    left, right = plot.activations(traces).axes
    assert lines(left)["good"][:, 1].tolist() == [1, 2, 3]
    assert lines(right)["good"][:, 1].tolist() == [0.1, 0.2, 0.3]
    assert lines(left)["not finite"][:, 0].tolist() == [2]
    assert lines(left)["exactly 0"][:, 0].tolist() == [1]
    assert lines(right)["not finite"][:, 0].tolist() == [0]
    assert left.get_yscale() == right.get_yscale() == "log"


def test_activations_over_training_have_a_line_for_each_layer():
    traces = {0: trace([1, 2], [3, 4]), 10: trace([5, 6], [7, 8])}
    left, right = plot.activations(traces, over="training").axes
    assert lines(left)["0 dense"].tolist() == [[0, 1], [10, 5]]
    assert lines(right)["1 dense"].tolist() == [[0, 4], [10, 8]]


def test_feature_maps_are_on_one_scale_and_dead_ones_are_named():
    y = RANDOM.normal(size=(4, 5, 3))
    y[..., 1], y[0, 0, 2] = 0, NAN
    panels = [axes for axes in plot.feature_maps(y, np.zeros((4, 5, 1))).axes if axes.images]
    assert [axes.get_title() for axes in panels] == ["image", "0", "1: dead", "2"]
    for axes, channel in zip(panels[1:], np.moveaxis(y, -1, 0), strict=True):
        image = axes.images[0]
        np.testing.assert_array_equal(image.get_array().filled(NAN), channel)
        assert image.norm.vmax == -image.norm.vmin == np.nanmax(np.abs(y))


def test_recurrence_draws_norms_of_time_steps_and_marks_what_vanished_altogether():
    gradient = RANDOM.normal(size=(2, 4, 3))
    gradient[:, 0] = 0
    top, cells = plot.recurrence({"rnn": gradient}).axes
    norms = np.sqrt((gradient**2).sum(-1).mean(0))
    np.testing.assert_allclose(top.lines[0].get_ydata()[1:], norms[1:])
    assert lines(top)["rnn: 0 or not finite"][:, 0].tolist() == [1]
    assert len(cells.patches) == 4
    assert top.get_yscale() == "log"


def test_masks_of_dropout_are_those_that_the_layer_draws():
    layer, x = fnn.dropout(0.5), jnp.ones(16)
    panels = plot.dropout_masks(layer, x, key=KEY, count=3).axes
    for axes, key in zip(panels, jax.random.split(KEY, 3), strict=True):
        y, _ = layer.apply((), (), x[None], key=key, train=True)
        kept = np.asarray(y[0] != 0, float)
        np.testing.assert_array_equal(axes.images[0].get_array(), kept.reshape(4, 4))
        assert axes.get_title() == f"{1 - kept.mean():.0%} dropped"


def test_channels_that_are_dropped_whole_stand_side_by_side():
    panels = plot.dropout_masks(
        fnn.spatial_dropout(0.5), jnp.ones((2, 2, 4)), key=KEY, count=1
    ).axes
    shown = np.asarray(panels[0].images[0].get_array())
    assert shown.shape == (5, 5)
    assert all(np.ptp(shown[i : i + 2, j : j + 2]) == 0 for i in (0, 3) for j in (0, 3))


def test_histograms_count_every_batch_and_what_is_not_finite():
    values = RANDOM.normal(size=(3, 40))
    values[1, :4] = NAN
    (axes,) = plot.batch_histograms({"before": values}).axes
    counts = [patch.get_data().values.sum() for patch in axes.patches]
    assert counts == [40, 36, 40]
    assert axes.get_title() == "before: 4 not finite"
    means = [line.get_xdata()[0] for line in axes.lines]
    np.testing.assert_allclose(means, np.nanmean(values, 1))


def test_a_confusion_matrix_counts_pairs_and_tells_what_guessing_reaches():
    truth, guesses = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 2, 0])
    axes = plot.confusion_matrix(truth, guesses, ["a", "b", "c"]).axes[0]
    counts = [int(text.get_text() or 0) for text in axes.texts]
    assert np.reshape(counts, (3, 3)).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
    np.testing.assert_allclose(axes.images[0].get_array().sum(1), 1)
    assert axes.get_title() == "66.7% right; guessing the commonest 50.0%"


def history(epochs, accuracy, steps=None):
    steps = epochs if steps is None else steps
    arrays = [np.asarray(one, "float64") for one in (steps, epochs, accuracy)]
    return History(arrays[0], arrays[1], {"accuracy": arrays[2]}, 0.0, 0.0)


def test_a_sweep_draws_means_with_standard_errors_and_says_who_diverged():
    good = [history([3, 1], [0.5, 0.7]), history([5, 3], [0.7, 0.9])]
    bad = [history([3, NAN], [0.1, NAN], [3, NAN, NAN]), history([4, 2], [0.2, 0.4])]
    left, right = plot.sweep({"good": good, "bad": bad}, chance=0.1).axes
    assert lines(left)["good"].tolist() == [[1, 4], [2, 2]]
    np.testing.assert_allclose(lines(right)["good"][:, 1], [0.6, 0.8])
    # The error of a mean of two is half of their difference.
    low, high = left.collections[0].get_paths()[0].get_extents().get_points()[:, 1]
    assert (low, high) == (1, 5)
    assert lines(left)["bad: 1 of 2 diverged at step 2"].tolist() == [[1, 3.5], [2, 2]]
    assert legend(right)[-1] == "guessing: 0.1"


def test_curves_say_where_a_run_diverged_and_what_guessing_reaches():
    one = history([2.3, NAN], [0.3, 0.1], [2.3, 2.0, NAN, NAN])
    left, right = plot.curves(one, chance=0.1).axes
    assert "diverged at step 3" in legend(left)
    assert lines(left)["diverged at step 3"][0, 0] == 1.5
    assert legend(right) == ["guessing: 0.1"]
    assert "diverged" not in " ".join(legend(plot.curves(history([2, 1], [0.5, 0.6])).axes[0]))


MODEL = fnn.dense(2)
PARAMS = {"weight": jnp.ones((2, 2)), "bias": jnp.zeros(2)}
RUN, ZEROS = history([1], [1]), np.zeros(4, int)


@parametrize(
    [
        Bad("no-layers", lambda: plot.activation_functions({}), "plot.activation_functions",
            "layers by name", r"\{\}"),
        Bad("ends", lambda: plot.activation_functions({"": fnn.relu()}, 1, 0),
            "plot.activation_functions", "high above 1", "0"),
        Bad("parameters", lambda: plot.activation_functions({"": fnn.dense(1)}),
            "plot.activation_functions", "layers without parameters", "''"),
        Bad("no-losses", lambda: plot.loss_functions({"": 3}), "plot.loss_functions",
            "losses by name", ".*"),
        Bad("axis", lambda: plot.loss_functions({"": fnn.losses.hinge()}, over="x"),
            "plot.loss_functions", "over of 'error', 'margin'", "'x'"),
        Bad("space", lambda: plot.regions(MODEL, PARAMS, (), np.ones((2, 3)), [0, 1]),
            "plot.regions", r"x of shape \(n, 2\)", r"\(2, 3\)"),
        Bad("class", lambda: plot.regions(MODEL, PARAMS, (), XOR, np.array([0, 1, 2, 0])),
            "plot.regions", "labels of 0 to 1", r"2 at labels\[2\]"),
        Bad("class-names", lambda: plot.regions(MODEL, PARAMS, (), XOR, ZEROS, names=["a"]),
            "plot.regions", "2 names", "1"),
        Bad("one-text", lambda: plot.regions(MODEL, PARAMS, (), XOR, ZEROS, names="ab"),
            "plot.regions", "names of text", "'ab'"),
        Bad("text-array", lambda: plot.regions(MODEL, PARAMS, (), XOR, ZEROS, names=np.array("x")),
            "plot.regions", "names of text", ".*"),
        Bad("numbers", lambda: plot.confusion_matrix([0, 1], [0, 1], [1, 2]),
            "plot.confusion_matrix", "names of text", r"\[1, 2\]"),
        Bad("params", lambda: plot.regions(MODEL, {"a": 1}, (), XOR, ZEROS), "plot.regions",
            "params .*", ".*"),
        Bad("threshold", lambda: plot.regions(MODEL, PARAMS, (), XOR, ZEROS, threshold=[1, 2]),
            "plot.regions", "threshold .*", r"\[1, 2\]"),
        Bad("metric", lambda: plot.sweep({"a": RUN}, ["recall"]), "plot.sweep", "metric of text",
            ".*recall.*"),
        Bad("no-units", lambda: plot.dropout_masks(fnn.dropout(0.5), [], key=jax.random.key(0)),
            "plot.dropout_masks", "x with units", r"shape \(0,\)"),
        Bad("traces", lambda: plot.activations({}), "plot.activations", "traces by name", r"\{\}"),
        Bad("steps", lambda: plot.activations({"a": trace([1], [1])}, over="training"),
            "plot.activations", "step of 0 or more", "'a'"),
        Bad("models", lambda: plot.activations({0: trace([1], [1]), 1: trace([1, 1], [1, 1])},
            over="training"), "plot.activations", "traces of one model", "2 models"),
        Bad("maps", lambda: plot.feature_maps(np.ones((1, 2, 2, 3))), "plot.feature_maps",
            r"y of shape \(H, W, C\)", r"\(1, 2, 2, 3\)"),
        Bad("image", lambda: plot.feature_maps(np.ones((2, 2, 3)), np.ones((2, 2, 2))),
            "plot.feature_maps", "image of shape .*", r"float64 of shape \(2, 2, 2\)"),
        Bad("time", lambda: plot.recurrence({"rnn": np.ones(3)}), "plot.recurrence",
            r"gradients of shape \(B, T, \.\.\.\)", r"float64 of shape \(3,\)"),
        Bad("masks", lambda: plot.dropout_masks(fnn.dropout(0.5), np.ones(4), key=KEY, count=0),
            "plot.dropout_masks", "count of 1 or more", "0"),
        Bad("histograms", lambda: plot.batch_histograms({"x": np.ones(3)}), "plot.batch_histograms",
            r"values of shape \(batches, n\)", r"\(3,\)"),
        Bad("lengths", lambda: plot.confusion_matrix([0, 1], [0]), "plot.confusion_matrix",
            r"predictions of shape \(2,\)", r"\(1,\)"),
        Bad("few-names", lambda: plot.confusion_matrix([0, 2], [0, 1], ["a"]),
            "plot.confusion_matrix", "3 names or more", "1"),
        Bad("scores", lambda: plot.confusion_matrix([0, 1], [0.5, 0.5]), "plot.confusion_matrix",
            "predictions of integers", ".*"),
        Bad("no-runs", lambda: plot.sweep({"a": 1}), "plot.sweep", "histories of 'a'", "1"),
        Bad("runs", lambda: plot.sweep({"a": []}), "plot.sweep", "histories of 'a'", r"\[\]"),
        Bad("sweep-metric", lambda: plot.sweep({"a": RUN}, "recall"), "plot.sweep",
            "a metric of 'accuracy'", "'recall'"),
        Bad("chance", lambda: plot.sweep({"a": RUN}, chance="low"), "plot.sweep",
            "chance of one finite number", "'low'"),
    ]
)  # fmt: skip
def test_pictures_refuse(bad):
    assert_complains(bad, bad.call)


DRAWINGS = {
    "activation_functions": lambda: plot.activation_functions({"relu": fnn.relu()}),
    "loss_functions": lambda: plot.loss_functions({"hinge": fnn.losses.hinge()}, over="margin"),
    "regions": lambda: plot.regions(MODEL, PARAMS, (), XOR, np.zeros(4, int)),
    "activations": lambda: plot.activations({"a": trace([1, 0], [NAN, 1])}),
    "feature_maps": lambda: plot.feature_maps(np.full((3, 3, 2), NAN)),
    "recurrence": lambda: plot.recurrence({"rnn": np.full((2, 3, 1), NAN)}),
    "batch_histograms": lambda: plot.batch_histograms({"x": np.full((2, 3), NAN)}),
    "confusion_matrix": lambda: plot.confusion_matrix([0, 1], [1, 0]),
    "sweep": lambda: plot.sweep({"a": history([NAN, NAN], [NAN, NAN])}),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_pictures_are_drawn_of_what_is_not_finite_too_and_have_words(name):
    figure = DRAWINGS[name]()
    figure.canvas.draw()
    assert figure.get_label()
