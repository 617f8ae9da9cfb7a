"""Activations where numbers are extreme, or have 16 bits: slopes, ruled-out classes, products."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from tests.layers.test_laws import widen
from tests.tolerance import rounding

halves = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])


def pulled(layer, params, x, dy):
    """The gradient of x by hand."""
    _, _, residuals = layer.forward(params, (), x)
    return layer.backward(params, residuals, dy)[1]


def by_autodiff(layer, params, x, dy):
    return jax.vjp(lambda x: layer.apply(params, (), x)[0], x)[1](dy)[0]


@pytest.mark.parametrize(
    ("dtype", "x"),
    [
        *(("float16", 255.0), ("float16", 256.0), ("float16", -300.0), ("bfloat16", 3e19)),
        *(("float32", 3e19), ("float32", -3e38)),
    ],
)
def test_the_slope_of_a_gelu_by_tanh_is_a_step_where_the_cube_of_x_overflows(dtype, x):
    layer, x = fnn.gelu(approximate=True), jnp.array([x], dtype)
    for slope in (pulled, by_autodiff):
        np.testing.assert_array_equal(slope(layer, (), x, jnp.ones_like(x)), x > 0)
    np.testing.assert_array_equal(layer(x), jnp.where(x > 0, x, 0))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_straight_through_sign_passes_the_gradient_to_1_itself_and_no_further(dtype):
    one, layer = jnp.ones((), dtype), fnn.straight_through_sign()
    beyond = jnp.nextafter(one, jnp.asarray(2, dtype))
    x = jnp.stack([-beyond, -one, -one / 2, 0 * one, one / 2, one, beyond])
    dy = jax.random.normal(jax.random.key(4), x.shape, dtype)
    for slope in (pulled, by_autodiff):
        np.testing.assert_array_equal(slope(layer, (), x, dy), dy.at[0].set(0).at[-1].set(0))


def test_a_geglu_by_tanh_has_a_gradient_where_the_cube_of_its_gate_overflows():
    layer, params = fnn.geglu(1, approximate=True), {"weight": jnp.ones((1, 2), "float16")}
    x = jnp.array([[-300.0]], "float16")
    np.testing.assert_array_equal(pulled(layer, params, x, jnp.ones_like(x)), [[0]])


def test_what_a_closed_gate_keeps_out_is_0_however_large():
    """Factors meet so that none of the products between overflows."""
    huge, closed = 1e30, 200.0
    dx = pulled(fnn.glu(), (), jnp.array([huge, closed]), jnp.array([1e10]))
    np.testing.assert_array_equal(dx, [np.float32(1e10), 0])
    for make in (fnn.swiglu, fnn.geglu):
        params = {"weight": jnp.array([[-closed, 0.0], [0.0, huge]])}
        dx = pulled(make(1), params, jnp.array([1.0, 1.0]), jnp.array([1e10]))
        assert np.isfinite(dx).all()


SLOPES = {
    "gelu": fnn.gelu(),
    "gelu-tanh": fnn.gelu(approximate=True),
    "silu": fnn.silu(),
    "mish": fnn.mish(),
    "hard_silu": fnn.hard_silu(),
}


def assert_slope_precise(layer, dtype):
    """Each slope is that of float64 at the same x but for its last roundings, on its own scale."""
    x = jnp.linspace(-6, 6, 301, dtype="float32").astype(dtype)
    found = np.asarray(pulled(layer, (), x, jnp.ones_like(x)), np.float64)
    with jax.enable_x64(True):
        wanted = np.asarray(pulled(layer, (), widen(x), jnp.ones(x.shape, "float64")))
    normal = np.abs(wanted) > float(jnp.finfo(dtype).tiny)
    assert (np.abs(found - wanted) <= rounding(dtype, 1) * np.abs(wanted))[normal].all()


@halves
@pytest.mark.parametrize("layer", SLOPES.values(), ids=SLOPES)
def test_slopes_in_half_precision_are_rounded_once(layer, dtype):
    assert_slope_precise(layer, dtype)


@halves
def test_a_slope_rounded_at_every_step_is_seen(dtype):
    """Of the SiLU, whose slope is the difference of two terms near x = -1.28."""

    def backward(x, dy):
        s = jax.nn.sigmoid(x).astype(dtype if x.dtype != "float64" else x.dtype)
        return dy * s * (1 + x * (1 - s))

    with pytest.raises(AssertionError):
        assert_slope_precise(fnn.from_function(jax.nn.silu, backward), dtype)


@halves
def test_the_slope_of_a_log_softmax_is_that_of_its_input_not_of_its_rounded_output(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5000)), dtype)
    # So large that no slope is subnormal.
    dy = jnp.zeros_like(x).at[0, 7].set(-4096)
    found = np.asarray(pulled(fnn.log_softmax(), (), x, dy), np.float64)
    with jax.enable_x64(True):
        wanted = np.asarray(pulled(fnn.log_softmax(), (), widen(x), widen(dy)))
    assert (np.abs(found - wanted) <= rounding(dtype, 1) * np.abs(wanted)).all()


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_a_class_of_logit_minus_infinity_is_ruled_out(name):
    layer = getattr(fnn, name)()
    x, dy = jnp.array([[0.0, -jnp.inf, 1.0]]), jnp.array([[1.0, 2.0, -3.0]])
    without = jnp.array([0, 2])
    y, y_without = layer(x), layer(x[:, without])
    np.testing.assert_array_equal(y[:, without], y_without)
    assert y[0, 1] == (0 if name == "softmax" else -jnp.inf)
    dx = pulled(layer, (), x, dy)
    np.testing.assert_allclose(dx, by_autodiff(layer, (), x, dy), rtol=1e-6)
    assert np.isfinite(dx).all()


def test_the_cotangent_of_a_ruled_out_probability_reaches_no_other_even_if_it_is_nan():
    x, dy = jnp.array([[0.0, -jnp.inf, 1.0]]), jnp.array([[1.0, jnp.nan, -3.0]])
    dx = pulled(fnn.softmax(), (), x, dy)
    alone = pulled(fnn.softmax(), (), x[:, ::2], dy[:, ::2])
    np.testing.assert_array_equal(dx, [[alone[0, 0], 0, alone[0, 1]]])


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), jnp.float32(0.5), 0.5])
@pytest.mark.parametrize("make", [fnn.leaky_relu, fnn.elu, lambda high: fnn.hard_tanh(-1.0, high)])
def test_options_are_numbers_of_any_kind_and_change_no_dtype(make, number):
    for dtype in ("bfloat16", "float32"):
        x = jnp.array([-0.75, 0.25, 2.0], dtype)
        y, dx = make(number)(x), pulled(make(number), (), x, jnp.ones_like(x))
        assert y.dtype == dx.dtype == dtype
        np.testing.assert_array_equal(y, make(0.5)(x))
        np.testing.assert_array_equal(jax.jit(lambda n, x: make(n)(x))(number, x), y)
