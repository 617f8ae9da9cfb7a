"""A short attack in the suite; the long one is ``python -m tests.attack.calls``."""

import jax.numpy as jnp
import pytest
from hypothesis import given, settings, strategies as st

import fnn
from tests.attack.calls import BAD, ODD, Attack, Target, Verdict, attempt, constructors

ROOMS = ("loss ", "optimizer ", "noise ")
TARGETS = [t for t in constructors() if t.name.startswith(ROOMS) and t.bound()]


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_odd_arguments_are_refused_or_right(data):
    target = data.draw(st.sampled_from(TARGETS), label="target")
    parameter = data.draw(st.sampled_from(sorted(target.bound())), label="parameter")
    odd = data.draw(st.sampled_from(list(ODD)), label="odd")
    verdict, text = attempt(Attack(target, parameter, odd), ODD[odd])
    assert verdict not in BAD, f"{verdict.value}: {text}"


def careless(size: float):
    if size == 2:
        raise TypeError
    if size == 3:
        raise fnn.InputError("size below 3", "3", "pass less")
    return jnp.ones(1) / (size if size is not None else 1)


def exercise(result):
    if not jnp.isfinite(result).all():
        raise ArithmeticError


@pytest.mark.parametrize(
    ("odd", "verdict"),
    [
        ("1", Verdict.RIGHT),
        ("2", Verdict.OPAQUE),
        ("3", Verdict.REFUSED),
        ("None", Verdict.SILENT),
        ("text", Verdict.OPAQUE),
    ],
)
def test_a_careless_function_is_told_from_a_careful_one(odd, verdict):
    target = Target("careless", careless, (1.0,), {}, exercise)
    assert attempt(Attack(target, "size", odd), ODD[odd])[0] is verdict
