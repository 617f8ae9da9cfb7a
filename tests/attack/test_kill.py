"""A run that is killed and gone on with ends bit for bit as one that was not."""

import pytest

from tests.attack.kill import CASES, Moment, Run, attack

NAME = "batches-noise-ema"
# In the first write, so that the run begins again, and in a later one.
KILLS = [Moment("inside", 1, 0.0), Moment("inside", 5, 0.005)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = Run(NAME, tmp_path_factory.mktemp("kill") / "whole")
    assert run.go_on()
    return run


def test_a_run_that_is_killed_ends_bit_for_bit_as_one_that_is_not(whole):
    assert len(CASES) >= 6
    run, wrong = attack(NAME, iter(KILLS), whole.folder.with_name("killed"), whole)
    assert wrong == []
    assert len(run.kills) == 2
    assert "inside of a write" in run.kills


def test_a_run_that_forgets_its_moments_is_seen(whole):
    place = whole.folder.with_name("forgetful")
    _, wrong = attack(NAME, iter(KILLS[1:2]), place, whole, fault="moments")
    assert any("opt_state/" in line for line in wrong)
