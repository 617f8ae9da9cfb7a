"""The page of proofs says what the tests compare, and leaves out nothing that is public."""

import re

import pytest

import fnn
from tests import cases, proofs
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
        proofs.proofs_of("fnn.nothing", [], 0)
