"""Constraints: projections against their definition, and descent that stays in the set."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fnn import optim
from fnn.optim.transforms import constraint
from tests.core.test_errors import Bad, assert_complains, parametrize
from tests.tolerance import rounding

# A constraint, and how far at most a point (I, O) is outside its set.
SETS = {
    "box": (constraint.box(-0.5, 0.75), lambda p: max((p - 0.75).max(), (-0.5 - p).max(), 0)),
    "non_negative": (constraint.non_negative(), lambda p: max(-p.min(), 0)),
    "ball": (constraint.ball(1.5), lambda p: max(np.linalg.norm(p) - 1.5, 0)),
    "max_norm": (constraint.max_norm(0.8), lambda p: max(np.linalg.norm(p, axis=0).max() - 0.8, 0)),
    "sphere": (constraint.sphere(1.5), lambda p: abs(np.linalg.norm(p) - 1.5)),
    "simplex": (
        constraint.simplex(2.0),
        lambda p: max(np.abs(p.sum(-1) - 2).max(), -p.min()),
    ),
}
all_sets = pytest.mark.parametrize("name", SETS)
CONVEX = [name for name in SETS if name != "sphere"]


@functools.cache
def compiled(name):
    """The projection as one program, which many points share."""
    return jax.jit(SETS[name][0])


def point(seed, shape=(4, 3), size=2.0):
    return np.random.default_rng(seed).normal(size=shape) * size


@pytest.mark.parametrize("size", [0.01, 0.3, 2.0, 50.0])
@all_sets
def test_the_nearest_point_is_in_the_set_and_none_in_it_is_nearer(name, size):
    nearest, outside = compiled(name), SETS[name][1]
    with jax.enable_x64(True):
        p = point(1, size=size)
        q = np.asarray(nearest(jnp.asarray(p)))
        assert outside(q) <= rounding("float64", p.size)
        np.testing.assert_allclose(nearest(jnp.asarray(q)), q, atol=rounding("float64", p.size))
        others = [np.asarray(nearest(jnp.asarray(point(seed)))) for seed in range(2, 40)]
        others += [np.asarray(nearest(jnp.asarray(q + 0.01 * point(seed)))) for seed in range(9)]
    distances = [np.linalg.norm(other - p) for other in others]
    assert np.linalg.norm(q - p) <= min(distances) + rounding("float64", p.size) * size


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@all_sets
def test_the_nearest_point_keeps_shape_and_dtype(name, dtype):
    for shape in ((3,), (2, 3), (2, 2, 3)):
        p = jnp.asarray(point(1, shape), dtype)
        q = SETS[name][0](p)
        assert (q.shape, q.dtype) == (p.shape, p.dtype)


def exact(name, p):
    """The nearest point, in float64."""
    with jax.enable_x64(True):
        return np.asarray(SETS[name][0](jnp.asarray(np.asarray(p, np.float64))))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("size", [1e-30, 1e-4, 300.0, 3000.0, 2e7, 1e30])
@all_sets
def test_the_nearest_point_of_large_and_small_numbers_is_that_of_float64(name, size, dtype):
    # Nothing beyond what the dtype holds: in float16 that is 65504, and 0 what is small enough.
    largest = float(jnp.finfo(dtype).max)
    p = jnp.asarray(np.clip(point(1, size=size), -largest, largest), dtype)
    q = np.asarray(SETS[name][0](p), np.float64)
    np.testing.assert_allclose(q, exact(name, p), rtol=rounding(dtype, p.size),
                               atol=rounding(dtype, p.size))  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "large"), [("bfloat16", 3e2), ("float16", 3e3), ("float32", 2e7)]
)
def test_the_simplex_is_reached_from_far_away(dtype, large):
    for p in ([large, 0, 0], [large, large, -large], [-large, -large - 1, -2 * large]):
        q = np.asarray(constraint.simplex()(jnp.array(p, dtype)), np.float64)
        np.testing.assert_allclose(q, exact_simplex(np.asarray(jnp.array(p, dtype), np.float64)))


def exact_simplex(p):
    """Try every number of entries that stay, from the largest on."""
    below = p - p.max()
    for used in range(len(p), 0, -1):
        shift = (np.sort(below)[::-1][:used].sum() - 1) / used
        if np.sort(below)[::-1][used - 1] > shift:
            return np.maximum(below - shift, 0)
    raise AssertionError


@all_sets
def test_nan_is_in_no_set_and_is_not_hidden(name):
    p = point(1)
    p[1, 2] = np.nan
    q = np.asarray(SETS[name][0](jnp.asarray(p, "float32")))
    assert np.isnan(q[1, 2])
    optimizer = optim.project(SETS[name][0])
    start = jnp.zeros((4, 3))
    update, _ = optimizer.update(jnp.asarray(p, "float32"), (), start)
    assert np.isnan(update[1, 2])


def test_a_box_may_be_open_on_one_side():
    p = jnp.array([-3.0, 0.5, 1e30])
    np.testing.assert_array_equal(constraint.box(-1.0, math.inf)(p), [-1, 0.5, np.float32(1e30)])
    np.testing.assert_array_equal(constraint.box(-math.inf, 1.0)(p), [-3, 0.5, 1])


def test_zero_has_a_nearest_point_on_the_sphere():
    np.testing.assert_allclose(constraint.sphere(2.0)(jnp.zeros((2, 2))), 1.0)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=6), st.floats(0.1, 4))
def test_the_simplex_is_reached_by_one_shift_and_a_cut(numbers, total):
    p = jnp.asarray(numbers, "float32")
    q = np.asarray(constraint.simplex(total)(p), np.float64)
    assert q.min() >= 0
    assert abs(q.sum() - total) < 1e-4
    shifts = np.asarray(numbers)[q > 0] - q[q > 0]
    assert np.ptp(shifts) < 1e-4
    assert (np.asarray(numbers)[q == 0] <= shifts.max() + 1e-4).all()


@pytest.mark.parametrize("name", CONVEX)
def test_projected_descent_finds_the_constrained_minimum(name):
    # The minimum of |p - c|^2 / 2 over a set is the nearest point to c: another way to it.
    nearest, outside = SETS[name]
    with jax.enable_x64(True):
        c = jnp.asarray(point(5))
        optimizer = optim.chain(optim.sgd(0.2), optim.project(nearest))

        def step(_, carry):
            p, state = carry
            update, state = optimizer.update(p - c, state, p)
            return p + update, state

        start = jnp.zeros_like(c)
        p = jax.jit(lambda: jax.lax.fori_loop(0, 300, step, (start, optimizer.init(start)))[0])()
        assert outside(np.asarray(p)) <= rounding("float64", p.size)
        assert outside(np.asarray(c)) > 0.1
        np.testing.assert_allclose(p, nearest(c), atol=1e-10)


def updated(optimizer, updates, params):
    new, _ = optimizer.update(updates, optimizer.init(params), params)
    return jax.tree.map(jnp.add, params, new)


def test_numbers_inside_keep_their_update_to_the_bit_and_zero_is_exact():
    p, u = jnp.asarray(point(1), "float32"), jnp.asarray(point(2), "float32")
    optimizer = optim.project(constraint.non_negative())
    new, _ = optimizer.update(u, (), p)
    inside = p + u >= 0
    assert inside.any()
    assert not inside.all()
    np.testing.assert_array_equal(new[inside], u[inside])
    np.testing.assert_array_equal((p + new)[~inside], 0)


def test_paths_choose_what_is_constrained_and_the_first_match_counts():
    params = {"in": {"weight": jnp.ones(2), "bias": jnp.ones(2)}, "out": jnp.ones(2)}
    updates = jax.tree.map(lambda p: -3 * p, params)
    optimizer = optim.project(
        {"*/bias": constraint.box(-1.0, 1.0), "in/*": constraint.non_negative()}
    )
    after = updated(optimizer, updates, params)
    np.testing.assert_array_equal(after["in"]["weight"], 0)
    np.testing.assert_array_equal(after["in"]["bias"], -1)
    np.testing.assert_array_equal(after["out"], -2)


def test_any_function_of_an_array_is_a_projection():
    optimizer = optim.project(jnp.round)
    np.testing.assert_array_equal(updated(optimizer, jnp.array([0.3, 0.8]), jnp.zeros(2)), [0, 1])


@all_sets
def test_projection_is_mapped_and_compiled(name):
    p, u = jnp.asarray(point(1, (2, 4, 3)), "float32"), jnp.asarray(point(2, (2, 4, 3)), "float32")
    optimizer = optim.project(SETS[name][0])
    mapped = jax.jit(jax.vmap(lambda p, u: updated(optimizer, u, p)))(p, u)
    for i in range(2):
        np.testing.assert_allclose(mapped[i], updated(optimizer, u[i], p[i]), atol=1e-5)
    assert optim.project(constraint.box(0, 1)) == optim.project(constraint.box(0, 1))
    assert str(optimizer) == f"project({SETS[name][0]})"


def project_by(pattern):
    optimizer = optim.project({pattern: constraint.non_negative()})
    return optimizer.init({"weight": jnp.ones(2)})


@parametrize(
    [
        Bad(
            "box",
            lambda: constraint.box(1, 1),
            "optim.constraint.box",
            "low below high",
            "1 and 1",
        ),
        *(
            Bad(
                f"{name}-{value}",
                lambda make=make, value=value: make(value),
                f"optim.constraint.{name}",
                f"a {word} above 0",
                str(value).replace(".", r"\."),
            )
            for name, make, word in (
                ("ball", constraint.ball, "radius"),
                ("max_norm", constraint.max_norm, "limit"),
                ("sphere", constraint.sphere, "radius"),
                ("simplex", constraint.simplex, "total"),
            )
            for value in (0.0, -1.0)
        ),
        *(
            Bad(
                f"{name}-{got}",
                lambda make=make, value=value: make(value),
                f"optim.constraint.{name}",
                f"{word} above 0",
                got,
            )
            for name, make, word in (
                ("ball", constraint.ball, "radius"),
                ("max_norm", constraint.max_norm, "limit"),
                ("sphere", constraint.sphere, "radius"),
                ("simplex", constraint.simplex, "total"),
            )
            for value, got in (
                (np.float32(-1), r"-1\.0"), (jnp.array(0.0), "0"), (np.inf, "inf"), (np.nan, "nan"),
                (1j, "1j"), ("x", "'x'"), (True, "True"),
            )
        ),
        Bad("box-nan", lambda: constraint.box(np.nan, 1), "optim.constraint.box", "low .+", "nan"),
        Bad("box-text", lambda: constraint.box(0, "x"), "optim.constraint.box", "high .+", "'x'"),
        Bad(
            "simplex-scalar",
            lambda: constraint.simplex()(jnp.ones(())),
            "optim.constraint.simplex",
            "an array of one entry or more along the last axis",
            r"\(\)",
        ),
        Bad(
            "simplex-empty",
            lambda: constraint.simplex()(jnp.ones((2, 0))),
            "optim.constraint.simplex",
            "an array of one entry or more along the last axis",
            r"\(2, 0\)",
        ),
        Bad(
            "no-function",
            lambda: optim.project(1.0),
            "optim.project",
            "a projection to be a function",
            r"1\.0",
        ),
        Bad(
            "pattern",
            lambda: project_by("*/bias"),
            "optim.project",
            "a pattern that matches a parameter",
            r"'\*/bias'",
        ),
        Bad(
            "no-text",
            lambda: project_by(3),
            "optim.project",
            "a pattern over paths",
            "3",
        ),
        Bad(
            "no-pattern",
            lambda: optim.project({}).init(()),
            "optim.project",
            "a pattern or more",
            "an empty mapping",
        ),
        Bad(
            "shape",
            lambda: updated(optim.project(jnp.sum), jnp.ones(2), jnp.ones(2)),
            "optim.project",
            r"a projection that keeps the shape \(2,\)",
            r"\(\)",
        ),
    ]
)  # fmt: skip
def test_constraints_refuse(bad):
    assert_complains(bad, bad.call)
