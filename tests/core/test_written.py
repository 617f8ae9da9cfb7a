"""What is written once, so that XLA does not compute it again in what reads it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn._core.written import written


def cubes(x):
    """What costs little, so that XLA computes it wherever it is read."""
    return x * x * x


def kept_apart(function):
    """Whether the compiled program has a choice, into which no kernel that reads it is fused."""
    program = jax.jit(lambda x: function(x).sum(0)).lower(jnp.ones((64, 64))).compile()
    return " conditional(" in program.as_text()


def test_xla_keeps_what_is_written_apart_from_what_reads_it():
    assert kept_apart(lambda x: written(cubes, x))
    assert not kept_apart(cubes)


@pytest.mark.parametrize(
    "way",
    [
        lambda f: f,
        jax.vmap,
        lambda f: jax.grad(lambda x: f(x).sum()),
        lambda f: lambda x: jax.jvp(f, (x,), (x,))[1],
    ],
    ids=["call", "vmap", "grad", "jvp"],
)
def test_what_is_written_is_what_the_function_computes(way):
    x = jax.random.normal(jax.random.key(0), (3, 4))
    np.testing.assert_array_equal(way(lambda x: written(cubes, x))(x), way(cubes)(x))


def test_a_tree_is_written_of_several_arrays():
    x, y = jnp.ones(2), jnp.arange(2)
    found = written(lambda x, y: {"a": x * 2, "b": (y, x)}, x, y)
    jax.tree.map(np.testing.assert_array_equal, found, {"a": x * 2, "b": (y, x)})
