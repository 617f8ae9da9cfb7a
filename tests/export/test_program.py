"""A program in fewer words computes the same, of nothing that no output needs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.interop._program import plain_model, simplified

X = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
N = np.array([-5, -3, 0, 4, 7], np.int32)


def backward_loop(x):
    def turn(carry, row):
        return carry * 0.5 + row, (carry, jnp.sin(row))

    return jax.lax.scan(turn, jnp.ones(4), x, reverse=True)


def read_in_part(x):
    (carry, (columns, _)) = backward_loop(x)
    return jnp.pad(columns, ((1, 2), (0, 1)), constant_values=-2.0), carry


@jax.custom_jvp
def own(x):
    return jnp.tanh(x)


own.defjvp(lambda primals, tangents: (own(*primals), tangents[0]))
CASES = {
    "loop": (backward_loop, X),
    "part": (read_in_part, X),
    "calls": (lambda x: jax.jit(jax.checkpoint(lambda x: own(x) + 1))(x), X),
    "remainder": (lambda n: (jax.lax.rem(n, 3), jax.lax.rem(n, -2)), N),
    "branch": (lambda x: jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x), X),
    "inputs": (lambda x: (x, x, jnp.ones(2)), X),
}


@pytest.mark.parametrize("name", CASES)
def test_it_computes_the_same(name):
    function, x = CASES[name]
    found = jax.jit(simplified(jax.make_jaxpr(function)(x)))(x)
    expected = jax.tree.leaves(jax.jit(function)(x))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def primitives(function, x):
    traced = jax.make_jaxpr(simplified(jax.make_jaxpr(function)(x)))(x)
    return [equation.primitive.name for equation in traced.eqns]


def test_what_no_output_needs_is_left_out():
    def outer(x):
        return jax.jit(lambda x: (jnp.sin(x), jnp.cos(x)))(x)[0]

    assert primitives(outer, X) == ["sin"]
    (loop,) = [
        equation
        for equation in jax.make_jaxpr(simplified(jax.make_jaxpr(read_in_part)(X)))(X).eqns
        if equation.primitive.name == "scan"
    ]
    inside = {equation.primitive.name for equation in loop.params["jaxpr"].eqns}
    assert not loop.params["reverse"]
    assert "sin" not in inside


def test_what_is_for_all_other_platforms_is_taken():
    def function(x):
        return jax.lax.platform_dependent(x, cpu=jnp.sin, tpu=jnp.exp, default=jnp.cos)

    assert primitives(function, X) == ["cos"]


def test_every_output_is_a_value_of_its_own():
    traced = jax.make_jaxpr(simplified(jax.make_jaxpr(CASES["inputs"][0])(X)))(X)
    values = [*traced.jaxpr.invars, *traced.jaxpr.outvars]
    assert len(set(map(id, values))) == 4


def test_an_operation_is_told_with_its_layer():
    model = plain_model(fnn.serial(first=fnn.dense(2), rest=fnn.repeat(fnn.tanh(), 2)))
    params, state = model.init(jax.random.key(0), X)
    traced = jax.make_jaxpr(lambda x: model.apply(params, state, x)[0])(X)
    told = []
    jax.eval_shape(simplified(traced, told.append), X)
    found = {(operation.primitive, operation.path, operation.layer) for operation in told}
    assert {("dot_general", "first", "dense"), ("tanh", "rest", "tanh")} <= found
