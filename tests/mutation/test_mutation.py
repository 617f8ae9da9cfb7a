"""The planting of faults is on trial itself: what it changes, what it leaves, and what it sees."""

import json
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from tests.mutation import __main__ as command, run, select
from tests.mutation.plant import Mutant, mutants

SOURCE = '''"""Words - and more."""


@decorated(1)
def slope(x: "int | None", least: float = 0.5) -> float:
    """Return 1 - x."""
    if x < 0:
        raise InputError("x of 0 or more", describe(x - 1), "é" + "pass another")
    check.number(x, "x", most=3)
    y = "µ", jnp.where(x >= 2, -x, x * 4)
    return jnp.sum(y[1], axis=0) + least


LIMIT: float = 2.0
'''
CHANGES = [
    "`x < 0` -> `x <= 0`", "`0` -> `1`", "`3` -> `4`",
    "`jnp.where(x >= 2, -x, x * 4)` -> `jnp.where(x >= 2, x * 4, -x)`",
    "`x >= 2` -> `x > 2`", "`2` -> `3`", "`-x` -> `x`", "`x * 4` -> `x / 4`", "`x * 4` -> `x`",
    "`4` -> `5`", "`jnp.sum(y[1], axis=0) + least` -> `jnp.sum(y[1], axis=0) - least`",
    "`jnp.sum(y[1], axis=0) + least` -> `jnp.sum(y[1], axis=0)`",
    "`jnp.sum(y[1], axis=0)` -> `jnp.mean(y[1], axis=0)`", "`1` -> `2`", "`0` -> `1` #2",
    "`2.0` -> `4.0`",
]  # fmt: skip


def test_faults_are_planted_in_what_is_computed_and_nowhere_else():
    found = mutants("fnn/part.py", SOURCE)
    assert [mutant.change for mutant in found] == CHANGES
    assert [m.change for m in found if m.guard] == CHANGES[:3]
    assert [m.function for m in found] == ["slope"] * 15 + [""]


def test_a_mutant_is_the_source_but_for_one_expression():
    for mutant in mutants("fnn/part.py", SOURCE):
        compile(mutant.source, mutant.path, "exec")
        old, _, new = mutant.change.partition(" #")[0].replace("`", "").partition(" -> ")
        changed = [
            (one, other)
            for one, other in zip(SOURCE.split("\n"), mutant.source.split("\n"), strict=True)
            if one != other
        ]
        assert len(changed) == 1
        assert old in changed[0][0]
        assert f"({new})" in changed[0][1]


def test_a_fault_elsewhere_does_not_change_which_are_drawn():
    more = SOURCE.replace("LIMIT: float = 2.0", "LIMIT: float = 5.0")
    ranks = [
        {m.name: m.rank(3) for m in mutants("fnn/part.py", source) if m.function}
        for source in (SOURCE, more)
    ]
    assert ranks[0] == ranks[1]
    other = {m.name: m.rank(4) for m in mutants("fnn/part.py", SOURCE) if m.function}
    assert ranks[0] != other


def test_every_room_of_the_package_has_files_of_tests():
    for path in select.in_package(command.ROOT):
        there = [(command.ROOT / file).exists() for file in select.files(path)]
        # Not every file has tests that bear its name.
        assert there.count(False) <= 1, path
        assert there.count(True) >= 2, path


HINGE, EDGES = "fnn/losses/regression.py", "tests/losses/test_edges.py::"


@pytest.fixture
def fault():
    source = (command.ROOT / HINGE).read_text()
    changed = source.replace("missing = 1 - t * y", "missing = 2 - t * y")
    assert changed != source
    return source, Mutant(HINGE, "hinge", 1, "1 -> 2", False, changed)


def test_a_planted_fault_reaches_what_was_made_before_and_goes_again(fault):
    source, mutant = fault
    loss, y, t = fnn.losses.hinge(), jnp.zeros((1, 1)), jnp.ones((1, 1), int)
    with run.planted(HINGE, source, mutant.source) as count:
        assert count
        np.testing.assert_array_equal(loss.apply(y, t), [2])
    np.testing.assert_array_equal(loss.apply(y, t), [1])


class Suite:
    """Tests of a suite of one's own, by name: functions that say whether they pass."""

    def __init__(self, **tests):
        self.items = {EDGES + name: test for name, test in tests.items()}

    def passes(self, name, seconds):
        return self.items[name]()


def right():
    value = fnn.losses.hinge().apply(jnp.zeros((1, 1)), jnp.ones((1, 1), int))
    return bool(value[0] == 1)


@pytest.mark.parametrize(
    ("tests", "fate", "by"),
    [
        ({"hinge": right}, "killed", EDGES + "hinge"),
        ({"hinge_easy": lambda: True}, "survived", ""),
        # What fails without the fault too proves nothing.
        ({"hinge_never": lambda: False}, "survived", ""),
        ({"hinge_1": lambda: False, "hinge_2": right}, "killed", EDGES + "hinge_2"),
    ],
    ids=["seen", "not-seen", "fails-anyway", "fails-anyway-and-seen"],
)  # fmt: skip
def test_a_mutant_is_killed_by_a_test_that_fails_with_it_and_passes_without(fault, tests, fate, by):
    source, mutant = fault
    verdict = command.Judge(Suite(**tests), budget=60.0)(mutant, source)
    assert (verdict.fate, verdict.by) == (fate, by)


@pytest.mark.parametrize(("reasons", "fine"), [({}, False), ({"fnn/a.py::f: x": "why"}, True)])
def test_a_survivor_needs_a_reason(capsys, reasons, fine):
    verdicts = [
        command.Verdict("fnn/a.py::f: x", "survived", "", 1.0),
        command.Verdict("fnn/a.py::f: y", "killed", "tests/test_a.py::b", 1.0),
    ]
    assert command.report(verdicts, reasons) is fine
    assert ("UNEXPLAINED" in capsys.readouterr().out) is not fine


def test_as_many_mutants_of_one_room_are_drawn_as_of_another(tmp_path):
    for path, repeats in (("a/one.py", 1), ("a/two.py", 40), ("b/three.py", 9)):
        file = tmp_path / "fnn/layers" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("def f(x):\n" + "    x = x * 2 + 1\n" * repeats)
    drawn = command.drawn(24, 0, [], tmp_path)
    assert Counter(mutant.room for mutant in drawn) == {"fnn/layers/a": 12, "fnn/layers/b": 12}
    assert drawn[:10] == command.drawn(10, 0, [], tmp_path)
    assert drawn != command.drawn(24, 1, [], tmp_path)


def test_the_table_counts_what_became_of_all_and_leaves_other_rooms(tmp_path):
    verdicts = [
        command.Verdict("fnn/a/b.py::f: x", "survived", "", 1.0),
        command.Verdict("fnn/a/c.py::f: x", "survived", "", 1.0),
        command.Verdict("fnn/a/c.py::f: y", "killed", "tests/test_a.py::b", 1.0),
    ]
    file, possible = tmp_path / "mutants.json", Counter({"fnn/a": 9})
    command.write_table(file, {"fnn/b": Counter(killed=1)}, Counter({"fnn/b": 7}))
    command.write_table(file, command.tally(verdicts, {"fnn/a/b.py::f: x": "why"}), possible)
    found = json.loads(file.read_text("utf-8"))
    counts = {
        room: [row[fate] for fate in ("possible", *command.FATES)] for room, row in found.items()
    }
    assert counts == {"fnn/a": [9, 1, 1, 1], "fnn/b": [7, 1, 0, 0]}
    assert all(row["date"] and row["machine"] for row in found.values())
