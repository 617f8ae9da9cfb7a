"""The site builds without a warning, holds every public name, and needs no network."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_import import PACKAGES

pytestmark = pytest.mark.once
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages by their names, as they are built with warnings, such as dead links, as errors."""
    site = tmp_path_factory.mktemp("site")
    words = ["-m", "mkdocs", "build", "--strict", "-q", "-f", ROOT / "docs/mkdocs.yml", "-d", site]
    run = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return {path.relative_to(site).as_posix(): path.read_text("utf-8")
            for path in site.rglob("*.html")}  # fmt: skip


def test_every_public_name_has_a_place_and_is_listed(pages):
    index = pages["api/index.html"]
    missing = []
    for package in PACKAGES:
        page = f"{package.__name__.removeprefix('fnn.')}.html"
        for name in package.__all__:
            thing, full = getattr(package, name), f"{package.__name__}.{name}"
            if inspect.ismodule(thing):
                continue
            if f'id="{full}"' not in pages[f"api/{page}"] or f'"{page}#{full}"' not in index:
                missing.append(full)
    assert missing == []


def test_no_page_fetches_anything_from_elsewhere(pages):
    loads = r"<(?:script|link|img|iframe|source)[^>]*?(?:src|href)=[\"']?(https?:|//)[^>]*>"
    found = [f"{name}: {one.group()}" for name in pages for one in re.finditer(loads, pages[name])]
    assert found == []


def test_every_page_says_something_and_formulas_stand_as_they_are_written(pages):
    plain = {name: re.sub(r"<[^>]+>", "", text) for name, text in pages.items()}
    assert [name for name in plain if len(plain[name]) < 500 and name != "404.html"] == []
    assert "sum_i x[..., i] weight[i, o] + bias[o]" in plain["api/fnn.html"]
    assert {"index.html", "concepts.html", "own.html", "speed.html", "api/losses.html"} <= {*pages}
