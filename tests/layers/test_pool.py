"""Pooling and upsampling: what the table of layers cannot say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings, strategies as st

import fnn
from tests.core.test_errors import Bad, assert_complains, ones, parametrize
from tests.layers.test_conv import assert_takes_any_batch
from tests.layers.test_laws import assert_close

KEY = jax.random.key(5)


def reduced(x, window, stride, padding):
    """Take the largest elements as XLA does."""
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, *window, 1), (1, *stride, 1), ((0, 0), *padding, (0, 0))
    )


sizes = st.integers(1, 3)


@settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.generate])
@given(data=st.data(), rank=st.integers(1, 2), ties=st.booleans())
def test_a_max_pool_and_its_dx_are_those_of_reduce_window_ties_included(data, rank, ties):
    def each(strategy):
        return data.draw(st.tuples(*[strategy] * rank))

    window, stride = each(sizes), each(sizes)
    pads = tuple(data.draw(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1))) for k in window)
    x = jax.random.normal(KEY, (2, *each(st.integers(3, 6)), 2))
    if ties:
        x = x.round()
    y, _, residuals = fnn.max_pool(window, stride=stride, padding=pads).forward((), (), x)
    expected, pull_back = jax.vjp(lambda x: reduced(x, window, stride, pads), x)
    np.testing.assert_array_equal(y, expected)
    dx = fnn.max_pool(window, stride=stride, padding=pads).backward((), residuals, jnp.cos(y))[1]
    assert_close(dx, pull_back(jnp.cos(y))[0], "float32", x.size)


FIRST = {
    "max_pool": (fnn.max_pool(2), jnp.ones((1, 4, 4, 1)), [(0, 0), (0, 2), (2, 0), (2, 2)]),
    "overlapping": (
        fnn.max_pool(2, stride=1, padding="VALID"),
        jnp.ones((1, 3, 2, 1)),
        [(0, 0), (1, 0)],
    ),
    "many": (fnn.max_pool((20, 1)), jnp.ones((1, 40, 1, 1)), [(0, 0), (20, 0)]),
    "global": (fnn.global_max_pool(), jnp.ones((1, 5, 5, 1)), [(0, 0)]),
    "adaptive": (fnn.adaptive_max_pool((2, 1)), jnp.ones((1, 3, 2, 1)), [(0, 0), (1, 0)]),
}


@pytest.mark.parametrize(("layer", "x", "places"), FIRST.values(), ids=FIRST)
def test_of_equal_elements_the_first_has_the_gradient_by_hand_and_by_autodiff(layer, x, places):
    y, _, residuals = layer.forward((), (), x)
    dx = layer.backward((), residuals, jnp.ones_like(y))[1]
    assert [tuple(map(int, at)) for at in np.argwhere(dx[0, ..., 0])] == places
    auto = jax.vjp(lambda x: layer.apply((), (), x)[0], x)[1](jnp.ones_like(y))[0]
    np.testing.assert_array_equal(dx, auto)


@pytest.mark.parametrize(
    "layer", [fnn.max_pool((3, 1)), fnn.max_pool((30, 1)), fnn.global_max_pool()]
)
def test_a_nan_is_the_largest_number_and_has_the_gradient(layer):
    x = jnp.arange(60.0).reshape(1, 30, 1, 2).at[0, 1, 0, 0].set(jnp.nan)
    y, _, residuals = layer.forward((), (), x)
    assert np.isnan(y.reshape(-1, 2)[0, 0])
    assert np.isfinite(y.reshape(-1, 2)[:, 1]).all()
    dx = layer.backward((), residuals, jnp.ones_like(y))[1]
    assert dx[0, 1, 0, 0] == 1


def largest(x, window, stride, low, high):
    """Return the largest elements and the places that have them, counted: one window at a time."""
    spatial, rank = x.shape[1:-1], x.ndim - 2
    starts = [range(-low, n + high - window + 1, stride) for n in spatial]
    y = np.zeros((len(x), *map(len, starts), x.shape[-1]), x.dtype)
    dx = np.zeros(x.shape, x.dtype)
    for b, c, *at in np.ndindex(len(x), x.shape[-1], *map(len, starts)):
        begin = [starts[i][at[i]] for i in range(rank)]
        seen = tuple(slice(max(s, 0), s + window) for s in begin)
        here = x[b, ..., c][seen]
        nan = np.flatnonzero(np.isnan(here))
        place = nan[-1] if len(nan) else here.argmax()
        y[b, *at, c] = here.ravel()[place]
        dx[b, ..., c][seen].reshape(here.shape)[np.unravel_index(place, here.shape)] += 1 + sum(at)
    return y, dx


WINDOWS = {
    "side-by-side": (2, 2, 0, 0),
    "overlapping": (3, 2, 1, 1),
    "at-each": (3, 1, 2, 0),
    "gaps": (2, 3, 0, 1),
    "many": (17, 17, 4, 3),
    "many-overlapping": (5, 2, 2, 1),
}
VALUES = [-np.inf, np.nan, 0.0, 1.0, np.inf]
# The shares of those: mostly nothing, all kinds, nothing else, and ties.
SHARES = [(0.85, 0.1, 0.05, 0, 0), (0.4, 0.2, 0.2, 0.1, 0.1), (1, 0, 0, 0, 0), (0, 0, 0.5, 0.5, 0)]


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize(("window", "stride", "low", "high"), WINDOWS.values(), ids=WINDOWS)
def test_infinities_nan_and_ties_have_the_gradient_by_hand_and_by_autodiff(
    rank, window, stride, low, high
):
    layer = fnn.max_pool(window, stride=stride, padding=((low, high),) * rank)
    random, shape = np.random.default_rng(1), ((2, 28, 2) if rank == 1 else (2, 28, 11, 2))
    x = np.concatenate([random.choice(VALUES, shape, p=p) for p in SHARES]).astype("float32")
    expected, dx = largest(x, window, stride, low, high)
    dy = 1 + jnp.indices(expected.shape)[1:-1].sum(0).astype("float32")

    @jax.jit
    def both(x):
        y, _, residuals = layer.forward((), (), x)
        auto = jax.vjp(lambda x: layer.apply((), (), x)[0], x)[1](dy)[0]
        return y, layer.apply((), (), x)[0], layer.backward((), residuals, dy)[1], auto

    y, applied, by_hand, auto = both(jnp.asarray(x))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(applied, expected)
    np.testing.assert_array_equal(by_hand, dx)
    np.testing.assert_array_equal(auto, dx)


def test_a_gradient_that_padding_or_a_number_beside_a_nan_takes_is_seen():
    """Autodiff of `reduce_window` sends the gradient of both elsewhere."""
    for value in (-np.inf, np.nan):
        x = np.full((1, 4, 1), -np.inf, "float32")
        x[0, 1] = value
        dx = largest(x, 3, 2, 1, 1)[1]
        dy = jnp.array([1.0, 2.0])[None, :, None]
        auto = jax.vjp(lambda x: reduced(x, (3,), (2,), ((1, 1),)), jnp.asarray(x))[1](dy)[0]
        with pytest.raises(AssertionError):
            np.testing.assert_array_equal(auto, dx)


def test_a_max_pool_saves_one_byte_for_each_window():
    for stride in (2, 1):
        y, _, residuals = fnn.max_pool(2, stride=stride).forward((), (), jnp.ones((2, 4, 6, 3)))
        assert sum(leaf.nbytes for leaf in jax.tree.leaves(residuals)) == y.size
    large = fnn.max_pool(20).forward((), (), jnp.ones((1, 20, 20, 1)))[2]
    assert jax.tree.leaves(large)[0].dtype == "uint16"


def test_an_average_counts_what_is_there_or_the_padding_too():
    x = jnp.full((1, 2, 1), 6.0)
    there, _ = fnn.average_pool(3, stride=1, padding=1).apply((), (), x)
    padded, _ = fnn.average_pool(3, stride=1, padding=1, count_padding=True).apply((), (), x)
    np.testing.assert_array_equal(there.ravel(), [6, 6])
    np.testing.assert_array_equal(padded.ravel(), [4, 4])


MEANS = {
    "average_pool": fnn.average_pool(5, padding="VALID"),
    "global_average_pool": fnn.global_average_pool(),
    "adaptive_average_pool": fnn.adaptive_average_pool(3),
    "adaptive_average_pool-divisor": fnn.adaptive_average_pool(2),
}


@pytest.mark.parametrize("value", [3e38, 1e-30])
@pytest.mark.parametrize("layer", MEANS.values(), ids=MEANS)
def test_the_mean_of_equal_elements_is_one_of_them_however_large_or_small(layer, value):
    x = jnp.full((1, 10, 1), value)
    for y in (layer.apply((), (), x)[0], jax.vjp(lambda x: layer.apply((), (), x)[0], x)[0]):
        assert_close(y, jnp.full_like(y, value), "float32", x.size)


def test_a_gradient_of_half_precision_is_summed_in_float32():
    """In bfloat16 a sum of ones ends at 256, and one that begins there does not move."""
    layer, x = fnn.max_pool(3, stride=1, padding="VALID"), jnp.arange(5) == 2
    x = x.astype("bfloat16").reshape(1, 5, 1)
    residuals = layer.forward((), (), x)[2]
    dy = jnp.array([1, 256, 1], "bfloat16").reshape(1, 3, 1)
    assert layer.backward((), residuals, dy)[1][0, 2, 0] == 258
    layer, x = fnn.adaptive_max_pool(601), jnp.ones((1, 2, 1), "bfloat16")
    y, _, residuals = layer.forward((), (), x)
    dx = layer.backward((), residuals, jnp.ones_like(y))[1]
    np.testing.assert_array_equal(dx, jnp.full_like(x, 301))


def test_a_global_average_of_more_positions_than_float16_counts_has_a_gradient():
    layer, x = fnn.global_average_pool(), jnp.ones((1, 512, 512, 1), "float16")
    y, _, residuals = layer.forward((), (), x)
    dx = layer.backward((), residuals, y)[1]
    np.testing.assert_array_equal(dx, jnp.full_like(x, 1 / 512**2))


def test_an_infinite_neighbor_does_not_reach_the_middle_of_an_element():
    x = jnp.array([1.0, 2.0, jnp.inf]).reshape(1, 3, 1)
    y, _ = fnn.upsample(3, method="linear").apply((), (), x)
    np.testing.assert_array_equal(y.ravel()[jnp.array([1, 4, 7])], x.ravel())


ANY_BATCH = {
    "max_pool": (fnn.max_pool(2), (8, 7, 3)),
    "max_pool-overlapping": (fnn.max_pool(3, stride=2), (8, 7, 3)),
    "max_pool-large": (fnn.max_pool(20), (40, 3)),
    "average_pool": (fnn.average_pool(2), (8, 7, 3)),
    "average_pool-overlapping": (fnn.average_pool(3, stride=2), (8, 7, 3)),
    "global_max_pool": (fnn.global_max_pool(), (8, 7, 3)),
    "global_average_pool": (fnn.global_average_pool(), (8, 7, 3)),
    "adaptive_average_pool": (fnn.adaptive_average_pool((4, 3)), (8, 7, 3)),
    "adaptive_max_pool": (fnn.adaptive_max_pool((4, 3)), (8, 7, 3)),
    "upsample": (fnn.upsample(2), (8, 7, 3)),
    "upsample-linear": (fnn.upsample(3, method="linear"), (8, 7, 3)),
}


@pytest.mark.parametrize(("layer", "shape"), ANY_BATCH.values(), ids=ANY_BATCH)
def test_a_pool_takes_a_symbolic_and_an_empty_batch(layer, shape):
    assert_takes_any_batch(layer, shape)


@pytest.mark.parametrize("make", [fnn.adaptive_average_pool, fnn.adaptive_max_pool])
def test_an_adaptive_pool_of_a_divisor_is_a_pool_and_of_the_size_itself_changes_nothing(make):
    x = jax.random.normal(KEY, (2, 6, 4, 3))
    pool = fnn.average_pool if make is fnn.adaptive_average_pool else fnn.max_pool
    assert_close(make((3, 2)).apply((), (), x), pool(2).apply((), (), x), "float32", x.size)
    np.testing.assert_array_equal(make((6, 4)).apply((), (), x)[0], x)
    np.testing.assert_array_equal(make(12).apply((), (), x)[0].shape, (2, 12, 12, 3))


@settings(max_examples=6, deadline=None, derandomize=True, phases=[Phase.generate])
@given(space=st.lists(st.integers(1, 4), min_size=1, max_size=3), data=st.data())
def test_upsampling_is_that_of_jax_image_at_any_shape(space, data):
    factor = data.draw(st.tuples(*[sizes] * len(space)))
    x = jax.random.normal(KEY, (2, *space, 2))
    for method in ("nearest", "linear"):
        fnn.check_layer(fnn.upsample(factor, method=method), x, numeric=False)
        y, _, _ = fnn.upsample(factor, method=method).forward((), (), x)
        shape = (2, *(n * f for n, f in zip(space, factor, strict=True)), 2)
        assert_close(y, jax.image.resize(x, shape, method), "float32", y.size)


def test_linear_upsampling_keeps_a_line_but_for_its_ends():
    x = jnp.arange(5.0).reshape(1, 5, 1)
    y, _ = fnn.upsample(4, method="linear").apply((), (), x)
    expected = np.clip((np.arange(20) + 0.5) / 4 - 0.5, 0, 4)
    np.testing.assert_allclose(y.ravel(), expected, rtol=1e-6)


numbers = "of 1 or more, one int or a tuple of them"
pads = "padding 'SAME', 'VALID', an int of 0 or more, or a pair of them for each axis"


@parametrize(
    [
        Bad("window", lambda: fnn.max_pool(0), "max_pool", f"window {numbers}", "0"),
        Bad(
            "stride", lambda: fnn.max_pool(2, stride=1.5), "max_pool", f"stride {numbers}", r"1\.5"
        ),
        Bad("padding", lambda: fnn.max_pool(2, padding="full"), "max_pool", pads, "'full'"),
        Bad("average", lambda: fnn.average_pool((2, 0)), "average_pool", f"window {numbers}", ".*"),
        Bad(
            "axes",
            lambda: fnn.average_pool((2, 2), stride=(1, 1, 1)),
            "average_pool",
            "options for one number of axes",
            "window for 2, stride for 3",
        ),
        *(
            Bad(f"{make.__name__}-{name}", call, make.__name__, expected, got)
            for make in (fnn.max_pool, fnn.average_pool)
            for name, call, expected, got in (
                (
                    "ceil-same",
                    lambda m=make: m(2, ceil_mode=True),
                    "ceil_mode=False where padding is 'SAME'",
                    "True",
                ),
                (
                    "ceil-flag",
                    lambda m=make: m(2, padding=0, ceil_mode=1),
                    "ceil_mode of True or False",
                    "1",
                ),
            )
        ),
        Bad(
            "count_padding",
            lambda: fnn.average_pool(2, count_padding="no"),
            "average_pool",
            "count_padding of True or False",
            "'no'",
        ),
        *(
            Bad(name, lambda m=make: m(0), name, f"size {numbers}", "0")
            for name, make in (
                ("adaptive_average_pool", fnn.adaptive_average_pool),
                ("adaptive_max_pool", fnn.adaptive_max_pool),
            )
        ),
        Bad("factor", lambda: fnn.upsample(0.5), "upsample", f"factor {numbers}", r"0\.5"),
        Bad(
            "method",
            lambda: fnn.upsample(2, method="cubic"),
            "upsample",
            "method of 'nearest', 'linear'",
            "'cubic'",
        ),
    ]
)
def test_pools_refuse_options(bad):
    assert_complains(bad, bad.call)


LAYERS = {
    "max_pool": fnn.max_pool(2),
    "average_pool": fnn.average_pool(2),
    "global_max_pool": fnn.global_max_pool(),
    "global_average_pool": fnn.global_average_pool(),
    "adaptive_average_pool": fnn.adaptive_average_pool(2),
    "adaptive_max_pool": fnn.adaptive_max_pool(2),
    "upsample": fnn.upsample(2, method="linear"),
}
one_or_more = "x whose spatial axes and channels are 1 or more"
ARRAYS = [
    *(
        (x, Bad(f"{name}-{what}", lambda x, m=layer: m.apply((), (), x), name, expected, got))
        for name, layer in LAYERS.items()
        for what, x, expected, got in (
            ("no-space", ones(2, 5), r"x of shape \(B, \*spatial, C\)", r"\(2, 5\)"),
            ("integers", ones(2, 5, 4, dtype="int32"), "x of a floating dtype", "int32 of .*"),
            ("empty", ones(2, 0, 4), one_or_more, r"\(2, 0, 4\)"),
            ("no-channels", ones(2, 5, 0), one_or_more, r"\(2, 5, 0\)"),
        )
    ),
    *(
        (
            ones(2, 5, 4),
            Bad(f"{name}-axes", lambda x, m=layer: m.apply((), (), x), name, shape, r"\(2, 5, 4\)"),
        )
        for name, layer, shape in (
            ("max_pool", fnn.max_pool((2, 2)), r"x of shape \(B, H, W, C\)"),
            ("adaptive_max_pool", fnn.adaptive_max_pool((2, 2)), r"x of shape \(B, H, W, C\)"),
            ("upsample", fnn.upsample((1, 1, 1, 2)), r"x of shape \(B, 4 axes, C\)"),
        )
    ),
    *(
        (
            ones(2, 3, 4),
            Bad(
                f"{name}-{what}",
                lambda x, m=make, w=window, p=padding: m(w, padding=p).apply((), (), x),
                name,
                expected,
                got,
            ),
        )
        for name, make in (("max_pool", fnn.max_pool), ("average_pool", fnn.average_pool))
        for what, window, padding, expected, got in (
            ("large", 4, 0, r"x of spatial size \(4,\) or more, padding included", r"\(3,\)"),
            ("padding", 2, 2, r"padding of less than the window \(2,\)", r"\(\(2, 2\),\)"),
        )
    ),
]


@pytest.mark.parametrize(("x", "bad"), [pytest.param(*case, id=case[1].name) for case in ARRAYS])
def test_pools_refuse_arrays(x, bad):
    assert_complains(bad, bad.call, x)
    assert_complains(bad, jax.jit(bad.call), x)
