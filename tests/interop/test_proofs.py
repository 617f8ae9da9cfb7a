"""The page of proofs says what the tests compare, and leaves out nothing that is public."""

import json
import re

import pytest

import fnn
from tests import cases, proofs, report
from tests.mutation import select
from tests.optim.test_noise import CASES as NOISES

pytestmark = pytest.mark.once
PAGE = proofs.PAGE.read_text("utf-8")


def test_the_page_is_that_of_the_tables():
    assert proofs.page() == PAGE, "write it anew: python -m tests.proofs"


def test_every_layer_loss_optimizer_and_noise_has_one_row():
    optim = fnn.optim
    public = {f"fnn.{name}" for name in cases.public(fnn, fnn.Layer) - {"mixed_precision"}}
    public |= {f"fnn.{name}" for name in cases.public(fnn, fnn.Estimator)}
    public |= {f"fnn.losses.{name}" for name in cases.public(fnn.losses, fnn.losses.Loss)}
    public |= {f"fnn.optim.{name}" for name in cases.public(optim, optim.Optimizer)}
    assert sorted(re.findall(r"^\| `([\w.]+)`", PAGE, re.M)) == sorted(public)


def test_every_noise_is_compared_with_its_formula_or_has_claims_of_its_own():
    rows = re.findall(r"^\| `(.*?)` \| (yes|) \| (.*?) \|$", PAGE, re.M)
    assert [name for name, formula, claims in rows if not (formula or claims)] == []
    assert {name for name, formula, _ in rows if formula} == {
        f"fnn.optim.{case.name}" for case in NOISES
    }


def test_a_layer_that_is_compared_with_nothing_has_no_row():
    with pytest.raises(AssertionError, match="no case"):
        proofs.proofs_of("fnn.nothing", [], "layers")


TABLES = {"layers": cases.LAYERS, "losses": cases.LOSSES}


def unmeasured(found):
    """The cases of which nothing was measured, or of which there are none any more."""
    return {
        kind: apart
        for kind, table in TABLES.items()
        if (apart := {case.name for case in table} ^ set(found[kind]))
    }


def test_every_case_was_measured_and_stands_on_the_page():
    again = "python -m tests.report --only NAME --json docs/measured/gradients.json"
    assert unmeasured(proofs.measured()) == {}, f"measure them: {again}"
    for kind in TABLES:
        _, _, section = PAGE.partition(f"### Cases of {kind}")
        rows = re.findall(r"^\| ([\w-]+) \|(.*)\|$", section.partition("###")[0], re.M)
        assert {name for name, _ in rows} - {"case", "---"} == set(proofs.measured()[kind])
        assert [name for name, row in rows if "<=" not in row] == ["case", "---"]


def test_a_case_that_was_not_measured_is_seen():
    found = {kind: dict(rows) for kind, rows in proofs.measured().items()}
    del found["layers"]["dense"]
    found["losses"]["of long ago"] = {}
    assert unmeasured(found) == {"layers": {"dense"}, "losses": {"of long ago"}}


def wrong(found):
    """The cases whose errors are beyond their bounds, or in which a mistake was not caught."""
    return [
        name
        for rows in found.values()
        for name, row in rows.items()
        if row["caught"] != row["planted"]
        or not row["planted"]
        or any(
            error > bound
            for what in ("auto", "numeric", "float32", "pytorch")
            for error, bound in [row[what] or (0, 0)]
        )
    ]


def test_every_error_on_the_page_is_within_its_bound_and_every_mistake_was_caught():
    assert wrong(proofs.measured()) == []


@pytest.mark.parametrize("fault", [{"caught": 3}, {"float32": [1e-3, 1e-5]}])
def test_an_error_beyond_its_bound_and_a_mistake_that_passed_are_seen(fault):
    row = {"auto": [0, 1e-15], "numeric": None, "float32": [0, 1e-6], "pytorch": None}
    right = {"layers": {"a": row | {"caught": 4, "planted": 4}}}
    assert wrong(right) == []
    assert wrong({"layers": {"a": right["layers"]["a"] | fault}}) == ["a"]


def test_what_is_measured_anew_leaves_what_was_measured_of_others(tmp_path):
    file, error = tmp_path / "measured.json", report.Error(1.23e-16, 1e-15)
    finding = report.Finding(error, None, error, 0.0, "", None, 4, 4)
    report.write({"layers": {"dense": finding}, "losses": {}}, file)
    again = finding._replace(planted=5)
    report.write({"layers": {"gelu-tanh": again, "no case": again}, "losses": {}}, file)
    found = json.loads(file.read_text("utf-8"))
    assert {name: row["planted"] for name, row in found["layers"].items()} == {
        "dense": 4, "gelu-tanh": 5,
    }  # fmt: skip
    assert found["layers"]["dense"]["auto"] == [1.2e-16, 1e-15]


ROOMS = ("fnn/layers", "fnn/losses", "fnn/optim", "fnn/combinators", "fnn/gradient")


def unplanted(found):
    """The rooms in which no mutant was planted, or one survived without a reason."""
    paths = [path for path in select.in_package(proofs.ROOT) if path.startswith(ROOMS)]
    rooms = {path.rpartition("/")[0] for path in paths}
    seen = {room for room, row in found.items() if proofs.planted(row) and not row["unexplained"]}
    return rooms ^ seen


def test_mutants_of_every_room_were_planted_and_none_survived_without_a_reason():
    again = "python -m tests.mutation --only ROOM --table docs/measured/mutants.json"
    assert unplanted(proofs.mutated()) == set(), f"plant some: {again}"


@pytest.mark.parametrize("fault", [None, {"killed": 0, "explained": 0}, {"unexplained": 1}])
def test_a_room_without_mutants_and_a_survivor_without_a_reason_are_seen(fault):
    found = dict(proofs.mutated())
    row = found.pop("fnn/optim/noise")
    if fault is not None:
        found["fnn/optim/noise"] = row | fault
    assert unplanted(found) == {"fnn/optim/noise"}
