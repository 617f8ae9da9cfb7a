"""Batch norms: running statistics in any precision, without them, and estimated anew."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.layers.norm.update_batch_norm import update_batch_norm
from tests.core.test_errors import Bad, assert_complains, parametrize
from tests.tolerance import rounding

KEY = jax.random.key(5)


def test_running_statistics_of_bfloat16_do_not_stand_still_far_from_those_of_the_batch():
    x = jnp.asarray(5 + 10 * np.random.default_rng(0).normal(size=(256, 1)), "bfloat16")
    layer = fnn.batch_norm(momentum=0.99)
    params, state = layer.init(KEY, x)

    def step(state, _):
        return layer.apply(params, state, x, train=True)[1], None

    state, _ = jax.lax.scan(step, state, None, length=3000)
    wide = np.asarray(x, np.float64)
    # What is left of the start is 0.99^3000 of it.
    np.testing.assert_allclose(state["mean"], wide.mean(0), rtol=1e-4)
    np.testing.assert_allclose(state["var"], wide.var(0), rtol=1e-4)


def test_a_variance_beyond_float16_is_kept_and_normalizes():
    x = jnp.asarray(600 * np.random.default_rng(0).normal(size=(256, 1)), "float16")
    layer = fnn.batch_norm(momentum=0.0)
    params, state = layer.init(KEY, x)
    y, state = layer.apply(params, state, x, train=True)
    assert state["var"] > float(jnp.finfo("float16").max)
    again, _ = layer.apply(params, state, x)
    np.testing.assert_array_equal(again, y)


def test_without_running_statistics_both_modes_are_those_of_the_batch():
    x = jax.random.normal(KEY, (4, 3))
    layer, tracked = fnn.batch_norm(track_running_stats=False), fnn.batch_norm()
    params, state = layer.init(KEY, x)
    assert state == ()
    wanted, _ = tracked.apply(*tracked.init(KEY, x), x, train=True)
    for train in (True, False):
        y, state = layer.apply(params, state, x, train=train)
        np.testing.assert_array_equal(y, wanted)
        assert state == ()


def test_an_empty_batch_leaves_running_statistics_as_they_are():
    layer = fnn.batch_norm()
    params, _ = layer.init(KEY, jnp.ones((1, 2)))
    state = {"mean": jnp.array([1.0, 2.0]), "var": jnp.array([3.0, 4.0])}
    _, new_state = layer.apply(params, state, jnp.ones((0, 2)), train=True)
    jax.tree.map(np.testing.assert_array_equal, new_state, state)


@parametrize(
    [
        Bad(
            "momentum-untracked",
            lambda: fnn.batch_norm(momentum=0.5, track_running_stats=False),
            "batch_norm",
            "no momentum without running statistics",
            r"0\.5",
        ),
        Bad(
            "tracking",
            lambda: fnn.batch_norm(track_running_stats="no"),
            "batch_norm",
            "track_running_stats of True or False",
            "'no'",
        ),
        Bad("scale", lambda: fnn.batch_norm(scale=1), "batch_norm", "scale of True or False", "1"),
    ]
)
def test_options_are_refused(bad):
    assert_complains(bad, bad.call)


def batches(count=3, width=2):
    """Batches of different sizes, centers and spreads."""
    random = np.random.default_rng(3)
    return [
        jnp.asarray(i + i * random.normal(size=(2 + i, width)), "float32") for i in range(count)
    ]


def average(values, sizes):
    """The mean over batches, each weighed by its examples."""
    return sum(n * value for n, value in zip(sizes, values, strict=True)) / sum(sizes)


def expected(xs):
    sizes, wide = [len(x) for x in xs], [np.asarray(x, np.float64) for x in xs]
    return {
        "mean": average([x.mean(0) for x in wide], sizes),
        "var": average([x.var(0) for x in wide], sizes),
    }


def assert_statistics(state, xs):
    wanted = expected(xs)
    for name in wanted:
        error = np.abs(np.asarray(state[name], np.float64) - wanted[name]).max()
        assert error <= rounding("float32", sum(len(x) for x in xs)) * np.abs(wanted[name]).max()


@pytest.mark.parametrize(
    "make",
    [fnn.batch_norm, lambda: fnn.use_auto(fnn.batch_norm()), lambda: fnn.batch_norm(momentum=0.3)],
    ids=["manual", "auto", "another-momentum"],
)
def test_estimated_statistics_are_means_over_the_batches_whatever_was_there(make):
    xs = batches()
    model = fnn.serial(fnn.identity(), make())
    params, state = model.init(KEY, xs[0])
    state = jax.tree.map(lambda a: a * jnp.nan, state)
    assert_statistics(update_batch_norm(model, params, state, xs)[1], xs)


def test_a_running_mean_of_momentum_is_not_the_mean_over_the_batches():
    xs, layer = batches(), fnn.batch_norm()
    params, state = layer.init(KEY, xs[0])
    for x in xs:
        _, state = layer.apply(params, state, x, train=True)
    with pytest.raises(AssertionError):
        assert_statistics(state, xs)


def test_statistics_are_those_of_the_parameters_given_also_in_copies_and_with_dropout():
    block = fnn.residual(fnn.serial(fnn.batch_norm(), fnn.dropout(0.5)))
    model = fnn.serial(fnn.dense(2, bias=False), fnn.repeat(block, 2))
    xs = batches()
    params, state = model.init(KEY, xs[0])
    new_state = update_batch_norm(model, params, state, xs, key=KEY)
    first = jax.tree.map(lambda a: a[0], new_state[1][0])
    assert_statistics(first, [x @ params[0]["weight"] for x in xs])
    assert jax.tree.structure(new_state) == jax.tree.structure(state)


PLAIN = fnn.serial(fnn.batch_norm(track_running_stats=False))
FROZEN = fnn.serial(fnn.eval_mode(fnn.serial(fnn.use_auto(fnn.batch_norm()))), fnn.dense(2))


@parametrize(
    [
        Bad(
            "no-statistics",
            lambda: update_batch_norm(PLAIN, ({},), ((),), batches()),
            "update_batch_norm",
            "a model with running statistics",
            ".*",
        ),
        Bad(
            "all-frozen",
            lambda: update_batch_norm(FROZEN, ({},), ((),), batches()),
            "update_batch_norm",
            "a batch norm outside of fnn.eval_mode",
            "those in it alone.*",
        ),
        Bad(
            "no-batches",
            lambda: update_batch_norm(fnn.batch_norm(), {}, {}, []),
            "update_batch_norm",
            "one batch or more",
            "none",
        ),
        Bad(
            "no-model",
            lambda: update_batch_norm(fnn.batch_norm, {}, {}, []),
            "update_batch_norm",
            "a model",
            ".*",
        ),
    ]
)
def test_estimating_refuses(bad):
    assert_complains(bad, bad.call)
