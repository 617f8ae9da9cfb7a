"""Pictures of sweeps over several settings: what they show is what the runs say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fnn
from fnn import plot
from fnn.train import Sweep
from fnn.train.fit import History

LOST = "the parameters became infinite or NaN"
AXES = {
    "learning_rate": [0.001, 0.1, 10.0], "momentum": [0.0, 0.9], "optimizer": ["sgd", "adam"],
    "hidden": [(8,)], "seed": [0, 1],
}  # fmt: skip


def accuracy(point):
    rate = {0.001: 0.25, 0.1: 0.75, 10.0: np.nan}[point["learning_rate"]]
    return rate + point["momentum"] / 10 + point["seed"] / 100


def swept(axes=AXES):
    points = [dict(zip(axes, row, strict=True)) for row in itertools.product(*axes.values())]
    runs = []
    for point in points:
        reached = accuracy(point)
        loss, lost = np.array([2.0, 1 - reached]), not np.isfinite(reached)
        measured = {} if lost else {"loss": loss, "accuracy": np.array([0.1, reached])}
        runs.append(History(loss, loss, measured, 0.0, 0.0, LOST if lost else ""))
    return Sweep(points, runs, [], 1)


def drawn(figure):
    figure.canvas.draw()
    return figure.axes[0]


def texts(axes):
    return [one.get_text() for one in axes.texts]


def test_parallel_coordinates_have_an_axis_for_what_differs_and_a_line_for_every_point():
    axes = drawn(plot.parallel_coordinates(swept(), "validation accuracy", largest=True))
    names = [word for word in texts(axes) if "_" in word or word in (*AXES, "validation accuracy")]
    assert names == ["learning_rate", "momentum", "optimizer", "validation accuracy"]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 4]
    ends = np.array([line.get_ydata() for line in lines])
    assert len(ends) == 3 * 2 * 2
    # A factor of 10,000 is drawn to a logarithmic scale: 0.1 is in the middle.
    assert sorted({round(y, 9) for y in ends[:, 0]}) == [0, 0.5, 1]
    fine = ends[ends[:, 0] < 1]
    # 0.255 to 0.845, the means over two seeds.
    expected = {0.255: 0.0, 0.345: 0.09 / 0.59, 0.755: 0.5 / 0.59, 0.845: 1.0}
    np.testing.assert_allclose(sorted(set(fine[:, 3].round(9))), sorted(expected.values()))
    # What is lost ends below the axis, and is counted.
    assert (ends[ends[:, 0] == 1][:, 3] < 0).all()
    assert "4 of 12 stopped" in texts(axes)
    best = max(lines, key=lambda line: line.get_linewidth()).get_ydata()
    assert list(best) == [0.5, 1, best[2], 1]
    assert axes.get_title().startswith("best validation accuracy 0.845: learning_rate 0.1")


@pytest.mark.parametrize("largest", [True, False])
def test_the_best_line_is_the_darkest(largest):
    axes = drawn(plot.parallel_coordinates(swept(), "loss", largest=largest))
    lines = [line for line in axes.lines if len(line.get_xdata()) == 4 and line.get_ls() == "-"]
    ends = [line.get_ydata()[-1] for line in lines]
    shades = [sum(line.get_color()[:3]) for line in lines]
    assert np.argmin(shades) in np.flatnonzero(np.isclose(ends, 1.0 if largest else 0.0))


def test_a_heat_map_holds_the_mean_of_every_square():
    figure = plot.heat_map(
        swept(), "learning_rate", "momentum", "validation accuracy", largest=True
    )
    axes = drawn(figure)
    table = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_allclose(table, [[0.255, 0.755, np.nan], [0.345, 0.845, np.nan]])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.001", "0.1", "10"]
    assert sorted(texts(axes)) == sorted(["0.255", "0.755", "x", "0.345", "0.845", "x"])
    assert axes.get_title() == "mean validation accuracy over optimizer, seed"
    # The dot stands in the best square.
    assert [round(float(v)) for v in axes.lines[0].get_xydata()[0]] == [1, 1]
    assert "best 0.845 at learning_rate 0.1, momentum 0.9" in figure.get_label()


def test_a_heat_map_takes_the_first_two_settings_that_differ_and_the_least_value():
    axes = drawn(plot.heat_map(swept()))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning_rate", "momentum")
    assert [round(float(v)) for v in axes.lines[0].get_xydata()[0]] == [1, 1]
    rest = drawn(plot.heat_map(swept(), y="learning_rate"))
    assert (rest.get_xlabel(), rest.get_ylabel()) == ("momentum", "learning_rate")
    seeds = drawn(plot.heat_map(swept(), "seed", "optimizer"))
    assert [tick.get_text() for tick in seeds.get_xticklabels()] == ["0", "1"]


@pytest.mark.parametrize("make", [plot.parallel_coordinates, plot.heat_map])
def test_a_sweep_of_which_every_run_is_lost_is_drawn(make):
    drawn(make(swept(AXES | {"learning_rate": [10.0], "momentum": [0.0, 0.9]})))


def test_drawn_points_have_a_few_numbers_beside_their_axis():
    rates = np.geomspace(0.001, 1, 50).tolist()
    points = [{"rate": rate, "seed": 0} for rate in rates]
    one = np.ones(1)
    result = Sweep(points, [History(one * rate, one * rate, {}, 0.0, 0.0) for rate in rates], [], 1)
    beside = [word for word in texts(drawn(plot.parallel_coordinates(result))) if word[0].isdigit()]
    assert len(beside) == 5 + 3
    with pytest.raises(fnn.InputError, match="40 values of rate at most, got 50"):
        plot.heat_map(result, "rate", "seed")


ONE = swept(AXES | {"learning_rate": [0.1], "momentum": [0.9], "optimizer": ["sgd"]})


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: plot.parallel_coordinates({}), "a sweep with runs"),
        (lambda: plot.parallel_coordinates(Sweep([], [], [], 0)), "a sweep with runs"),
        (lambda: plot.parallel_coordinates(swept(), "accuracy"), "a column of numbers of 'loss'"),
        (lambda: plot.parallel_coordinates(swept(), "stopped"), "a column of numbers"),
        (lambda: plot.parallel_coordinates(swept(), largest=1), "largest"),
        (lambda: plot.parallel_coordinates(ONE), "points that differ in a setting"),
        (lambda: plot.heat_map([]), "a sweep with runs"),
        (lambda: plot.heat_map(swept(), "rate"), "x, a setting of 'learning_rate'"),
        (lambda: plot.heat_map(swept(), "seed", "seed"), "two settings"),
        (lambda: plot.heat_map(ONE), "two settings, got none that differ"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make, match):
    with pytest.raises(fnn.InputError, match=match):
        make()
