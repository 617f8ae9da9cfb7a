"""Embeddings and positions: what the table of layers cannot say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings, strategies as st

import fnn
from fnn.lab.check import moved_place
from tests.core.test_errors import Bad, assert_complains, initialized, ones, parametrize
from tests.layers.test_laws import assert_close

KEY = jax.random.key(5)


@settings(max_examples=4, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    count=st.integers(1, 5),
    width=st.integers(1, 3),
    shape=st.lists(st.integers(1, 4), max_size=2),
    dtype=st.sampled_from(["uint8", "int8", "int32"]),
)
def test_the_gradient_of_an_embedding_is_a_product_with_one_hot_rows(count, width, shape, dtype):
    layer = fnn.embedding(count, width)
    x = jax.random.randint(KEY, shape, 0, count).astype(dtype)
    params, _ = layer.init(KEY, x)

    @jax.jit
    def run(x):
        y, _, residuals = layer.forward(params, (), x)
        return y, layer.backward(params, residuals, jnp.cos(y))

    y, (dparams, dx) = run(x)
    one_hot = jax.nn.one_hot(x.ravel(), count)
    assert_close(y.reshape(-1, width), one_hot @ params["weight"], "float32", count)
    expected = one_hot.T @ jnp.cos(y).reshape(-1, width)
    assert_close(dparams, {"weight": expected}, "float32", x.size)
    assert dx is None


def test_under_jit_an_index_out_of_range_gives_nan_and_no_gradient():
    layer, x = fnn.embedding(3, 2), jnp.array([2, 3, -1, 0])
    params, _ = layer.init(KEY, x[:1])

    @jax.jit
    def run(x):
        y, _, residuals = layer.forward(params, (), x)
        return y, layer.backward(params, residuals, jnp.ones_like(y))[0]["weight"]

    y, dweight = run(x)
    np.testing.assert_array_equal(np.isnan(y).all(1), [False, True, True, False])
    np.testing.assert_array_equal(np.isnan(y).any(1), [False, True, True, False])
    np.testing.assert_array_equal(dweight, [[1, 1], [0, 0], [1, 1]])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_index_that_comes_often_is_counted_in_float32(dtype):
    layer, x = fnn.embedding(2, 1), jnp.zeros(4096, "int32")
    params = {"weight": jnp.ones((2, 1), dtype)}
    _, _, residuals = layer.forward(params, (), x)
    dparams, _ = layer.backward(params, residuals, jnp.ones((4096, 1), dtype))
    assert dparams["weight"].dtype == dtype
    np.testing.assert_array_equal(dparams["weight"], [[4096], [0]])


def test_tokens_in_a_sequence_become_a_sequence_of_rows():
    layer = fnn.over_sequence(fnn.serial(fnn.embedding(3, 4), fnn.positional()))
    x = fnn.Sequence(jnp.array([[0, 2], [1, 1]]), jnp.array([2, 1]))
    params, state = layer.init(KEY, x)
    y, _, residuals = layer.forward(params, state, x)
    assert y.values.shape == (2, 2, 4)
    assert layer.backward(params, residuals, y)[1].values is None


def test_a_padding_index_starts_at_zero_and_stays_there():
    layer, x = fnn.embedding(4, 3, padding_index=1), jnp.array([[1, 2], [1, 1]], "uint8")
    params, _ = layer.init(KEY, x)
    np.testing.assert_array_equal(params["weight"][1], 0)
    assert (params["weight"][jnp.array([0, 2, 3])] != 0).all()
    y, _, residuals = layer.forward(params, (), x)
    by_hand = layer.backward(params, residuals, jnp.ones_like(y))[0]["weight"]
    by_autodiff = jax.grad(lambda p: layer.apply(p, (), x)[0].sum())(params)["weight"]
    np.testing.assert_array_equal(by_hand, [[0] * 3, [0] * 3, [1] * 3, [0] * 3])
    np.testing.assert_array_equal(by_autodiff, by_hand)


def test_the_row_of_a_padding_index_is_looked_up_as_it_is():
    """Weights from elsewhere may have one that is not zero."""
    params, x = {"weight": jnp.arange(8.0).reshape(4, 2)}, jnp.array([3, 1])
    y, _ = fnn.embedding(4, 2, padding_index=1).apply(params, (), x)
    np.testing.assert_array_equal(y, [[6, 7], [2, 3]])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16"])
def test_indices_of_small_integers_reach_every_row_they_can_name(dtype):
    last, count = jnp.iinfo(dtype).max, jnp.iinfo(dtype).max + 5
    layer, x = fnn.embedding(count, 1), jnp.array([0, last], dtype)
    params = {"weight": jnp.arange(float(count))[:, None]}
    y, _, residuals = jax.jit(lambda x: layer.forward(params, (), x))(x)
    np.testing.assert_array_equal(y[:, 0], [0, last])
    dparams, _ = layer.backward(params, residuals, jnp.ones((2, 1)))
    np.testing.assert_array_equal(jnp.nonzero(dparams["weight"][:, 0])[0], [0, last])


def test_learned_positions_beyond_the_steps_have_no_gradient():
    layer, x = fnn.positional("learned", 5), ones(2, 3, 2)
    params, _ = layer.init(KEY, x)
    _, _, residuals = layer.forward(params, (), x)
    dparams, _ = layer.backward(params, residuals, x)
    np.testing.assert_array_equal(dparams["weight"][:, 0], [2, 2, 2, 0, 0])


def test_a_sinusoid_at_a_distance_is_a_turn_that_depends_on_the_distance_only():
    with jax.enable_x64(True):
        p, _ = fnn.positional().apply((), (), jnp.zeros((9, 6)))
        products = p @ p.T
        for distance in range(9):
            along = jnp.diagonal(products, distance)
            assert_close(along, jnp.full_like(along, along[0]), "float64", 6)


def test_rotary_keeps_lengths_and_leaves_the_first_step():
    x = jax.random.normal(KEY, (2, 5, 3, 4))
    y, _ = fnn.rotary(20.0).apply((), (), x)
    assert_close(jnp.linalg.norm(y, axis=-1), jnp.linalg.norm(x, axis=-1), "float32", 4)
    np.testing.assert_array_equal(y[:, 0], x[:, 0])


@parametrize(
    [
        Bad("count", lambda: fnn.embedding(0, 2), "embedding", "a count of 1 or more", "0"),
        Bad("width", lambda: fnn.embedding(3, 2.0), "embedding", "a width of 1 or more", r"2\.0"),
        *(
            Bad(
                f"padding-{index}",
                lambda index=index: fnn.embedding(3, 2, padding_index=index),
                "embedding",
                r"a padding_index in 0\.\.2",
                str(index),
            )
            for index in (3, -1, True)
        ),
        Bad(
            "kind",
            lambda: fnn.positional("sine"),
            "positional",
            "kind of 'sinusoidal', 'learned'",
            "'sine'",
        ),
        Bad(
            "no-length",
            lambda: fnn.positional("learned"),
            "positional",
            "a length of 1 or more",
            "None",
        ),
        Bad(
            "length-0",
            lambda: fnn.positional("learned", 0),
            "positional",
            "a length of 1 or more",
            "0",
        ),
        *(
            Bad(
                f"sinusoidal-{length}",
                lambda length=length: fnn.positional("sinusoidal", length),
                "positional",
                "no length for 'sinusoidal'",
                str(length),
            )
            for length in (0, 3)
        ),
        Bad("base", lambda: fnn.rotary(-1.0), "rotary", "a base above 0", r"-1\.0"),
        Bad("base-true", lambda: fnn.rotary(True), "rotary", "a base above 0", "True"),
        Bad("base-string", lambda: fnn.rotary("10"), "rotary", "a base above 0", "'10'"),
    ]
)
def test_options_are_refused(bad):
    assert_complains(bad, bad.call)


def applied(layer, like):
    def call(x):
        params, state = moved_place(layer, like, KEY)
        return layer.apply(params, state, x)

    return call


LEARNED = fnn.positional("learned", 3)


@pytest.mark.parametrize(
    ("x", "bad"),
    [
        pytest.param(x, Bad(name, call, name.split("-")[0], expected, got), id=name)
        for name, call, x, expected, got in (
            (
                "embedding-floats",
                initialized(fnn.embedding(3, 2)),
                ones(2),
                "x of integers",
                r"float32 of shape \(2,\)",
            ),
            (
                "embedding-sequence",
                initialized(fnn.embedding(3, 2)),
                fnn.Sequence(ones(2, 3, dtype="int32")),
                "x of integers",
                "a Sequence",
            ),
            (
                "positional-steps",
                initialized(LEARNED),
                ones(2, 4, 2),
                "3 steps at most",
                "4",
            ),
            (
                "positional-channels",
                applied(LEARNED, ones(2, 3, 4)),
                ones(2, 3, 6),
                r"x of shape \(\.\.\., T, 4\)",
                r"\(2, 3, 6\)",
            ),
            (
                "positional-odd",
                initialized(fnn.positional()),
                ones(2, 3, 5),
                "an even number of channels",
                "5",
            ),
            (
                "positional-rank",
                initialized(fnn.positional()),
                ones(4),
                r"x of shape \(\.\.\., T, C\)",
                r"\(4,\)",
            ),
            (
                "positional-integers",
                initialized(fnn.positional()),
                ones(2, 4, dtype="int32"),
                "x of a floating dtype",
                "int32 of .*",
            ),
            (
                "rotary-odd",
                applied(fnn.rotary(), ones(2, 1, 4)),
                ones(2, 1, 3),
                r"x of shape \(\.\.\., T, N, D\), D even",
                r"\(2, 1, 3\)",
            ),
            (
                "rotary-rank",
                applied(fnn.rotary(), ones(2, 1, 4)),
                ones(3, 4),
                r"x of shape \(\.\.\., T, N, D\), D even",
                r"\(3, 4\)",
            ),
        )
    ],
)
def test_arrays_are_refused(x, bad):
    assert_complains(bad, bad.call, x)
    assert_complains(bad, jax.jit(bad.call), x)


@pytest.mark.parametrize("index", [3, -1])
def test_an_index_out_of_range_is_refused_where_it_is_known(index):
    wrong = Bad("range", None, "embedding", r"indices in 0\.\.2", rf"{index} at x\[1\]")
    assert_complains(wrong, applied(fnn.embedding(3, 2), jnp.array([0])), jnp.array([0, index]))
