"""Sums of rows where what they sum is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn._core.row_sum import if_finite

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
