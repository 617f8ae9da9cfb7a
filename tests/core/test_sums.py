"""Sums of products, and of rows where what they sum is not finite."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn._core.sums import _LONG, if_finite, leading_sum, sum_of_product

X = jnp.array([[1.0, 2.0], [3.0, jnp.nan], [jnp.inf, 4.0]])
WAYS = {
    "call": lambda f: f,
    "jit": jax.jit,
    "vmap": jax.vmap,
    "grad": lambda f: jax.grad(lambda x: f(x).sum()),
}


def rows(sum_of):
    return lambda x: sum_of(x, -1)


def finite_sum(x, axis):
    return jnp.where(jnp.isfinite(x), x, 0).sum(axis)


@pytest.mark.parametrize("x", [X, X[:1]], ids=["some", "all"])
@pytest.mark.parametrize("way", WAYS)
def test_where_a_sum_is_not_finite_the_other_is_taken_for_all_rows(way, x):
    both = WAYS[way](lambda x: if_finite(rows(jnp.sum), rows(finite_sum), x))
    np.testing.assert_array_equal(both(x), WAYS[way](rows(finite_sum))(x))


def test_where_all_sums_are_finite_they_are_what_is_returned():
    assert if_finite(rows(jnp.sum), lambda x: jnp.zeros(1), X[:1]) == 3


@pytest.mark.parametrize("axes", [-1, 0, (0, 2), (1,), (1, 3)])
@pytest.mark.parametrize(
    "shape", [(2, 3, 4, 5), (1, 3, 4, 5), (2, 3, 1, 5), (1, 3, 1, 1), (1,) * 4]
)
def test_a_sum_of_products_is_the_plain_one_with_axes_of_one_anywhere(shape, axes):
    a, b = jax.random.normal(jax.random.key(0), (2, *shape))
    a = a.at[(0,) * 4].set(jnp.inf)
    plain = np.asarray((a * b).sum(axes, keepdims=True))
    np.testing.assert_allclose(sum_of_product(a, b, axes), plain, 1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("long", "kept"), [((_LONG + 1,), 1), ((_LONG // 2 + 1, 2), 2)])
def test_a_sum_of_long_rows_is_the_plain_one(long, kept, way, dtype):
    shape = 2, 3, *long
    x = jnp.sin(jnp.arange(math.prod(shape), dtype="float32")).reshape(shape).astype(dtype)
    x = x.at[(0,) * x.ndim].set(jnp.inf)

    def plain(x):
        return x.sum(tuple(range(x.ndim - kept)))

    sums = (WAYS[way](f)(x) for f in (lambda x: leading_sum(x, kept), plain))
    found, expected = (np.asarray(each, "float32") for each in sums)
    np.testing.assert_allclose(found, expected, 1e-6, 1e-6)
