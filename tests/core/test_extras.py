"""Packages that fnn can do without: whoever needs one says so in words that users know."""

import ast
import functools
import re
import tomllib
from pathlib import Path

import pytest

import fnn
from fnn._core.extras import require
from fnn.cli import CALLED

ROOT = Path(fnn.__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
# By module, where the name of the package is another; ONNX's own comes with what makes its files.
PACKAGES = {"orbax": "orbax-checkpoint", "onnx_ir": "jax2onnx"}


def callers():
    """Every call with literal arguments: module, who needs it, and the extra that brings it."""
    for file in sorted((ROOT / "fnn").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
                words = [getattr(word, "value", None) for word in node.args]
                if len(words) > 1 and all(isinstance(word, str) for word in words):
                    yield *words[:2], words[2] if len(words) > 2 else "run"


CALLERS = sorted(set(callers()))


@pytest.mark.parametrize(("module", "where", "extra"), CALLERS)
def test_who_needs_a_package_is_a_public_name_and_its_extra_brings_it(module, where, extra):
    assert functools.reduce(getattr, where.split("."), fnn)
    package = module.split(".")[0]
    package = PACKAGES.get(package, package).replace("_", "-").lower()
    assert package in {re.split(r"[<>=\[]", one)[0].lower() for one in EXTRAS[extra]}


def test_the_calls_are_seen():
    assert ("tqdm", "fit", "run") in CALLERS
    assert {extra for *_, extra in CALLERS} >= {"run", "onnx", "private", "text", "log", "export"}


@pytest.mark.parametrize(("where", "said"), [("fit", "fnn.fit"), (CALLED, "python -m fnn")])
def test_what_is_missing_is_said_by_the_name_that_users_call(where, said):
    with pytest.raises(ImportError, match=rf"^{said}: expected the package nowhere, got none"):
        require("nowhere.at_all", where)
