"""Landscapes against their formulas and minima; paths of descent on them, and what they show."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import landscapes, optim, plot
from fnn.landscapes.trajectory import Trajectory
from tests.core.test_errors import Bad, assert_complains, parametrize
from tests.train.test_fit import compiled

KEY = jax.random.key(11)


def octopus_by_cases(x, t, g, L):
    """The definition of the paper, one case after the other."""
    x, d = np.abs(x), len(x)
    drop = (4 * L + 13 * (L + g) / 6) * t**2
    for i in range(d):
        if x[i] > 2 * t:
            continue
        behind = sum(L * (x[j] - 4 * t) ** 2 for j in range(i)) - i * drop
        if x[i] <= t:
            return behind - g * x[i] ** 2 + sum(L * x[j] ** 2 for j in range(i + 1, d))
        a = (
            -g * x[i] ** 2
            + (-14 * L + 10 * g) / (3 * t) * (x[i] - t) ** 3
            + (5 * L - 3 * g) / (2 * t**2) * (x[i] - t) ** 4
        )
        z = x[i] - 2 * t
        b = -g - 10 * (L + g) / t**3 * z**3 - 15 * (L + g) / t**4 * z**4 - 6 * (L + g) / t**5 * z**5
        beside = b * x[i + 1] ** 2 if i + 1 < d else 0
        return behind + a + beside + sum(L * x[j] ** 2 for j in range(i + 2, d))
    return sum(L * (x[j] - 4 * t) ** 2 for j in range(d)) - d * drop


# A landscape, its formula in numpy, and its least height.
LANDSCAPES = {
    "quadratic": (
        landscapes.quadratic((1.0, 4.0, 0.5)),
        lambda x: x[0] ** 2 / 2 + 2 * x[1] ** 2 + x[2] ** 2 / 4,
        0,
    ),
    "rosenbrock": (
        landscapes.rosenbrock(),
        lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2,
        0,
    ),
    "himmelblau": (
        landscapes.himmelblau(),
        lambda x: (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2,
        0,
    ),
    "saddle": (
        landscapes.saddle(),
        lambda x: x[0] ** 2 / 2 + x[1] ** 4 / 4 - x[1] ** 2 / 2,
        -0.25,
    ),
    "double_well": (
        landscapes.double_well(0.4),
        lambda x: (x[0] ** 2 - 1) ** 2 + 0.4 * x[0],
        None,
    ),
    "rastrigin": (
        landscapes.rastrigin(3),
        lambda x: sum(10 + v**2 - 10 * math.cos(2 * math.pi * v) for v in x),
        0,
    ),
    "octopus": (
        landscapes.octopus(4, 1.5, 0.8, 1.3),
        lambda x: octopus_by_cases(x, 1.5, 0.8, 1.3),
        -4 * (4 * 1.3 + 13 * 2.1 / 6) * 1.5**2,
    ),
}
all_landscapes = pytest.mark.parametrize("name", LANDSCAPES)


def points(f, count=200):
    return np.random.default_rng(5).uniform(f.low, f.high, (count, len(f.low)))


@all_landscapes
def test_a_landscape_is_its_formula(name):
    f, formula, _ = LANDSCAPES[name]
    with jax.enable_x64(True):
        x = points(f)
        heights = f(x)
        # One number for a point, and any axes in front.
        np.testing.assert_allclose(f(x.reshape(2, 100, -1)).ravel(), heights)
        assert f(x[0]).shape == ()
        expected = [formula(p) for p in x]
        np.testing.assert_allclose(heights, expected, rtol=1e-12, atol=1e-11)


def derivatives(f):
    return jax.jit(lambda x: (f(x), jax.grad(f)(x), jax.hessian(f)(x)))


def in_tubes(x, t):
    """Say where the octopus is defined: what comes after the saddle at hand is small."""
    small, behind = np.abs(x) <= t, np.cumprod(np.abs(x) > 2 * t, 1).astype(bool)
    at_hand = np.concatenate([np.ones_like(x[:, :1], bool), behind[:, :-1]], 1)
    return (behind | at_hand | small).all(1)


@all_landscapes
def test_the_minima_are_minima_and_the_least(name):
    f, _, least = LANDSCAPES[name]
    with jax.enable_x64(True):
        others = points(f, 2000)
        if name == "octopus":
            others = others[in_tubes(others, 1.5)]
        for minimum in f.minima:
            height, slope, curvature = derivatives(f)(jnp.asarray(minimum))
            assert np.linalg.norm(slope) < 1e-8
            assert np.linalg.eigvalsh(curvature).min() > 0
            if least is not None:
                assert abs(float(height) - least) < 1e-10
            assert float(height) <= float(f(others).min())
            assert np.all(np.asarray(f.low) <= minimum)
            assert np.all(minimum <= np.asarray(f.high))


def test_the_octopus_is_smooth_across_its_pieces():
    # Value, gradient and the second derivative along the way agree on both sides of a border.
    with jax.enable_x64(True):
        t = 1.5
        at = derivatives(LANDSCAPES["octopus"][0])
        for border in (t, 2 * t):
            for where in (
                [border, 0.4, 0.2, 0.3],
                [4.4, border, 0.7, 0.1],
                [5.0, 4.0, 3.5, border],
            ):
                i = where.index(border)
                sides = [np.array(where) + s * 1e-9 * np.eye(4)[i] for s in (-1, 1)]
                (height, slope, second), others = at(sides[0]), at(sides[1])
                np.testing.assert_allclose(height, others[0], atol=1e-6)
                np.testing.assert_allclose(slope, others[1], atol=1e-6)
                np.testing.assert_allclose(second[i, i], others[2][i, i], atol=1e-6)


def test_a_path_holds_the_start_every_step_and_the_height_there():
    f = landscapes.quadratic((1.0, 4.0))
    path = landscapes.descend(optim.sgd(0.1, 0.5), f, [1.0, 1.0], 5)
    p, v = np.array([1.0, 1.0]), np.zeros(2)
    for t in range(6):
        np.testing.assert_allclose(path.points[t], p, rtol=1e-5)
        np.testing.assert_allclose(path.values[t], (p**2 * [1, 4]).sum() / 2, rtol=1e-5)
        v = 0.5 * v + p * [1, 4]
        p = p - 0.1 * v
    assert path.points.shape == (6, 2)
    assert path.values.shape == (6,)


def test_a_path_may_be_of_one_number_or_of_a_tree_and_of_any_rule():
    one = landscapes.descend(optim.sgd(0.1), lambda x: x**2 / 2, 1, 3)
    np.testing.assert_allclose(one.points, [1, 0.9, 0.81, 0.729], rtol=1e-6)
    optimizer = optim.chain(optim.gradient_noise({"b": 1.0}, key=KEY), optim.adam(0.1))
    tree = landscapes.descend(
        optimizer, lambda p: (p["a"] ** 2 + p["b"] ** 2).sum(), {"a": 1.0, "b": 2.0}, 4
    )
    assert {name: a.shape for name, a in tree.points.items()} == {"a": (5,), "b": (5,)}


def test_a_path_may_start_from_integers_and_from_bytes_in_the_other_order():
    f = landscapes.quadratic((1.0, 4.0))
    expected = landscapes.descend(optim.sgd(0.1), f, jnp.array([1.0, 2.0]), 3)
    for start in ([1, 2], (1, 2), np.array([1, 2], "uint8"), np.array([1, 2], ">f4")):
        np.testing.assert_array_equal(
            landscapes.descend(optim.sgd(0.1), f, start, 3).points, expected.points
        )
    np.testing.assert_array_equal(f(np.array([1, 2], ">f8")), f([1.0, 2.0]))


@pytest.mark.parametrize(
    "function",
    [landscapes.quadratic((1.0, 4.0)), jax.jit(lambda p: (p**2).sum())],
    ids=["landscape", "jit"],
)
def test_other_rates_and_other_starts_are_run_by_the_same_program(function, caplog):
    first = landscapes.descend(optim.sgd(0.1), function, [1.0, 1.0], 3)
    again, programs = compiled(
        caplog, lambda: landscapes.descend(optim.sgd(0.2), function, [2.0, 1.0], 3)
    )
    assert not programs
    assert (again.points[1] != 2 * first.points[1]).all()


def test_a_plain_function_is_read_anew_at_every_call():
    scale = 1.0

    def f(p):
        return scale * (p**2).sum() / 2

    first = landscapes.descend(optim.sgd(0.5), f, [8.0], 1)
    scale = 2.0
    again = landscapes.descend(optim.sgd(0.5), f, [8.0], 1)
    assert [float(one.points[1, 0]) for one in (first, again)] == [4.0, 0.0]


# What the lectures say of descent, seen on paths.


@pytest.mark.parametrize(
    ("rate", "ends"), [(0.01, "on the way"), (0.19, "there"), (0.201, "away")], ids=str
)
def test_the_learning_rate_decides_whether_descent_creeps_arrives_or_diverges(rate, ends):
    # Curvature 10: stable below 2 / 10.
    path = landscapes.descend(optim.sgd(rate), landscapes.quadratic((1.0, 10.0)), [1.0, 1.0], 100)
    distance = np.linalg.norm(path.points[-1])
    assert {"on the way": 0.1 < distance < 1, "there": distance < 0.01, "away": distance > 1}[ends]


def test_descent_stays_in_the_local_minimum_and_noise_gets_out():
    f = landscapes.double_well()
    plain = landscapes.descend(optim.sgd(0.02), f, [1.2], 2000)
    assert plain.points[-1, 0] > 0.9
    # Annealed from a temperature below the barrier, of 0.7, to one below the difference, of 0.6.
    cooling = optim.schedule.exponential(0.6, 0.5, 500)
    ends = jax.vmap(
        lambda key: landscapes.descend(
            optim.sgld(0.02, 1, cooling, key=key), f, [1.2], 2000
        ).points[-1, 0]
    )(jax.random.split(KEY, 200))
    assert (ends < 0).mean() > 0.6


@pytest.mark.parametrize("noise", ["sphere_noise", "perturbed"])
def test_descent_rests_on_the_ridge_of_a_saddle_and_noise_slides_off(noise):
    f = landscapes.saddle()
    plain = landscapes.descend(optim.sgd(0.1), f, [1.0, 0.0], 300)
    np.testing.assert_allclose(plain.points[-1], 0, atol=1e-6)
    optimizer = {
        "sphere_noise": optim.chain(optim.sphere_noise(0.1, key=KEY), optim.sgd(0.1)),
        "perturbed": optim.perturbed(optim.sgd(0.1), 0.01, 0.01, 20, key=KEY),
    }[noise]
    path = landscapes.descend(optimizer, f, [1.0, 0.0], 300)
    assert abs(path.values[-1] + 0.25) < 0.01


# Du et al. 2017: plain descent against perturbed on the octopus. The figures of a run by numpy,
# iterations to within 1e-3 of the minimum, from the uniform starts of seeds 0 to 4.
PLAIN = {1.0: (547, 846, 492, 412, 541), 1.5: (1716, 2789, 1494, 1213, 1588)}
PERTURBED = {
    (5, 1.0): (104, 129, 109, 103, 110),
    (5, 1.5): (141, 160, 150, 132, 149),
    (5, 2.0): (173, 192, 164, 165, 170),
    (5, 3.0): (225, 249, 220, 221, 221),
    (10, 1.0): (240, 243, 240, 226, 242),
    (10, 3.0): (501, 510, 506, 502, 472),
}
EDGE = math.e


def iterations(optimizer, dimensions, bowl, budget):
    """How many steps from each start until the height is within 1e-3 of the minimum."""
    f = landscapes.octopus(dimensions, EDGE, 1.0, bowl)
    starts = np.stack([np.random.default_rng(seed).uniform(-1, 1, dimensions) for seed in range(5)])
    keys = jax.vmap(jax.random.key)(jnp.arange(5))
    paths = jax.vmap(lambda key, start: landscapes.descend(optimizer(key), f, start, budget))(
        keys, starts
    )
    below = np.asarray(paths.values < f(f.minima[0]) + 1e-3)
    return np.where(below.any(1), below.argmax(1), budget)


@pytest.mark.parametrize("bowl", PLAIN)
def test_plain_descent_on_the_octopus_takes_the_published_iterations(bowl):
    with jax.enable_x64(True):
        counts = iterations(lambda key: optim.sgd(1 / (4 * bowl)), 5, bowl, 3000)
    np.testing.assert_array_equal(counts, PLAIN[bowl])


@pytest.mark.parametrize(("dimensions", "bowl"), PERTURBED)
def test_perturbed_descent_on_the_octopus_takes_the_published_iterations(dimensions, bowl):
    def optimizer(key):
        return optim.perturbed(optim.sgd(1 / (4 * bowl)), EDGE / 100, EDGE / 100, 1, key=key)

    with jax.enable_x64(True):
        counts = iterations(optimizer, dimensions, bowl, 700)
    assert abs(np.mean(counts) / np.mean(PERTURBED[dimensions, bowl]) - 1) < 0.1


@pytest.mark.parametrize(("bowl", "saddles"), [(1.0, 6), (1.5, 5), (2.0, 4), (3.0, 4)])
def test_each_saddle_takes_plain_descent_the_predicted_factor_longer(bowl, saddles):
    f = landscapes.octopus(saddles, EDGE, 1.0, bowl)
    with jax.enable_x64(True):
        start = np.random.default_rng(0).uniform(-1, 1, saddles)
        points = landscapes.descend(optim.sgd(1 / (4 * bowl)), f, start, 4000).points
    left = (np.abs(points) > 2 * EDGE).argmax(0)
    measured, predicted = left[-1] / left[-2], 1 + math.log(2) / math.log(1 + 1 / (2 * bowl))
    assert left.min() > 0
    assert abs(measured / predicted - 1) < 0.01


@parametrize(
    [
        Bad(
            "point",
            lambda: landscapes.rosenbrock()(jnp.ones(3)),
            "landscapes.Landscape",
            r"points of shape \(\.\.\., 2\)",
            r"float32 of shape \(3,\)",
        ),
        Bad(
            "curvatures",
            lambda: landscapes.quadratic((1.0, 0.0)),
            "landscapes.quadratic",
            "curvatures above 0, one for each coordinate",
            r"\(1\.0, 0\.0\)",
        ),
        Bad(
            "tilt",
            lambda: landscapes.double_well(2.0),
            "landscapes.double_well",
            r"a tilt in \(0, 1\.5\)",
            r"2\.0",
        ),
        Bad(
            "rastrigin",
            lambda: landscapes.rastrigin(0),
            "landscapes.rastrigin",
            "dimensions of 1 or more",
            "0",
        ),
        Bad(
            "octopus",
            lambda: landscapes.octopus(1),
            "landscapes.octopus",
            "dimensions of 2 or more",
            "1",
        ),
        Bad(
            "edge",
            lambda: landscapes.octopus(edge=0.0),
            "landscapes.octopus",
            "edge above 0",
            r"0\.0",
        ),
        *(
            Bad(
                f"tilt-{got}",
                lambda v=value: landscapes.double_well(v),
                "landscapes.double_well",
                r"tilt in \(0, 1\.5\)",
                got,
            )
            for value, got in ((np.nan, "nan"), ("x", "'x'"), (np.float32(2), r"2\.0"), (1j, "1j"))
        ),
        Bad(
            "curvature",
            lambda: landscapes.quadratic(3.0),
            "landscapes.quadratic",
            "curvatures above 0, one for each coordinate",
            r"3\.0",
        ),
        Bad(
            "curvature-nan",
            lambda: landscapes.quadratic((1.0, np.nan)),
            "landscapes.quadratic",
            "curvatures above 0, one for each coordinate",
            r"\(1\.0, nan\)",
        ),
        Bad(
            "bowl-inf",
            lambda: landscapes.octopus(bowl=math.inf),
            "landscapes.octopus",
            "bowl above 0",
            "inf",
        ),
        Bad(
            "dimensions",
            lambda: landscapes.rastrigin(2.0),
            "landscapes.rastrigin",
            "dimensions of 1 or more",
            r"2\.0",
        ),
        Bad(
            "height",
            lambda: landscapes.Landscape(3, [[0.0]], [0.0], [1.0]),
            "",
            "height to be a function",
            "3",
        ),
        Bad(
            "corners",
            lambda: landscapes.Landscape(abs, [[0.0]], [0.0], [1.0, 2.0]),
            "",
            r"minima \(n, d\), low \(d,\) and high \(d,\)",
            r"\(1, 1\), \(1,\), \(2,\)",
        ),
        Bad(
            "point-text",
            lambda: landscapes.saddle()("x"),
            "landscapes.Landscape",
            "point of numbers",
            "'x'",
        ),
        Bad(
            "point-complex",
            lambda: landscapes.saddle()([1j, 0]),
            "landscapes.Landscape",
            "point of a floating dtype",
            r"complex64 of shape \(2,\)",
        ),
        Bad(
            "optimizer",
            lambda: landscapes.descend(0.1, landscapes.saddle(), [0.0, 0.0], 3),
            "landscapes.descend",
            "an optimizer",
            r"0\.1",
        ),
        Bad(
            "function",
            lambda: landscapes.descend(optim.sgd(0.1), 3, [0.0, 0.0], 3),
            "landscapes.descend",
            "function to be a function",
            "3",
        ),
        Bad(
            "start",
            lambda: landscapes.descend(optim.sgd(0.1), landscapes.saddle(), "x", 3),
            "landscapes.descend",
            "start of numbers",
            "'x'",
        ),
        Bad(
            "mask",
            lambda: landscapes.descend(
                optim.sgd(0.1), landscapes.saddle(), np.ma.array([1.0, 2.0], mask=[True, False]), 3
            ),
            "landscapes.descend",
            "start without a mask",
            r"float64 of shape \(2,\)",
        ),
        Bad(
            "value-int",
            lambda: landscapes.descend(optim.sgd(0.1), lambda p: 1, [0.0], 5),
            "landscapes.descend",
            "a function to one number",
            ".+",
        ),
        Bad(
            "steps-true",
            lambda: landscapes.descend(optim.sgd(0.1), landscapes.saddle(), [0, 0], True),
            "landscapes.descend",
            "steps of 1 or more",
            "True",
        ),
        Bad(
            "steps",
            lambda: landscapes.descend(optim.sgd(0.1), landscapes.saddle(), [0.0, 0.0], 0),
            "landscapes.descend",
            "steps of 1 or more",
            "0",
        ),
        Bad(
            "value",
            lambda: landscapes.descend(optim.sgd(0.1), lambda p: p, [0.0, 0.0], 5),
            "landscapes.descend",
            "a function to one number",
            r"float32 of shape \(2,\)",
        ),
    ]
)
def test_landscapes_and_paths_refuse(bad):
    assert_complains(bad, bad.call)


def test_a_picture_has_a_panel_for_each_path_over_the_part_asked_for():
    saddle, wells = landscapes.saddle(), landscapes.double_well()
    two = landscapes.descend(optim.sgd(0.1), saddle, [1.0, 0.1], 20)
    one = landscapes.descend(optim.sgd(0.02), wells, [1.2], 400)
    figure = plot.descent(saddle, {"first": two, "second": two})
    assert [axes.get_title() for axes in figure.axes] == ["first", "second"]
    assert plot.descent(wells, {"one": one}).axes[0].get_xlim() == (-1.7, 1.7)
    part = plot.descent(lambda p: (p**2).sum(-1), {"": two}, (-1, -2), (1, 3)).axes[0]
    assert (part.get_xlim(), part.get_ylim()) == ((-1, 1), (-2, 3))


SADDLE = landscapes.saddle()


def draw(function=SADDLE, steps=((0.0, 0.0),), **corners):
    paths = {str(i): Trajectory(np.array([p]), np.zeros(1)) for i, p in enumerate(steps)}
    return plot.descent(function, paths, **corners)


@parametrize(
    [
        Bad(
            "corners",
            lambda: draw(lambda p: p.sum(-1)),
            "plot.descent",
            "corners low and high of one or two numbers",
            "None and None",
        ),
        Bad(
            "three",
            lambda: draw(low=(0, 0, 0), high=(1, 1, 1)),
            "plot.descent",
            "corners low and high of one or two numbers",
            r"\(0, 0, 0\) and \(1, 1, 1\)",
        ),
        Bad(
            "paths",
            lambda: draw(steps=[(0.0,)]),
            "plot.descent",
            r"paths of points \(steps \+ 1, 2\)",
            r"\{'0': \(1, 1\)\}",
        ),
        Bad(
            "none",
            lambda: draw(steps=[]),
            "plot.descent",
            r"paths of points \(steps \+ 1, 2\)",
            "{}",
        ),
        Bad(
            "heights",
            lambda: draw(fnn.relu(), low=(0, 0), high=(1, 1)),
            "plot.descent",
            r"heights of shape \(201, 201\) for points .*",
            r"shape \(201, 201, 2\)",
        ),
    ]
)
def test_pictures_of_descent_refuse(bad):
    assert_complains(bad, bad.call)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["double_well", "octopus"])
def test_numbers_of_jax_make_the_landscape_that_pythons_make(name, kind):
    make, point = getattr(landscapes, name), jnp.array([0.3, -0.4])[: 1 + (name == "octopus")]
    key = "tilt" if name == "double_well" else "edge"
    found, wanted = make(**{key: jnp.asarray(0.5, kind)}), make(**{key: 0.5})
    assert found(point) == wanted(point)
    np.testing.assert_array_equal(found.minima, wanted.minima)
