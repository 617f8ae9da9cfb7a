"""The gradient of a weight, in both orders of its product."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn.layers.dense import outer_sum

X_FIRST, DY_FIRST = ((6, 5, 3), (6, 5, 4)), ((6, 5, 4), (6, 5, 2))


@pytest.mark.parametrize(("x", "dy"), [X_FIRST, DY_FIRST, ((0, 4), (0, 2)), ((1,), (1,))])
@pytest.mark.parametrize("way", [lambda f: f, jax.vmap], ids=["call", "vmap"])
def test_an_outer_sum_is_that_of_einsum_whatever_is_transposed(x, dy, way):
    x = jnp.arange(3.0 * math.prod(x)).reshape(3, *x)
    dy = jnp.arange(3.0 * math.prod(dy)).reshape(3, *dy)
    if way is not jax.vmap:
        x, dy = x[0], dy[0]

    def expected(x, dy):
        return jnp.einsum("...i,...o->io", x, dy)

    np.testing.assert_array_equal(way(outer_sum)(x, dy), way(expected)(x, dy))


@pytest.mark.parametrize(("x", "dy"), [X_FIRST, DY_FIRST])
def test_on_cpus_the_product_of_an_outer_sum_sums_along_the_last_axis_of_its_first_factor(x, dy):
    program = jax.jit(outer_sum).lower(jnp.ones(x), jnp.ones(dy)).compile().as_text()
    assert "lhs_contracting_dims={1}, rhs_contracting_dims={0}" in program


@pytest.mark.parametrize(("x", "dy"), [X_FIRST, DY_FIRST])
def test_an_outer_sum_of_half_precision_is_summed_in_the_dtype_asked_for(x, dy):
    found = outer_sum(jnp.ones(x, jnp.bfloat16), jnp.ones(dy, jnp.bfloat16), jnp.float32)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, np.full((x[-1], dy[-1]), 30))
