"""Hard activations: their kinks, to the last bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings, strategies as st

import fnn
from tests.core.test_errors import Bad, assert_complains, ones, parametrize

# Each with its two kinks, the slope at both, and the slope between them at x.
LAYERS = {
    "hard_sigmoid": (fnn.hard_sigmoid(), (-3, 3), (0, 0), lambda x: 1 / 6),
    "hard_tanh": (fnn.hard_tanh(-0.3, 0.8), (-0.3, 0.8), (0, 0), lambda x: 1),
    "relu6": (fnn.relu6(), (0, 6), (0, 0), lambda x: 1),
    "hard_silu": (fnn.hard_silu(), (-3, 3), (0, 1), lambda x: (2 * x + 3) / 6),
}
each = pytest.mark.parametrize(("layer", "kinks", "ends", "between"), LAYERS.values(), ids=LAYERS)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])


def slopes(layer, x):
    """The slope by hand, and by autodiff of apply."""
    _, _, residuals = layer.forward((), (), x)
    _, pull_back = jax.vjp(lambda x: layer.apply((), (), x)[0], x)
    dy = jnp.ones_like(x)
    return layer.backward((), residuals, dy)[1], pull_back(dy)[0]


@dtypes
@each
def test_slopes_at_kinks_and_next_to_them(layer, kinks, ends, between, dtype):
    low, high = (jnp.asarray(kink, dtype) for kink in kinks)
    ulp = jnp.asarray(8, dtype)
    below = jnp.nextafter(high, -ulp)
    above = jnp.nextafter(low, ulp)
    x = jnp.stack([low, high, jnp.nextafter(low, -ulp), jnp.nextafter(high, ulp), above, below])
    wanted = [*ends, *ends, between(float(above)), between(float(below))]
    for found in slopes(layer, x):
        # A subnormal number above 0 counts as 0 where the machine flushes it.
        bound = 4 * float(jnp.finfo(dtype).eps)
        error = np.abs(np.asarray(found, np.float64) - wanted)
        assert (error <= bound)[[0, 1, 2, 3, 5]].all()
        assert error[4] <= bound or kinks[0] == 0


@each
def test_not_a_number_passes(layer, kinks, ends, between):
    y, _ = layer.apply((), (), jnp.array([jnp.nan, 1.0]))
    np.testing.assert_array_equal(np.isnan(y), [True, False])


@each
def test_infinity_is_cut_off_or_passes(layer, kinks, ends, between):
    found, by_autodiff = slopes(layer, jnp.array([jnp.inf]))
    np.testing.assert_array_equal(found, [ends[1]])
    np.testing.assert_array_equal(by_autodiff, [ends[1]])


def test_hard_sigmoid_saves_one_byte_a_number():
    _, _, residuals = fnn.hard_sigmoid().forward((), (), jnp.ones((3, 5)))
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(residuals)) == 15


@settings(max_examples=10, deadline=None, derandomize=True, phases=[Phase.generate])
@given(low=st.floats(-2, 0.5, width=32), gap=st.floats(0.125, 2, width=32), size=st.integers(1, 9))
def test_hard_tanh_stays_between_any_bounds_with_the_gradient_of_autodiff(low, gap, size):
    layer = fnn.hard_tanh(low, low + gap)
    x = jax.random.normal(jax.random.key(size), (size,))
    fnn.check_layer(layer, x, numeric=False)
    y, _ = layer.apply((), (), x)
    np.testing.assert_array_equal(y, np.clip(x, np.float32(low), np.float32(low + gap)))


@parametrize(
    [
        Bad("swapped", lambda: fnn.hard_tanh(1, -1), "hard_tanh", "high above 1", "-1"),
        Bad("equal", lambda: fnn.hard_tanh(1, 1), "hard_tanh", "high above 1", "1"),
        Bad("nan", lambda: fnn.hard_tanh(np.nan), "hard_tanh", "low of one finite number", "nan"),
    ]
)
def test_hard_tanh_refuses_bounds(bad):
    assert_complains(bad, bad.call)


@pytest.mark.parametrize("name", LAYERS)
def test_integers_are_refused(name):
    layer = LAYERS[name][0]
    bad = Bad(
        name,
        lambda x: layer.apply((), (), x),
        name,
        "x of a floating dtype",
        r"uint8 of shape \(2,\)",
    )
    assert_complains(bad, bad.call, ones(2, dtype="uint8"))
