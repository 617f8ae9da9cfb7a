"""Schedules: every one against its formula, at plain and traced steps, and as a value."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnn import InputError, optim
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
def test_equal_calls_make_equal_schedules_and_optimizers(made):
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


NAN = float("nan")
WRONG = {
    "cosine: value": lambda bad: schedule.cosine(bad, 9),
    "cosine: final": lambda bad: schedule.cosine(0.1, 9, bad),
    "constant: value": lambda bad: schedule.constant(bad),
    "step_decay: value": lambda bad: schedule.step_decay(bad, 0.5, 3),
    "step_decay: factor": lambda bad: schedule.step_decay(0.1, bad, 3),
    "exponential: value": lambda bad: schedule.exponential(bad, 0.5, 3),
    "exponential: factor": lambda bad: schedule.exponential(0.1, bad, 3),
    "polynomial: value": lambda bad: schedule.polynomial(bad, 0.1, 3),
    "polynomial: final": lambda bad: schedule.polynomial(0.1, bad, 3),
    "polynomial: power": lambda bad: schedule.polynomial(0.1, 0.1, 3, bad),
    "inverse_time: value": lambda bad: schedule.inverse_time(bad, 3),
    "inverse_time: power": lambda bad: schedule.inverse_time(0.1, 3, bad),
    "one_cycle: peak": lambda bad: schedule.one_cycle(bad, 3),
    "one_cycle: rise": lambda bad: schedule.one_cycle(0.1, 3, bad),
    "one_cycle: start": lambda bad: schedule.one_cycle(0.1, 3, start=bad),
    "one_cycle: final": lambda bad: schedule.one_cycle(0.1, 3, final=bad),
    "cyclic: low": lambda bad: schedule.cyclic(bad, 0.2, 3),
    "cyclic: high": lambda bad: schedule.cyclic(0.1, bad, 3),
    "cyclic: shrink": lambda bad: schedule.cyclic(0.1, 0.2, 3, bad),
    "piecewise_constant: values": lambda bad: schedule.piecewise_constant([0.1, bad], [3]),
}


@pytest.mark.parametrize(
    "bad",
    [-1, -0.1, NAN, float("inf"), 1e300, "0.1", 1j, True, None, np.float32(-1), np.ones(2)],
    ids=str,
)
@pytest.mark.parametrize("name", WRONG)
def test_every_number_of_a_schedule_is_judged_by_its_value_when_it_is_made(name, bad):
    argument = name.partition(": ")[2]
    with pytest.raises(InputError, match=argument):
        WRONG[name](bad)
    with pytest.raises(InputError, match=argument):
        WRONG[name](jnp.float32(NAN))


STEPS_OF = {
    "cosine": lambda n: schedule.cosine(0.1, n),
    "step_decay": lambda n: schedule.step_decay(0.1, 0.5, n),
    "exponential": lambda n: schedule.exponential(0.1, 0.5, n),
    "polynomial": lambda n: schedule.polynomial(0.1, 0.0, n),
    "inverse_time": lambda n: schedule.inverse_time(0.1, n),
    "one_cycle": lambda n: schedule.one_cycle(0.1, n),
    "cyclic": lambda n: schedule.cyclic(0.1, 0.2, n),
    "warm_up": lambda n: schedule.warm_up(n, schedule.constant(0.1)),
}


@pytest.mark.parametrize("name", STEPS_OF)
def test_numbers_of_steps_are_integers_of_any_size(name):
    for bad in (0, -3, 2.0, True, "9", None):
        with pytest.raises(InputError, match="pass a number of steps"):
            STEPS_OF[name](bad)
    assert STEPS_OF[name](np.int64(7))(3) == STEPS_OF[name](7)(3)
    assert 0 <= STEPS_OF[name](2**31 - 1)(np.uint64(10**15)) <= 0.2
    with pytest.raises(InputError, match=r"steps|every"):
        STEPS_OF[name](2**31)


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedule.join([0.1, 0.2], [3]),
        lambda: schedule.join(None, [3]),
        lambda: schedule.join([schedule.constant(0.1)] * 2, [0]),
        lambda: schedule.join([schedule.constant(0.1)] * 2, [2.5]),
        lambda: schedule.join([schedule.constant(0.1)] * 3, [4, 4]),
        lambda: schedule.join([schedule.constant(0.1), lambda t: -0.1], [4]),
        lambda: schedule.piecewise_constant(0.1, [3]),
        lambda: schedule.piecewise_constant("ab", [3]),
        lambda: schedule.piecewise_constant([0.1, 0.2], 3),
        lambda: schedule.warm_up(3, 0.1),
        lambda: schedule.warm_up(3, lambda t: "x"),
        lambda: schedule.warm_up(3, lambda t: jnp.where(t < 2, 0.1, jnp.nan)),
        lambda: schedule.Schedule(0.1),
        lambda: schedule.cosine(0.1, 9)("3"),
        lambda: schedule.cosine(0.1, 9)(None),
        lambda: schedule.cosine(0.1, 9)(1j),
        lambda: schedule.cosine(0.1, 9)(jax.random.key(0)),
    ],
)
def test_what_is_no_schedule_or_no_step_is_refused_in_words(make):
    with pytest.raises(InputError):
        make()


@all_schedules
def test_a_schedule_is_finite_and_not_negative_at_any_step_and_before_step_0_as_at_0(made):
    values = made[0]()
    for t in (0, 0.5, 2**31 - 1, 10**15, 1e30, np.uint8(255), np.float16(3), jnp.int8(100)):
        assert 0 <= float(values(t)) < np.inf
    for t in (-1, -(10**12), -0.5, jnp.int32(-7), np.int8(-128)):
        assert float(values(t)) == float(values(0))


@all_schedules
@pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "uint32", "float16", "float32"])
def test_the_dtype_of_a_step_does_not_matter(made, kind):
    values = made[0]()
    times = [0, 3, 8, 100]
    plain = [float(values(t)) for t in times]
    for several in (values(np.array(times, kind)), jax.jit(values)(jnp.array(times, kind))):
        found = np.broadcast_to(np.asarray(several), len(times))
        np.testing.assert_allclose(found, plain, rtol=rounding("float32", 1))


def test_a_schedule_that_grows_stays_finite():
    for growing in (schedule.exponential(0.3, 2.0, 7), schedule.step_decay(0.3, 2.0, 7)):
        assert float(growing(700)) == pytest.approx(0.3 * 2.0**100)
        assert 1e38 < float(growing(10_000)) == float(growing(20_000)) < np.inf
    assert float(schedule.exponential(0.0, 2.0, 7)(10_000)) == 0


def test_a_schedule_in_an_optimizer_is_judged_when_that_is_made():
    for bad in (lambda t: -0.1, lambda t: jnp.nan * t, lambda t: jnp.ones(2), lambda: 0.1):
        with pytest.raises(InputError, match="learning_rate"):
            optim.sgd(bad)
