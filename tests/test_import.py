import subprocess
import sys
from pathlib import Path

import pytest

import fnn

PACKAGES = (fnn, fnn.losses, fnn.optim)
NAMES = {package.__name__: package for package in PACKAGES}


def imported(code):
    """Run code in a fresh interpreter, and return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout


@pytest.mark.parametrize("package", PACKAGES, ids=NAMES)
def test_every_public_name_is_listed_and_there(package):
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is getattr(package, name)


@pytest.mark.parametrize("package", PACKAGES, ids=NAMES)
def test_no_name_but_a_module_is_that_of_a_module(package):
    """Else importing the module would put it in the name's place."""
    folder = Path(package.__file__).parent
    modules = {path.stem for path in folder.iterdir()}
    for name in modules.intersection(package.__all__) - {"reversible"}:
        assert getattr(package, name).__name__ == f"{package.__name__}.{name}"


@pytest.mark.parametrize("package", PACKAGES, ids=NAMES)
def test_an_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nil'"):
        package.nil  # noqa: B018 -- the look-up is the test


def test_import_leaves_to_those_who_ask_what_is_rarely_needed():
    code = "import fnn, sys; print(*[name for name in sys.modules if name.startswith('fnn.')])"
    loaded = set(imported(code).split())
    assert "fnn.layers.dense" in loaded
    for name in ("layers.attention", "layers.norm", "losses.alignment", "optim.draw", "plot"):
        assert f"fnn.{name}" not in loaded


def test_names_on_demand_are_imported_by_name():
    code = "from fnn.optim import adam, schedule; from fnn.losses import ctc; from fnn import lstm"
    names = "(adam.__name__, schedule.__name__, ctc.__name__, lstm.__name__)"
    assert imported(f"{code}; print(*{names})").split() == [
        "adam", "fnn.optim.schedule", "ctc", "lstm",
    ]  # fmt: skip
