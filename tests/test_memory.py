"""The suite forgets compiled programs before they fill the memory."""

import jax

from tests.conftest import PROGRAMS


def test_every_program_that_is_compiled_is_counted_and_one_that_is_known_is_not():
    def times_seven(x):
        return 7 * x

    before = PROGRAMS.compiled
    run = jax.jit(times_seven).lower(1.0)
    run.compile()
    assert PROGRAMS.compiled == before + 1
    jitted = jax.jit(times_seven)
    jitted(1.0)
    counted = PROGRAMS.compiled
    jitted(2.0)
    assert PROGRAMS.compiled == counted


def test_what_is_forgotten_is_compiled_and_counted_again():
    jitted = jax.jit(lambda x: 5 * x)
    jitted(1.0)
    PROGRAMS.forget()
    assert PROGRAMS.compiled == 0
    jitted(1.0)
    assert PROGRAMS.compiled > 0
