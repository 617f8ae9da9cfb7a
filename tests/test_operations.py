"""Programs of the same operations are told from those of others."""

import jax
import jax.numpy as jnp
import pytest

from tests.operations import same_operations

ROWS = jnp.arange(6.0).reshape(3, 2)
STEADY = jnp.arange(2.0)


def through(step, init=lambda x: x, pick=lambda carry, ys: (carry, ys), **settings):
    return lambda x: pick(*jax.lax.scan(step, init(x), ROWS, **settings))


def sums(carry, row):
    return carry + row, (carry * row, jnp.sin(row))


def turned(carry, row):
    return sums(carry, row)[0], sums(carry, row)[1][::-1]


def turned_back(carry, ys):
    return carry, ys[::-1]


def outside(x):
    shift = jnp.exp(STEADY)
    return jax.lax.scan(lambda carry, row: (carry * row + shift, None), x, ROWS)


def inside(x):
    return jax.lax.scan(lambda carry, row: (carry * row + jnp.exp(STEADY), None), x, ROWS)


def handed_on(x):
    def step(carry, row):
        a, shift = carry
        return (a * row + shift, shift), None

    return (jax.lax.scan(step, (x, jnp.exp(STEADY)), ROWS)[0][0], None)


def kept(x):
    """What is the same in every step, saved by one scan for another."""
    shifts = jax.lax.scan(lambda carry, row: (carry, jnp.exp(STEADY)), 0, ROWS)[1]
    return jax.lax.scan(lambda carry, at: (carry * at[0] + at[1], None), x, (ROWS, shifts))


def once(x):
    y = jnp.sin(x)
    return y * y


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (once, lambda x: jnp.sin(x) * jax.jit(jnp.sin)(x)),
        (through(sums), through(turned, pick=turned_back)),
        (outside, inside),
        (outside, handed_on),
        (outside, kept),
    ],
)
def test_order_repetition_and_what_moves_out_of_a_scan_make_no_difference(one, other):
    assert same_operations(*(jax.jit(f).trace(STEADY).jaxpr for f in (one, other)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (once, lambda x: jnp.sin(x) * jnp.cos(x)),
        (lambda x: x - 2 * STEADY, lambda x: 2 * STEADY - x),
        (lambda x: x * 2, lambda x: x * 3),
        (lambda x: x + jnp.arange(2.0), lambda x: x + jnp.array([0.0, 2.0])),
        (through(sums), through(turned)),
        (through(sums), through(sums, reverse=True)),
        (through(sums), through(sums, init=lambda x: 2 * x)),
        (outside, lambda x: jax.lax.scan(lambda c, r: (c * r + STEADY, None), x, ROWS)),
        (
            lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x),
            lambda x: jax.lax.cond(x[0] > 0, jnp.cos, jnp.sin, x),
        ),
    ],
)
def test_other_operations_are_seen(one, other):
    assert not same_operations(*(jax.jit(f).trace(STEADY).jaxpr for f in (one, other)))


def test_the_carry_of_a_scan_is_told_from_that_of_one_around_it():
    def nested(pick):
        def outer(a, row):
            def inner(b, row):
                return b * row + pick(a, b), None

            # Both begin with the same.
            return jax.lax.scan(inner, STEADY, ROWS)[0] + row, None

        return jax.jit(lambda x: jax.lax.scan(outer, STEADY, ROWS)[0] + x).trace(STEADY).jaxpr

    assert same_operations(nested(lambda a, b: a), nested(lambda a, b: a))
    assert not same_operations(nested(lambda a, b: a), nested(lambda a, b: b))
