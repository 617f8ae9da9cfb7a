"""Every layer and loss lowers for platforms that nobody here owns, at any batch size."""

from __future__ import annotations

import pytest

from tests import cases
from tests.export import platforms
from tests.export.platforms import COLUMNS, LOWERS


def shown():
    """The first case of every public layer and loss: others differ in options."""
    seen, chosen = set(), []
    made = platforms.cases()
    for case, (name, make) in zip([*cases.LAYERS, *cases.LOSSES], made, strict=True):
        new = cases.makers(case.make()) - seen
        seen |= new
        if new:
            chosen.append(pytest.param(make, id=name))
    return chosen


@pytest.mark.once
@pytest.mark.parametrize("make", shown())
def test_the_gradient_lowers_for_every_platform_at_any_batch_size(make):
    found = platforms.row(make())
    assert found == dict.fromkeys(found, LOWERS)


def test_the_law_sees_what_a_platform_lacks():
    found = platforms.row(platforms.planted())
    lowers = [column for column, cell in found.items() if cell == LOWERS]
    assert lowers == ["cpu manual", "cpu auto"]
    assert all("NotImplementedError" in cell for cell in found.values() if cell != LOWERS)


def test_the_table_has_every_platform_and_way():
    assert {platform for platform, _ in COLUMNS} == {"cpu", "cuda", "rocm", "tpu"}
    assert {way for _, way in COLUMNS} == {"manual", "auto"}
