"""Schedules: every one against its formula, at plain and traced steps, and as a value."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnn import optim
from fnn.optim import schedule
from tests.cases import makers
from tests.tolerance import rounding


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def one_cycle(t):
    if t < 3.25:
        return 0.3 * (0.2 + 0.8 * (1 - np.cos(np.pi * t / 3.25)) / 2)
    return 0.3 * (0.1 + 0.9 * (1 + np.cos(np.pi * min((t - 3.25) / 9.75, 1))) / 2)


# Schedules: (made afresh, formula, another one that differs in one argument).
SCHEDULES = {
    "constant": (lambda: schedule.constant(0.3), lambda t: 0.3, lambda: schedule.constant(0.4)),
    "step": (
        lambda: schedule.step_decay(0.3, 0.6, every=7),
        lambda t: 0.3 * 0.6 ** (t // 7),
        lambda: schedule.step_decay(0.3, 0.6, every=8),
    ),
    "exponential": (
        lambda: schedule.exponential(0.3, 0.6, steps=7),
        lambda t: 0.3 * 0.6 ** (t / 7),
        lambda: schedule.exponential(0.3, 0.7, steps=7),
    ),
    "cosine": (
        lambda: schedule.cosine(0.3, 7, final=0.02),
        lambda t: 0.02 + 0.28 * (1 + np.cos(np.pi * min(t, 7) / 7)) / 2,
        lambda: schedule.cosine(0.3, 7),
    ),
    "polynomial": (
        lambda: schedule.polynomial(0.3, 0.02, 7, power=1.5),
        lambda t: 0.02 + 0.28 * (1 - min(t, 7) / 7) ** 1.5,
        lambda: schedule.polynomial(0.3, 0.02, 7),
    ),
    "inverse_time": (
        lambda: schedule.inverse_time(0.3, 7, power=0.7),
        lambda t: 0.3 / (1 + t / 7) ** 0.7,
        lambda: schedule.inverse_time(0.3, 7),
    ),
    "one_cycle": (
        lambda: schedule.one_cycle(0.3, 13, 0.25, 0.2, 0.1),
        one_cycle,
        lambda: schedule.one_cycle(0.3, 13, 0.25, 0.2),
    ),
    "cyclic": (
        lambda: schedule.cyclic(0.02, 0.3, 4, shrink=0.7),
        lambda t: 0.02 + 0.28 * 0.7 ** (t // 8) * (1 - abs(t % 8 / 4 - 1)),
        lambda: schedule.cyclic(0.02, 0.3, 4),
    ),
    "piecewise": (
        lambda: schedule.piecewise_constant([0.3, 0.1, 0.2], [4, 8]),
        lambda t: 0.3 if t < 4 else 0.1 if t < 8 else 0.2,
        lambda: schedule.piecewise_constant([0.3, 0.1, 0.2], [4, 9]),
    ),
    "join": (
        lambda: schedule.join([schedule.constant(0.3), schedule.step_decay(0.2, 0.6, 2)], [7]),
        lambda t: 0.3 if t < 7 else 0.2 * 0.6 ** ((t - 7) // 2),
        lambda: schedule.join([schedule.constant(0.3), schedule.step_decay(0.2, 0.5, 2)], [7]),
    ),
    "warm_up": (
        lambda: schedule.warm_up(4, schedule.exponential(0.3, 0.6, steps=7)),
        lambda t: 0.3 * (t + 1) / 4 if t < 4 else 0.3 * 0.6 ** ((t - 4) / 7),
        lambda: schedule.warm_up(4, schedule.exponential(0.3, 0.6, steps=8)),
    ),
}
all_schedules = pytest.mark.parametrize("made", SCHEDULES.values(), ids=SCHEDULES)
TIMES = [0, 1, 3, 4, 6, 7, 8, 13, 14, 700]


@all_schedules
def test_a_schedule_is_its_formula_at_plain_and_at_traced_steps(made, dtype):
    make, formula, _ = made
    expected = [formula(t) for t in TIMES]
    bound = rounding(dtype, 1) * 0.3
    plain = [float(make()(t)) for t in TIMES]
    arrays = [float(make()(jnp.int32(t))) for t in TIMES]
    traced = jax.jit(jax.vmap(lambda t: jnp.asarray(make()(t), dtype)))(jnp.asarray(TIMES, "int32"))
    for values in (plain, arrays, traced):
        np.testing.assert_allclose(values, expected, rtol=0, atol=bound)


@all_schedules
def test_equal_calls_make_equal_schedules_and_rules(made):
    make, _, other = made
    for wrap in (lambda s: s, optim.sgd, lambda s: optim.chain(optim.weight_decay(s))):
        assert wrap(make()) == wrap(make())
        assert hash(wrap(make())) == hash(wrap(make()))
        assert wrap(make()) != wrap(other())
        assert str(wrap(make())) == str(wrap(make())) != str(wrap(other()))


OPTAX = {
    "exponential": (schedule.exponential(0.3, 0.6, 7), optax.exponential_decay(0.3, 7, 0.6)),
    "cosine": (schedule.cosine(0.3, 7, 0.03), optax.cosine_decay_schedule(0.3, 7, 0.1)),
    "polynomial": (
        schedule.polynomial(0.3, 0.02, 7, 1.5),
        optax.polynomial_schedule(0.3, 0.02, 1.5, 7),
    ),
    "one_cycle": (
        schedule.one_cycle(0.3, 16, 0.25, 0.2, 0.02),
        optax.cosine_onecycle_schedule(16, 0.3, 0.25, 5.0, 10.0),
    ),
    "piecewise": (
        schedule.piecewise_constant([0.3, 0.1, 0.2], [4, 8]),
        optax.join_schedules([lambda t: 0.3, lambda t: 0.1, lambda t: 0.2], [4, 8]),
    ),
}


@pytest.mark.parametrize("name", OPTAX)
def test_a_schedule_is_that_of_optax(name):
    ours, theirs = OPTAX[name]
    with jax.numpy_dtype_promotion("standard"):
        expected = [float(theirs(t)) for t in TIMES]
    np.testing.assert_allclose(
        [float(ours(t)) for t in TIMES], expected, rtol=0, atol=rounding("float32", 10) * 0.3
    )


def test_public_schedules_all_stand_in_the_table():
    made = set().union(*(makers(make()) for make, _, _ in SCHEDULES.values()))
    names = {name for name in vars(schedule) if hasattr(getattr(schedule, name), "__wrapped__")}
    assert names == made


def test_the_numbers_of_a_schedule_may_be_traced():
    rates = jnp.array([0.1, 0.2])
    values = jax.vmap(lambda rate: schedule.polynomial(rate, 0.0, 10)(5))(rates)
    np.testing.assert_allclose(values, rates / 2, rtol=rounding("float32", 1))
