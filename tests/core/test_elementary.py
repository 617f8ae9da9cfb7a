"""Functions that fnn has formulas of its own for are those of float64 to the last digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn._core.elementary import exp, expm1, log1p_decay, sigmoid, softplus
from tests.tolerance import rounding

X = np.linspace(-80, 80, 3201)


def assert_digits(found, wanted, terms):
    """Each number is right to its own last digits, however small it is."""
    bound = rounding(found.dtype, terms) * np.abs(wanted)
    assert (np.abs(np.asarray(found, np.float64) - wanted) <= bound).all()


def by_one_part(x):
    """Take log(2) in one part, whose rounding counts n times."""
    log_2 = jnp.log(jnp.asarray(2, x.dtype))
    n = jnp.round(x / log_2)
    return jnp.exp(x - n * log_2) * 2**n


def exp_of(function, dtype):
    """From end to end of the normal numbers of float32."""
    with jax.enable_x64(dtype == "float64"):
        x = jnp.linspace(-87.3, 88.7, 11001, dtype=dtype)
        assert_digits(function(x), np.exp(np.asarray(x, np.float64)), 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_exponential_keeps_its_digits_from_end_to_end(dtype):
    exp_of(exp, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_digits_of_an_exponential_that_are_lost_far_from_0_are_seen(dtype):
    with pytest.raises(AssertionError):
        exp_of(by_one_part, dtype)


def test_an_exponential_and_a_sigmoid_have_ends_and_let_nan_pass():
    ends = jnp.array([-jnp.inf, -3e38, -200, 0, 88.8, 3e38, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(exp(ends), jnp.exp(ends))
    np.testing.assert_array_equal(sigmoid(ends), jax.nn.sigmoid(ends))
    slopes = jax.vmap(jax.grad(sigmoid))(ends[:-1])
    np.testing.assert_array_equal(slopes, jnp.where(ends[:-1] == 0, 0.25, 0))


def expm1_of(function, dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.concatenate([jnp.linspace(-30, 88, 11801), jnp.geomspace(1e-30, 1)]).astype(dtype)
        x = jnp.concatenate([x, -x])
        assert_digits(function(x), np.expm1(np.asarray(x, np.float64)), 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_exponential_less_1_keeps_its_digits_where_it_is_small(dtype):
    expm1_of(expm1, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_digits_of_an_exponential_less_1_that_are_lost_beside_1_are_seen(dtype):
    with pytest.raises(AssertionError):
        expm1_of(lambda x: jnp.exp(x) - 1, dtype)


def test_an_exponential_less_1_has_ends_and_slopes_and_lets_nan_pass():
    ends = jnp.array([-jnp.inf, -3e38, -200, 0, 88.8, 3e38, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(expm1(ends), jnp.expm1(ends))
    np.testing.assert_array_equal(jax.vmap(jax.grad(expm1))(ends), jnp.exp(ends))


def by_log1p(x):
    """Take the exponential of what is not negative too, and lose it beside 1."""
    return jnp.log(1 + jnp.exp(x))


def softplus_of(function, dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(X, dtype)
        assert_digits(function(x), np.logaddexp(0, np.asarray(x, np.float64)), 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_softplus_keeps_its_digits_where_it_is_small(dtype):
    softplus_of(softplus, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_digits_of_a_softplus_that_are_lost_beside_1_are_seen(dtype):
    with pytest.raises(AssertionError):
        softplus_of(by_log1p, dtype)


def test_a_softplus_has_ends_and_the_slope_of_both_branches_at_0():
    ends = jnp.array([-jnp.inf, jnp.inf, jnp.nan, 3e38])
    np.testing.assert_array_equal(softplus(ends), jnp.maximum(ends, 0))
    for x, slope in ((0.0, 0.5), (jnp.inf, 1.0), (-jnp.inf, 0.0)):
        assert jax.grad(softplus)(x) == slope
    assert jax.grad(log1p_decay)(0.0) == -0.5


def gelu_of(function):
    x = jnp.linspace(-6, 6, 1201)
    with jax.enable_x64(True):
        wanted = np.asarray(jax.nn.gelu(jnp.asarray(x, "float64"), False))
    assert_digits(function(x), wanted, 9)


def test_a_gelu_keeps_its_digits_in_the_tail():
    """To the rounding of a quotient of polynomials, nine terms in all."""
    gelu_of(fnn.gelu())


def test_digits_of_a_gelu_that_an_erfc_in_float32_loses_are_seen():
    with pytest.raises(AssertionError):
        gelu_of(lambda x: jax.nn.gelu(x, False))


def test_a_gelu_has_ends_and_lets_nan_pass():
    ends = jnp.array([-jnp.inf, -3e38, -14.5, 14.5, 3e38, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(fnn.gelu()(ends), jnp.maximum(ends, 0))
    slopes = jax.vmap(jax.grad(fnn.gelu()))(ends)
    np.testing.assert_array_equal(slopes, [0, 0, 0, 1, 1, 1, jnp.nan])


def test_a_gelu_differentiated_twice_is_the_slope_of_its_slope_at_0_too():
    x = jnp.array([0.0, -1.0, 3.0])
    twice = jax.vmap(jax.grad(jax.grad(fnn.gelu())))(x)
    wanted = (2 - x**2) * jnp.exp(-(x**2) / 2) / jnp.sqrt(2 * jnp.pi)
    np.testing.assert_allclose(twice, wanted, rtol=rounding("float32", 1))
