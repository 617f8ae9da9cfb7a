"""Sums of products, and of rows where what they sum is not finite."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from fnn._core.sums import _LONG, if_finite, leading_sum, sum_of_product
from tests import cases
from tests.layers.test_laws import inputs, there_and_back
from tests.losses.test_laws import prediction
from tests.tolerance import rounding

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
    bound = rounding("float32", a.size // plain.size)
    np.testing.assert_allclose(sum_of_product(a, b, axes), plain, bound)


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


def slow_sums(program):
    """The shapes of products, of two arrays, that are summed with an axis of length 1 in them.

    What keeps the last axis alone XLA for CPUs sums at speed.
    """
    made = {variable: equation for equation in program.eqns for variable in equation.outvars}
    for equation in program.eqns:
        for inside in jaxprs_in_params(equation.params):
            yield from slow_sums(inside)
        if equation.primitive.name == "reduce_sum":
            (term,), axes = equation.invars, equation.params["axes"]
            kept = [size for axis, size in enumerate(term.aval.shape) if axis not in axes]
            product = made.get(term)
            of_two = (
                product
                and product.primitive.name == "mul"
                and product.invars[0] is not product.invars[1]
            )
            if of_two and 1 in term.aval.shape and len(kept) > 1 and max(kept) > 1:
                yield term.aval.shape


def each(some):
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in some])


# The gradient of `use_auto` is autodiff's.
@each([case for case in cases.LAYERS if case.name != "use_auto"])
def test_no_layer_sums_products_with_an_axis_of_one(case):
    if "leading-axes" in case.shapes:
        case = case._replace(shapes={"plain": (2, 1, *case.shapes["leading-axes"][2:])})
    layer, x = case.make(), inputs(case)
    place = layer.init(jax.random.key(0), x)
    run = jax.make_jaxpr(lambda *args: there_and_back(layer, True, *args)[::2])
    assert not list(slow_sums(run(*place, x).jaxpr))


# CTC takes three axes, and a head flattens its own.
@each([case for case in cases.LOSSES if not case.name.startswith(("ctc", "linear_cross_entropy"))])
def test_no_loss_sums_products_with_an_axis_of_one(case):
    loss = case.make()
    y, target = jax.tree.map(lambda a: jnp.asarray(a)[:, None], (prediction(case), case.target))

    def run(y):
        values, residuals = loss.forward(y, target)
        return values, loss.backward(residuals, jnp.ones_like(values))

    assert not list(slow_sums(jax.make_jaxpr(run)(y).jaxpr))


def test_a_plain_sum_of_products_with_an_axis_of_one_is_found():
    x = jnp.ones((4, 1, 5))
    found = [
        list(slow_sums(jax.make_jaxpr(f)(x, x + 1).jaxpr))
        for f in (lambda a, b: (a * b).sum(-1), lambda a, b: sum_of_product(a, b, -1))
    ]
    assert found == [[(4, 1, 5)], []]
